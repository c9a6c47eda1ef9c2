import pytest
from sqlalchemy import event, text

from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.cli.opened import Unconfirmed, acting
from app.database.problems import CommitsWait
from tests.events.stores import commits_wait

PAUSE = Act(action=Action.PAUSE, kind=Kind.DESTINATION, target="erp")


async def pause(engine, statement="SELECT 1"):
    async with acting(engine, PAUSE) as connection:
        await connection.execute(text(statement))


async def test_a_command_whose_commit_is_not_confirmed_says_that_it_may_have_been_done(engine):
    def lose(_):
        raise ConnectionResetError("Connection lost")

    event.listen(engine.sync_engine, "commit", lose)
    with pytest.raises(Unconfirmed, match=r"did not confirm .*\(Connection lost\)\. It may have been done"):
        await pause(engine)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_while_commits_wait_for_a_standby_a_command_does_nothing_and_says_why(engine):
    await commits_wait(engine)
    with pytest.raises(CommitsWait, match="nothing is committed"):
        await pause(engine, "SELECT pg_sleep(60)")


async def test_a_command_that_fails_before_its_commit_says_only_why(engine):
    with pytest.raises(Exception, match="no_such_table"):
        await pause(engine, "SELECT * FROM no_such_table")

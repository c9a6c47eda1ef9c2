from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from app.database.engines import engine_for, is_sqlite
from app.deliveries.tables import Destination
from app.web.transactions import DatabaseAway, changing, reading
from tests.events.stores import commits_wait

BRIEF = timedelta(seconds=0.2)
LONG = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1e9) SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(60)",
}
NEW = insert(Destination).values(name="erp", since=datetime(2026, 8, 12, tzinfo=UTC))


async def execute_in(transaction, statement) -> None:
    async with transaction as connection:
        await connection.execute(statement)


@pytest.mark.parametrize("transaction", [reading, changing])
async def test_a_statement_that_takes_too_long_is_ended_and_is_503(engine, transaction):
    began = monotonic()
    with pytest.raises(DatabaseAway) as refused:
        await execute_in(transaction(engine, within=BRIEF), text(LONG[engine.dialect.name]))
    assert monotonic() - began < 50  # the statement takes a minute
    assert refused.value.headers["Retry-After"] == "10"
    async with reading(engine) as connection:
        assert await connection.scalar(select(1)) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_postgresql_ends_what_takes_too_long_itself_so_that_the_connection_stays(engine):
    async def backend() -> int:
        async with reading(engine) as connection:
            return int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)

    before = await backend()
    with pytest.raises(DatabaseAway):
        await execute_in(reading(engine, within=BRIEF), text(LONG["postgresql"]))
    assert await backend() == before


async def test_a_deadline_is_for_its_own_transaction_only(engine):
    async with reading(engine, within=BRIEF) as connection:
        await connection.scalar(select(1))
    if engine.dialect.name == "postgresql":
        async with engine.connect() as connection:
            assert await connection.scalar(text("SHOW statement_timeout")) == "0"


@pytest.mark.parametrize("transaction", [reading, changing])
async def test_a_database_that_is_away_is_503(tmp_path, database_url, transaction):
    url = "postgresql+asyncpg://nobody@127.0.0.1:1/nothing"
    if is_sqlite(database_url):
        (tmp_path / "broken.db").write_bytes(b"no database " * 1000)
        url = f"sqlite+aiosqlite:///{tmp_path / 'broken.db'}"
    async with engine_for(url) as engine:
        with pytest.raises(DatabaseAway):
            await execute_in(transaction(engine), text("SELECT count(*) FROM events"))


async def test_a_mistake_of_ours_is_not_taken_for_the_databases_trouble(engine):
    await execute_in(changing(engine), NEW)
    with pytest.raises(IntegrityError):
        await execute_in(changing(engine), NEW)


async def test_what_was_refused_changes_nothing(engine):
    async def refuse() -> None:
        async with changing(engine) as connection:
            await connection.execute(NEW)
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        await refuse()
    async with reading(engine) as connection:
        assert await connection.scalar(select(Destination.name)) is None


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_while_commits_wait_for_a_standby_nothing_is_changed_and_the_answer_says_so(engine):
    await commits_wait(engine)
    with pytest.raises(DatabaseAway) as refused:
        await execute_in(changing(engine), NEW)
    assert refused.value.description.startswith("Nothing was changed")
    async with reading(engine) as connection:
        assert await connection.scalar(select(Destination.name)) is None

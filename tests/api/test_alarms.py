from datetime import timedelta

from app.alarms.changes import Changes
from app.alarms.kept import keep
from app.database.writing import writing
from app.settings.clients import Scope
from tests.cli.test_alarms import FIRING, NOW
from tests.conftest import bearer_header

READ = bearer_header("reader", Scope.READ)


async def test_alarms_that_fire_and_those_that_ended_are_listed(client, engine):
    async with writing(engine) as connection:
        await keep(connection, Changes([FIRING], [], [], []), [], now=NOW)
        await keep(connection, Changes([], [], [FIRING], []), [], now=NOW + timedelta(minutes=1))
    shown = (await client.get("/api/alarms", headers=READ)).json()
    assert shown["firing"] == []
    (ended,) = shown["ended"]
    assert (ended["id"], ended["what"]) == (str(FIRING.id), FIRING.what)


async def test_a_stranger_gets_no_alarms(client):
    assert (await client.get("/api/alarms")).status_code == 401

import pytest
from sqlalchemy import text

from app.database.schema import known_revisions
from app.database.writing import writing
from app.settings.clients import Scope
from tests.conftest import bearer_header

READ = bearer_header("reader", Scope.READ)
ERP = {"erp": {"url": "https://erp.example/in"}}


async def test_the_status_is_answered_with_what_was_read(client):
    reply = await client.get("/api/status", headers=READ)
    assert reply.status_code == 200
    shown = reply.json()
    assert (shown["well"], shown["findings"]) == (True, [])
    assert shown["readings"]["undispatched"] == {"events": 0, "oldest_at": None, "oldest": None}


async def test_a_destination_without_a_worker_is_not_well(database_url, start):
    async with start(database_url, destinations=ERP) as client:
        shown = (await client.get("/api/status", headers=READ)).json()
    assert (shown["well"], [each["name"] for each in shown["findings"]]) == (False, ["no_worker"])
    assert shown["findings"][0]["command"] == "priohook worker"


async def test_a_stranger_gets_no_status(client):
    assert (await client.get("/api/status")).status_code == 401


async def test_what_a_consumer_answered_is_not_shown_to_a_client_that_may_not_list_deliveries(
    database_url, start, workers
):
    await workers.store("PRI1")
    await workers.dispatch()
    for _ in range(3):
        (claim,) = (await workers.turn()).claims
        await workers.turn(workers.ended(claim, None, error="ValueError: Jan Jansen"))
        workers.wait(40_000)
    async with start(database_url, destinations=ERP) as client:
        reply = await client.get("/api/status", headers=READ)
        listed = await client.get("/api/destinations", headers=READ)
        replaying = await client.get("/api/destinations", headers=bearer_header("operator", Scope.REPLAY))
    assert "held_back" in [each["name"] for each in reply.json()["findings"]]
    assert "Jan Jansen" not in reply.text
    assert (listed.status_code, "Jan Jansen" in replaying.text) == (403, True)


@pytest.fixture
async def schema_at(engine):
    """`await schema_at("0001")` says that the database is at this migration."""

    async def put(revision):
        async with writing(engine) as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})

    yield put
    await put(known_revisions()[-1])


@pytest.mark.parametrize(
    ("revision", "told"),
    [
        ("0001", "The database is at 0001, but this release needs {head}: run `priohook migrate`."),
        (
            "9999",
            "The database is at 9999, but this release knows only {head}: use the newer release that migrated it.",
        ),
    ],
)
async def test_a_schema_that_is_not_this_releases_is_503_in_the_words_of_the_command(client, schema_at, revision, told):
    await schema_at(revision)
    reply = await client.get("/api/status", headers=READ)
    assert reply.status_code == 503
    assert told.format(head=known_revisions()[-1]) in reply.text

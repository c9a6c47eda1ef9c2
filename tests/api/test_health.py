import asyncio
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.database.engines import TRIGGERS, engine_for
from app.database.health import Health, watching
from app.database.schema import known_revisions
from app.events.rows import Row
from app.events.store import EventStore, StoreUnavailable
from tests.conftest import WEBHOOK, basic_header, payload, readiness
from tests.e2e.proxy import GARBAGE, through_proxy
from tests.events.stores import locked, new_event, writer_for

ORDER = payload("01-notification-order-create")
SET_REVISION = text("UPDATE alembic_version SET version_num = :revision")


def events_of(caplog) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("database_")]


def test_what_is_lost_and_back_is_told_once_each(caplog):
    health = Health()
    for _ in range(3):
        health.fails("commits", "It does not answer.", error=ConnectionError("10.0.0.1 refused"))
        health.fails("schema", "It does not answer.")
    assert health.problem == "It does not answer."
    health.works("commits")
    assert health.problem is not None
    health.works("schema")
    health.works("schema")
    assert health.problem is None
    assert events_of(caplog) == ["database_lost", "database_back"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


async def test_a_database_that_takes_no_writes_is_not_ready_until_it_does_again(database_url, start):
    async with start(database_url, commit_timeout=timedelta(seconds=1)) as client:
        await readiness(client, 200)
        async with locked(database_url):
            assert "commit" in (await readiness(client, 503)).json()["error_description"]
        await readiness(client, 200)


async def test_readiness_waits_for_nothing(database_url, start, engine):
    async with start(database_url) as client, locked(database_url):
        # In one turn of the event loop or a few: a look at the database takes hundreds.
        asking = asyncio.create_task(client.get("/readyz"))
        for _ in range(50):
            await asyncio.sleep(0)
        assert asking.done()


async def test_a_database_without_a_table_is_not_ready(database_url, start, engine):
    async with start(database_url) as client:
        await readiness(client, 200)
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE events RENAME TO gone"))
        try:
            reply = await readiness(client, 503)
        finally:
            async with engine.begin() as connection:
                await connection.execute(text("ALTER TABLE gone RENAME TO events"))
        assert "gone" not in reply.text
        assert "relation" not in reply.text
        await readiness(client, 200)
        posted = await client.post(WEBHOOK, content=ORDER, headers=basic_header())
        assert posted.status_code == 200


class FullDisk:
    """A database whose disk is full: a statement without rows still succeeds."""

    def __init__(self) -> None:
        self.full = True
        self.probes: list[bool] = []

    async def write(self, rows: Sequence[Row]) -> dict[bytes, UUID]:
        if self.full:
            raise OSError("No space left on device")
        return {row.event.dedup_key: row.event.id for row in rows}

    async def probe(self, *, thorough: bool) -> None:
        self.probes.append(thorough)
        if self.full and thorough:
            raise OSError("No space left on device")

    async def close(self) -> None:
        pass


async def test_after_a_failed_commit_only_one_that_reaches_the_disk_says_that_it_works_again(caplog):
    writer, health = FullDisk(), Health()
    store = EventStore(
        writer,
        max_batch=9,
        max_waiting=9,
        max_waiting_bytes=10**6,
        timeout=timedelta(seconds=5),
        health=health,
    )
    async with asyncio.timeout(30), store.running():
        with pytest.raises(Exception, match="could not be stored"):
            await store.append(new_event("one"))
        while len(writer.probes) < 3:  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.05)
        assert health.problem is not None
        writer.full = False
        while health.problem is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert writer.probes[1:3] == [True, True]
    assert events_of(caplog) == ["database_lost", "database_back"]


class SlowDatabase(FullDisk):
    """One that commits nothing before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.moves = asyncio.Event()

    async def write(self, rows: Sequence[Row]) -> dict[bytes, UUID]:
        await self.moves.wait()
        return await super().write(rows)


async def test_a_database_that_is_slow_is_ready_until_a_sender_has_waited_in_vain(caplog):
    writer, health = SlowDatabase(), Health()
    store = EventStore(
        writer, max_batch=9, max_waiting=9, max_waiting_bytes=10**6, timeout=timedelta(seconds=1.5), health=health
    )
    async with asyncio.timeout(30), store.running():
        waiting = asyncio.create_task(store.append(new_event("one")))
        while health.problem is None:  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.05)
        await asyncio.sleep(0)  # the waiting task may wake in the same turn of the loop
        assert waiting.done()
        assert health.problem == "A commit has taken more than 1.5 seconds."
        writer.moves.set()
        while health.problem is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    with pytest.raises(StoreUnavailable):
        await waiting
    assert events_of(caplog) == ["database_lost", "database_back"]


async def test_a_trial_of_a_commit_stores_nothing(database_url, count):
    writer = writer_for(database_url)
    try:
        await writer.probe(thorough=False)
        await writer.probe(thorough=True)
    finally:
        await writer.close()
    assert await count() == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_server_that_does_not_fsync_is_ready_and_says_so(database_url, start, engine, lines):
    async with engine.connect() as connection:
        off = await connection.scalar(text("SHOW fsync")) == "off"
    async with start(database_url) as client, asyncio.timeout(30):
        while off and not (reply := await client.get("/readyz")).json().get("warnings"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        if off:
            assert "fsync=off" in reply.json()["warnings"][0]
    warned = [line for line in lines() if line["event"] == "promise_weakened"]
    assert len(warned) == off


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("trigger", TRIGGERS)
async def test_a_disabled_trigger_that_keeps_events_from_being_delivered_is_told(
    database_url, start, engine, lines, trigger
):
    expected = f"The trigger {trigger} on the table events is disabled or missing"
    async with start(database_url) as client, asyncio.timeout(30):
        async with engine.begin() as connection:
            await connection.execute(text(f"ALTER TABLE events DISABLE TRIGGER {trigger}"))
        try:
            while expected not in (reply := await client.get("/readyz")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        finally:
            async with engine.begin() as connection:
                await connection.execute(text(f"ALTER TABLE events ENABLE TRIGGER {trigger}"))
        assert reply.status_code == 200, "events are stored, and a replay delivers them"
        while expected in (await client.get("/readyz")).text:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    told = [line["reason"] for line in lines() if line["event"] == "promise_weakened"]
    assert sum(reason.startswith(expected) for reason in told) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_parameters_of_the_url_that_change_nothing_are_told(database_url, start, lines):
    async with start(f"{database_url}?channel_binding=prefer&connect_timeout=10"):
        pass
    (told,) = [line for line in lines() if line["event"] == "database_parameters_ignored"]
    assert told["parameters"] == ["channel_binding"]


async def test_a_worker_tells_once_that_its_database_is_lost_and_back(database_url, caplog):
    health = Health()
    async with engine_for(database_url) as engine, asyncio.timeout(60), watching(engine, health, commits=False):
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE alembic_version RENAME TO gone"))
        while health.problem is None:  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.05)
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE gone RENAME TO alembic_version"))
        while health.problem is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert events_of(caplog) == ["database_lost", "database_back"]


async def test_a_worker_looks_again_after_answers_that_are_not_postgresqls(postgres_url):
    health = Health()
    async with (
        asyncio.timeout(60),
        through_proxy(postgres_url) as (url, proxy),
        engine_for(url) as engine,
        watching(engine, health, commits=False, every=0.05),
    ):
        proxy.garbling = GARBAGE
        while health.problem is None:  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.05)
        proxy.garbling = b""
        while health.problem is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_schema_that_lacks_migrations_is_told_of_once(database_url, caplog):
    health = Health()
    async with engine_for(database_url) as engine, asyncio.timeout(60):
        async with engine.begin() as connection:
            await connection.execute(SET_REVISION, {"revision": "0001"})
        async with watching(engine, health, commits=False, every=0):
            while health.problem is None:  # noqa: ASYNC110 - another task's doing
                await asyncio.sleep(0.05)
        async with engine.begin() as connection:
            await connection.execute(SET_REVISION, {"revision": known_revisions()[-1]})
    (line,) = [record for record in caplog.records if record.message == "schema_behind"]
    assert "run `priohook migrate`" in line.fields["reason"]


async def test_a_receiver_that_commits_is_ready_whatever_keeps_others_from_connecting():
    """As others do that take all connections but the one that commits."""
    health = Health()
    async with engine_for("postgresql://nobody@127.0.0.1:1/nothing") as engine:
        async with watching(engine, health, commits=True):
            await asyncio.sleep(0.2)  # it asks at once, and nobody answers
        assert health.problem is None
        async with watching(engine, health, commits=False), asyncio.timeout(30):
            while health.problem is None:  # noqa: ASYNC110 - another task's doing
                await asyncio.sleep(0.05)


async def test_with_a_spool_it_stays_ready_while_the_database_is_away_and_says_so(postgres_url, start, tmp_path):
    async with start(postgres_url, commit_timeout=timedelta(seconds=1), spool=tmp_path) as client:
        assert (await readiness(client, 200)).json()["status"] == "ready"
        async with locked(postgres_url):
            reply = await client.post(WEBHOOK, content=ORDER, headers=basic_header())
            refused = await client.post(WEBHOOK, content=b"{", headers=basic_header())
            assert (reply.status_code, refused.status_code) == (200, 400)
            spooling = (await client.get("/readyz")).json()
            assert (spooling["status"], spooling["spooled"]) == ("spooling", 2)
        await ready_again(client)
    async with engine_for(postgres_url) as engine, engine.connect() as connection:
        assert set(await connection.scalars(text("SELECT status FROM events"))) == {"accepted", "quarantined"}


async def test_with_a_full_spool_it_is_not_ready(postgres_url, start, tmp_path):
    async with start(postgres_url, commit_timeout=timedelta(seconds=1), spool=tmp_path, spool_max_bytes=1) as client:
        async with locked(postgres_url):
            assert (await client.post(WEBHOOK, content=ORDER, headers=basic_header())).status_code == 200
            reply = await client.post(WEBHOOK, content=ORDER, headers=basic_header())
            assert reply.status_code == 503
            assert "spool is full" in reply.text
            assert "Retry-After" in reply.headers
            await readiness(client, 503)
        await ready_again(client)


async def test_with_a_spool_it_starts_and_receives_while_the_database_is_away(start, tmp_path, lines):
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    async with start(nowhere, spool=tmp_path) as client:
        assert (await client.post(WEBHOOK, content=ORDER, headers=basic_header())).status_code == 200
        ready = (await readiness(client, 200)).json()
        assert (ready["status"], ready["spooled"]) == ("spooling", 1)
    assert [line["event"] for line in lines() if line["event"].startswith("spool_")] == ["spool_started"]
    assert len(list(tmp_path.glob("*.db"))) == 1


@pytest.mark.parametrize(("right", "wrong"), [("/priohook_test", "/missing"), ("//priohook@", "//nobody@")])
async def test_a_receiver_that_the_database_refuses_does_not_start_with_a_spool_either(
    postgres_url, start, tmp_path, right, wrong
):
    with pytest.raises(DBAPIError, match="does not exist"):
        async with start(postgres_url.replace(right, wrong), spool=tmp_path):
            pass
    assert list(tmp_path.glob("*.db")) == []


async def ready_again(client: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while (await client.get("/readyz")).json().get("status") != "ready":  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.05)

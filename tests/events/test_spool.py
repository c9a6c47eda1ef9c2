"""The spool on a real PostgreSQL, which the tests stop, freeze and make read-only."""

import asyncio
import gc
import logging
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.database import engines, migrations
from app.database.health import Health
from app.events import spool as spool_module
from app.events.postgres import PostgresWriter
from app.events.rows import NewEvent, Row, Stored
from app.events.spool import EventSpool, SpoolFull
from app.events.spool_contents import content_of
from app.events.spool_file import SpoolFile
from app.events.spool_problems import SpoolProblem
from app.events.spool_rows import Kept
from app.events.store import EventStore, StoreUnavailable
from app.receiver.judgement import without_what_was_read
from tests import postgres
from tests.events.stores import RECEIVED, locked, new_event

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TIMEOUT = timedelta(seconds=1)
PATIENCE = 30.0  # seconds
EVERYTHING: dict[str, Any] = {
    "received_at": NOON,
    "reason": "why",
    "type": "ORDER_CREATE",
    "reference": "PRI1 é 😀",
    "order_version": 2**63 - 1,
    "order_modified": NOON.replace(year=99, microsecond=1),
    "notification_id": "n",
    "api_version": "3.8.0",
    "shape": "both",
    "headers": b"x-odd: a: \x00\xff",
    "body": bytes(range(256)),
    "body_bytes": 5 * 2**30,
}


@pytest.fixture(scope="module")
def own_server() -> Iterator[postgres.Server]:
    with postgres.server() as server:
        asyncio.run(migrate(server.url()))
        yield server


async def migrate(url: str) -> None:
    async with engines.engine_for(url) as engine:
        await migrations.migrate(engine)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def url(own_server: postgres.Server) -> Iterator[str]:
    """An empty database on a server that the test may stop."""
    yield own_server.url()
    asyncio.run(execute(own_server.url(), "TRUNCATE events, undispatched"))


@pytest.fixture
def spooling(url: str, folder: Path) -> Callable[..., Any]:
    """`async with spooling() as (store, spool)`: as the application has them."""

    @asynccontextmanager
    async def spooling(
        *,
        max_bytes: int = 2**30,
        max_batch: int = 256,
        max_waiting: int = 4096,
        moved: Callable[[int], None] = lambda _: None,
        before: Callable[[], Awaitable[None]] | None = None,
        url: str = url,
        health: Health | None = None,
    ) -> AsyncIterator[tuple[EventStore, EventSpool]]:
        health = health or Health()
        bounds: dict[str, Any] = {
            "max_batch": max_batch,
            "max_waiting": max_waiting,
            "max_waiting_bytes": 2**25,
            "timeout": TIMEOUT,
        }
        spool = EventSpool(
            folder,
            max_bytes=max_bytes,
            unread=without_what_was_read,
            health=health,
            before=before,
            moved=moved,
            **bounds,
        )
        store = EventStore(PostgresWriter(url, timeout=TIMEOUT), health=health, spool=spool, **bounds)
        async with store.running():
            yield store, spool

    return spooling


async def execute(url: str, statement: str, *values: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


async def execute_script(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


async def stored(url: str) -> list[asyncpg.Record]:
    return await execute(url, "SELECT * FROM events ORDER BY id")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.02)


@asynccontextmanager
async def away(server: postgres.Server) -> AsyncIterator[None]:
    await asyncio.to_thread(server.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(server.start)


@contextmanager
def frozen(server: postgres.Server) -> Iterator[None]:
    for pid in (server.pid, *server.children()):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in (server.pid, *server.children()):
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def read_only(url: str) -> AsyncIterator[None]:
    """A database that takes no writes, in sessions that are open already too."""
    await execute(url, "ALTER DATABASE postgres SET default_transaction_read_only = on")
    await execute(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'priohook'")
    try:
        yield
    finally:
        connection = await asyncpg.connect(url)
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
        await connection.close()


def in_files(folder: Path) -> list[str]:
    """The references of the events in the spool, the first to arrive first."""
    found: list[str] = []
    for path in sorted(folder.glob("*.db")):
        with closing(sqlite3.connect(path)) as file:
            found += [reference for (reference,) in file.execute("SELECT reference FROM spooled ORDER BY position")]
    return found


def named(number: int, **columns: Any) -> NewEvent:
    return new_event(f"event {number}", reference=f"R{number}", **columns)


async def left_behind(folder: Path, events: Sequence[NewEvent]) -> None:
    """What a receiver leaves that ended while PostgreSQL was away."""
    file = await asyncio.to_thread(SpoolFile.make, folder)
    for event in events:
        await file.write([Row(event)])
    await file.close()


async def test_events_are_answered_while_postgresql_is_away_and_stored_as_they_are_later(
    own_server, url, folder, spooling
):
    given = [new_event("whole", **EVERYTHING), named(1), named(2, status="quarantined", reason="400: why")]
    async with spooling() as (store, spool):
        async with away(own_server):
            answers = [await store.append(event) for event in given]
            assert answers == [Stored(event.id, duplicate=False) for event in given]
            assert spool.active
            assert in_files(folder) == [event.reference for event in given]
        await until(lambda: not spool.active)
        assert in_files(folder) == []
        assert not any(b"PRI1" in path.read_bytes() for path in folder.iterdir())
        after = named(3)
        await store.append(after)
    rows = {row["id"]: dict(row) for row in await stored(url)}
    assert set(rows) == {event.id for event in (*given, after)}
    for event in given:
        added = {"duplicates": 0, "last_duplicate_at": None, "released_at": None, **RECEIVED}
        assert rows[event.id] == event._asdict() | added | {"position": rows[event.id]["position"]}
    assert list(folder.iterdir()) == []


async def test_while_postgresql_is_frozen_the_first_events_wait_for_it_and_others_do_not(own_server, url, spooling):
    loop = asyncio.get_running_loop()
    events = [named(number) for number in range(9)]
    async with spooling() as (store, spool):
        await store.append(events[0])
        with frozen(own_server):
            first = await asyncio.gather(*(store.append(event) for event in events[1:5]))
            began = loop.time()
            later = [await store.append(event) for event in events[5:]]
            waited = loop.time() - began
        await until(lambda: not spool.active)
    assert {answer.id for answer in (*first, *later)} == {event.id for event in events[1:]}
    assert waited < len(later) * TIMEOUT.total_seconds()
    assert [row["id"] for row in await stored(url)] == [event.id for event in events]
    assert {row["duplicates"] for row in await stored(url)} == {0}


async def test_a_database_that_turns_read_only_and_back_costs_nothing(url, spooling):
    async with spooling() as (store, spool):
        await store.append(named(0))
        async with read_only(url):
            for number in range(1, 5):
                await store.append(named(number))
            assert spool.active
        await until(lambda: not spool.active)
    assert [row["reference"] for row in await stored(url)] == [f"R{number}" for number in range(5)]


async def test_a_locked_table_is_waited_for_no_longer_than_the_timeout(url, spooling):
    async with spooling() as (store, spool):
        async with locked(url):
            await asyncio.gather(*(store.append(named(number)) for number in range(3)))
            assert spool.active
            await store.append(named(3))
        await until(lambda: not spool.active)
    assert len(await stored(url)) == 4


async def test_copies_in_the_spool_are_counted_there(own_server, url, spooling):
    first, *copies = (new_event("copy", received_at=NOON + number * MINUTE) for number in range(4))
    async with spooling() as (store, spool):
        async with away(own_server):
            assert await store.append(first) == Stored(first.id, duplicate=False)
            for copy in copies:
                assert await store.append(copy) == Stored(first.id, duplicate=True)
        await until(lambda: not spool.active)
    (row,) = await stored(url)
    assert (row["id"], row["duplicates"], row["last_duplicate_at"]) == (first.id, 3, NOON + 3 * MINUTE)


async def test_a_copy_of_a_stored_event_is_counted_on_it(own_server, url, spooling):
    first, copy = new_event("copy"), new_event("copy")
    async with spooling() as (store, spool):
        await store.append(first)
        async with away(own_server):
            await store.append(copy)
        await until(lambda: not spool.active)
    (row,) = await stored(url)
    assert (row["id"], row["duplicates"], row["last_duplicate_at"]) == (first.id, 1, copy.received_at)


async def test_the_same_notification_after_ten_minutes_is_another_event_in_the_spool_too(own_server, url, spooling):
    times = [NOON, NOON + 9 * MINUTE, NOON + 11 * MINUTE, NOON + 12 * MINUTE]
    events = [new_event("same", received_at=time, shape="notification") for time in times]
    async with spooling() as (store, spool):
        async with away(own_server):
            answers = [await store.append(event) for event in events]
        await until(lambda: not spool.active)
    assert [answer.duplicate for answer in answers] == [False, True, False, True]
    assert [(row["id"], row["duplicates"]) for row in await stored(url)] == [(events[0].id, 1), (events[2].id, 1)]


async def test_an_older_notification_than_the_stored_one_is_an_event_of_its_own(url, folder, spooling):
    old, near, stored_one = (
        new_event("same", received_at=NOON + after * MINUTE, shape="notification") for after in (0, 9, 15)
    )
    async with spooling() as (store, _):
        await store.append(stored_one)
    await left_behind(folder, [old])
    await left_behind(folder, [near])
    async with spooling() as (_, spool):
        await until(lambda: not spool.active)
    assert [(row["id"], row["duplicates"]) for row in await stored(url)] == [(old.id, 0), (stored_one.id, 1)]


async def test_an_event_that_is_in_both_becomes_one(url, folder, spooling):
    event = named(1)
    async with spooling() as (store, _):
        await store.append(event)
    for _ in range(2):
        await left_behind(folder, [event, named(2)])
        async with spooling() as (_, spool):
            await until(lambda: not spool.active)
    assert [(row["id"] == event.id, row["duplicates"]) for row in await stored(url)] == [(True, 0), (False, 1)]


async def test_an_event_in_both_that_was_released_from_quarantine_becomes_one(url, folder, spooling):
    event = named(1, status="quarantined", reason="400: why")
    async with spooling() as (store, _):
        await store.append(event)
    await execute(url, "UPDATE events SET dedup_key = '\\x01', status = 'accepted'")
    await left_behind(folder, [event])
    async with spooling() as (_, spool):
        await until(lambda: not spool.active)
    (row,) = await stored(url)
    assert (row["id"], row["status"], row["duplicates"]) == (event.id, "accepted", 0)
    assert list(folder.iterdir()) == []


async def test_what_earlier_receivers_left_is_moved_before_new_events(url, folder, spooling):
    await left_behind(folder, [named(number) for number in range(300)])
    await left_behind(folder, [named(number) for number in range(300, 310)])
    order: list[str] = []
    await execute(url, "CREATE SEQUENCE arrivals")
    await execute(url, "ALTER TABLE events ADD place int DEFAULT nextval('arrivals')")
    try:
        async with spooling() as (store, spool):
            await asyncio.gather(*(store.append(named(number)) for number in range(310, 320)))
            await until(lambda: not spool.active)
            rows = await execute(url, "SELECT reference FROM events ORDER BY xmin::text::bigint, id")
            order = [row["reference"] for row in rows]
    finally:
        await execute(url, "ALTER TABLE events DROP place")
        await execute(url, "DROP SEQUENCE arrivals")
    assert order == [f"R{number}" for number in range(320)]
    assert list(folder.iterdir()) == []


async def test_ids_go_on_after_those_that_an_earlier_receiver_left(folder, url, spooling):
    future = datetime.now(UTC) + timedelta(days=1)
    await left_behind(folder, [named(1, received_at=future)])
    async with spooling() as (store, spool):
        event = named(2)
        await store.append(event)
        await until(lambda: not spool.active)
    assert [row["reference"] for row in await stored(url)] == ["R1", "R2"]


async def test_a_file_that_a_living_process_has_is_left_alone(url, folder, spooling):
    living = await asyncio.to_thread(SpoolFile.make, folder)
    await living.write([Row(named(1))])
    for path in folder.iterdir():
        if not path.name.startswith(living.path.name):  # what an operator might take for a leftover
            path.unlink()
    async with spooling() as (_, spool):
        assert not spool.active
    assert await stored(url) == []
    await living.close()
    assert in_files(folder) == ["R1"]


async def test_what_another_receiver_leaves_meanwhile_is_adopted(url, folder, spooling, monkeypatch):
    monkeypatch.setattr(spool_module, "ADOPT_EVERY", 0.05)
    async with spooling() as (_, spool):
        await left_behind(folder, [named(1)])
        await until(lambda: not in_files(folder))
        await until(lambda: not spool.active)
    assert [row["reference"] for row in await stored(url)] == ["R1"]


async def test_a_receiver_that_ends_while_postgresql_is_away_leaves_its_events_for_the_next(
    own_server, url, folder, spooling
):
    async with away(own_server):
        async with spooling() as (store, _):
            await store.append(named(1))
            waiting = asyncio.create_task(store.append(named(2)))
            await asyncio.sleep(0)
        assert await waiting
        assert in_files(folder) == ["R1", "R2"]
        async with spooling() as (store, _):
            await store.append(named(3))
    async with spooling() as (store, spool):
        await store.append(named(4))
        await until(lambda: not spool.active)
    assert [row["reference"] for row in await stored(url)] == ["R1", "R2", "R3", "R4"]


async def test_a_full_spool_refuses_and_goes_on_when_postgresql_is_back(own_server, url, spooling):
    async with spooling(max_bytes=3 * 2048) as (store, spool):
        async with away(own_server):
            for number in range(3):
                await store.append(named(number, body=bytes(2048)))
            assert not spool.takes_events
            with pytest.raises(SpoolFull):
                await store.append(named(3))
        await until(lambda: not spool.active)
        await store.append(named(3))
    assert len(await stored(url)) == 4


async def test_a_row_that_no_database_takes_is_refused_at_once(own_server, url, spooling):
    async with spooling() as (store, spool):
        async with away(own_server):
            bad = named(1, order_version=2**70)
            results = await asyncio.gather(*map(store.append, (named(0), bad, named(2))), return_exceptions=True)
            assert [isinstance(result, StoreUnavailable) for result in results] == [False, True, False]
        await until(lambda: not spool.active)
    assert [row["reference"] for row in await stored(url)] == ["R0", "R2"]


async def test_an_event_whose_content_postgresql_refuses_is_moved_to_quarantine(own_server, url, folder, spooling):
    async with spooling() as (store, spool):
        async with away(own_server):
            for event in (named(0), named(1)._replace(reference="\0"), named(2)):
                await store.append(event)
        await until(lambda: not spool.active)
    found = [(row["reference"], row["status"]) for row in await stored(url)]
    assert found == [("R0", "accepted"), (None, "quarantined"), ("R2", "accepted")]
    assert list(folder.iterdir()) == []


async def test_an_event_that_a_trigger_leaves_out_is_moved_to_quarantine(url, folder, spooling):
    await left_behind(folder, [named(0), named(1), named(2)])
    await execute_script(
        url,
        """
        CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER leave_out BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.reference = 'R1')
            EXECUTE FUNCTION leave_out();
        """,
    )
    try:
        async with spooling() as (_, spool):
            await until(lambda: not spool.active)
    finally:
        await execute_script(url, "DROP TRIGGER leave_out ON events; DROP FUNCTION leave_out")
    found = [(row["reference"], row["status"]) for row in await stored(url)]
    assert found == [("R0", "accepted"), (None, "quarantined"), ("R2", "accepted")]
    assert list(folder.iterdir()) == []


async def test_an_event_that_postgresql_refuses_altogether_stays_in_its_file(
    url, folder, spooling, caplog, monkeypatch
):
    monkeypatch.setattr(spool_module, "ADOPT_EVERY", 0.05)
    await left_behind(folder, [named(0), named(1, status="unheard of", client="bad"), named(2)])
    await execute(url, "ALTER TABLE events ADD CONSTRAINT no_bad CHECK (client <> 'bad')")
    try:
        async with spooling() as (store, spool):
            await until(lambda: not spool.active)
            await store.append(named(3))
            await left_behind(folder, [named(4)])  # a later look adopts this one only
            await until(lambda: in_files(folder) == ["R1"])
            await until(lambda: not spool.active)
    finally:
        await execute(url, "ALTER TABLE events DROP CONSTRAINT no_bad")
    assert [row["reference"] for row in await stored(url)] == ["R0", "R2", "R3", "R4"]
    assert in_files(folder) == ["R1"]
    # Once; on a slow machine a move that took too long is tried again. The many later looks leave it alone.
    assert [record.message for record in caplog.records].count("spool_refused") in (1, 2)
    async with spooling() as (_, spool):
        await until(lambda: not spool.active)
    assert len(await stored(url)) == 5
    assert list(folder.iterdir()) == []


async def test_a_damaged_file_is_named_and_stops_nothing(url, folder, spooling, caplog):
    (folder / "spool-damaged.db").write_bytes(b"not a database" * 1000)
    await left_behind(folder, [named(0)])
    async with spooling() as (store, spool):
        await store.append(named(1))
        await until(lambda: not spool.active)
    assert [row["reference"] for row in await stored(url)] == ["R0", "R1"]
    (record,) = [record for record in caplog.records if record.message == "spool_file_unusable"]
    assert record.levelno == logging.ERROR
    assert (folder / "spool-damaged.db").exists()


async def test_a_spool_whose_file_was_removed_goes_on_with_another(own_server, url, folder, spooling):
    async with spooling() as (store, spool):
        async with away(own_server):
            await store.append(named(0))
            for path in folder.iterdir():
                path.unlink()
            await store.append(named(1))
            await store.append(named(2))
        await until(lambda: not spool.active)
        await store.append(named(3))
    assert [row["reference"] for row in await stored(url)] == ["R0", "R1", "R2", "R3"]


async def test_what_was_moved_and_cannot_be_deleted_takes_no_memory(own_server, url, folder, spooling):
    in_memory: list[int] = []

    def moved(_: int) -> None:
        gc.collect()
        in_memory.append(sum(isinstance(kept, Kept) for kept in gc.get_objects()))

    async with spooling(moved=moved) as (store, spool):
        async with away(own_server):
            await asyncio.gather(*(store.append(named(number)) for number in range(300)))
            for path in folder.iterdir():
                path.unlink()
        await until(lambda: not spool.active)
    assert len(await stored(url)) == 300
    assert len(in_memory) > 1
    assert max(in_memory) < 300


async def test_more_events_than_may_wait_while_the_last_ones_are_moved_go_to_the_spool(url, spooling):
    await execute_script(
        url,
        """
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
        CREATE TRIGGER wait BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.reference = 'R0') EXECUTE FUNCTION wait();
        """,
    )
    try:
        async with spooling(max_waiting=8) as (store, spool):
            holder = await asyncpg.connect(url)
            await holder.execute("SELECT pg_advisory_lock(1)")
            async with locked(url):
                await store.append(named(0))
            waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            async with asyncio.timeout(PATIENCE):
                while not await holder.fetchval(waits):  # noqa: ASYNC110 - the server's doing
                    await asyncio.sleep(0.01)
            await asyncio.gather(*(store.append(named(number)) for number in range(1, 11)))
            assert spool.active
            await holder.close()
            await until(lambda: not spool.active)
            await store.append(named(11))
    finally:
        await execute_script(url, "DROP TRIGGER wait ON events; DROP FUNCTION wait")
    rows = await stored(url)
    assert [row["reference"] for row in rows] == [f"R{number}" for number in range(12)]
    assert {row["duplicates"] for row in rows} == {0}


async def test_a_folder_that_is_missing_is_refused_at_the_start(folder, spooling):
    folder.rmdir()
    with pytest.raises(SpoolProblem, match="not a folder"):
        async with spooling():
            pass


async def test_events_arrive_in_order_while_postgresql_comes_and_goes(own_server, url, folder, spooling):
    """All of one reference: `xmin` is the order of the transactions, and a worker takes events of one by their ids."""
    sent: list[NewEvent] = []

    async with spooling(max_batch=16) as (store, spool):
        ending = asyncio.Event()

        async def send() -> None:
            answers = []
            while not ending.is_set():
                event = named(len(sent), body=bytes(100))._replace(reference="one")
                sent.append(event)
                answers.append(asyncio.create_task(store.append(event)))
                await asyncio.sleep(0.001)
            assert {answer.id for answer in await asyncio.gather(*answers)} == {event.id for event in sent}

        sending = asyncio.create_task(send())
        for _ in range(3):
            await until(lambda: not spool.active)
            async with away(own_server):
                await until(lambda: spool.active)
                await until(lambda: spool.events > 50)
        await until(lambda: not spool.active)
        ending.set()
        await sending
        await until(lambda: not spool.active)
    rows = await execute(url, "SELECT id, duplicates FROM events ORDER BY xmin::text::bigint, id")
    assert [row["id"] for row in rows] == [event.id for event in sent]
    assert {row["duplicates"] for row in rows} == {0}
    assert list(folder.iterdir()) == []


async def test_a_full_queue_goes_to_the_spool_however_fast_the_database_is(url, spooling):
    events = [named(number) for number in range(16)]
    async with spooling(max_waiting=8, max_batch=4) as (store, spool):
        answers = await asyncio.gather(*map(store.append, events))
        await until(lambda: not spool.active)
    assert {answer.id for answer in answers} == {event.id for event in events}
    assert [row["id"] for row in await stored(url)] == [event.id for event in events]


async def test_what_another_receiver_left_takes_no_room_from_the_own_events(own_server, url, folder, spooling):
    await left_behind(folder, [named(number, body=bytes(2048)) for number in range(3)])
    async with away(own_server), spooling(max_bytes=2048) as (store, spool):
        await store.append(named(3, body=bytes(2048)))
        with pytest.raises(SpoolFull):
            await store.append(named(4))
    async with spooling() as (_, spool):
        await until(lambda: not spool.active)
    assert len(await stored(url)) == 4


async def test_a_database_that_was_not_checked_at_the_start_is_checked_before_it_gets_an_event(url, folder, spooling):
    may_pass = False
    checks: list[int] = []

    async def before() -> None:
        checks.append(len(await stored(url)))
        if not may_pass:
            raise ConnectionError

    async with spooling(before=before) as (store, spool):
        await store.append(named(0))
        await until(lambda: len(checks) > 1)
        assert in_files(folder) == ["R0"]
        may_pass = True
        await until(lambda: not spool.active)
        await store.append(named(1))
    assert {*checks} == {0}
    assert [row["reference"] for row in await stored(url)] == ["R0", "R1"]


async def test_a_receiver_whose_login_is_refused_while_it_runs_spools_and_says_so(url, folder, spooling, caplog):
    await execute(url, "CREATE ROLE receiver SUPERUSER LOGIN")
    health = Health()
    try:
        async with spooling(url=url.replace("priohook@", "receiver@"), health=health) as (store, spool):
            await store.append(named(0))
            await execute(url, "ALTER ROLE receiver NOLOGIN")
            await execute(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'receiver'")
            await store.append(named(1))
            await until(lambda: "refuses this receiver" in str(health.problem))
            await store.append(named(2))
            assert in_files(folder) == ["R1", "R2"]
            await execute(url, "ALTER ROLE receiver LOGIN")
            await until(lambda: not spool.active)
    finally:
        await execute(url, "DROP ROLE receiver")
    assert [row["reference"] for row in await stored(url)] == ["R0", "R1", "R2"]
    (record,) = [record for record in caplog.records if record.message == "database_refuses"]
    assert record.levelno == logging.ERROR


@contextmanager
def damaged(path: Path, *texts: bytes) -> Iterator[None]:
    """Overwrites the pages that hold these texts."""
    content = path.read_bytes()
    size = int.from_bytes(content[16:18], "big")
    with path.open("r+b") as file:
        for text in texts:
            file.seek(content.index(text) // size * size)
            file.write(b"\xff" * size)
    yield


@pytest.mark.parametrize("texts", [(b"event 150",), (b"event 0-", b"event 299")])
async def test_events_around_a_damaged_page_are_moved(url, folder, spooling, caplog, texts):
    events = [named(number, body=b"event %d-" % number + bytes(900)) for number in range(300)]
    await left_behind(folder, events)
    (path,) = folder.glob("*.db")
    with damaged(path, *texts):
        assert "damaged" in str(content_of(path).problem)
        for _ in range(2):
            async with spooling() as (store, spool):
                await store.append(named(300))
                await until(lambda: not spool.active)
    found = {row["reference"] for row in await stored(url)}
    missing = {f"R{number}" for number in range(301)} - found
    assert 1 <= len(missing) <= 5 * len(texts)
    assert path.exists()
    records = [record for record in caplog.records if record.message == "spool_file_damaged"]
    assert [record.fields["events"] for record in records] == [len(missing)] * 2
    assert {row["duplicates"] for row in await stored(url) if row["reference"] != "R300"} == {0}


async def test_new_events_go_to_another_file_than_a_damaged_one(own_server, url, folder, spooling):
    bodies = [b"event %d-" % number + bytes(900) for number in range(100)]
    async with spooling() as (store, spool):
        async with away(own_server):
            for number, body in enumerate(bodies):
                await store.append(named(number, body=body))
            (path,) = folder.glob("*.db")
            with closing(sqlite3.connect(path)) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            with damaged(path, b"event 99-"):
                for number in range(100, 120):
                    await store.append(named(number, body=b"event" + bytes(900)))
        await until(lambda: not spool.active)
    found = {row["reference"] for row in await stored(url)}
    assert {f"R{number}" for number in range(100, 120)} <= found
    assert len(found) >= 115


@asynccontextmanager
async def raising(url: str, code: str) -> AsyncIterator[None]:
    """An operator's trigger that refuses the events of one client."""
    script = f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'never' USING ERRCODE = '{code}'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.client = 'bad')
            EXECUTE FUNCTION refuse();
        """
    await execute_script(url, script)
    try:
        yield
    finally:
        await execute_script(url, "DROP TRIGGER refuse ON events; DROP FUNCTION refuse")


@pytest.mark.parametrize("code", ["ZZ001", "P0001", "42501", "XX000"])
async def test_an_event_that_a_trigger_refuses_with_any_code_holds_nothing_back(url, folder, spooling, caplog, code):
    await left_behind(folder, [named(0), named(1, client="bad"), named(2)])
    async with raising(url, code):
        async with spooling() as (store, spool):
            await until(lambda: not spool.active)
            await store.append(named(3))
        (path,) = folder.glob("*.db")
        content = content_of(path)
        assert (content.events, content.refused) == (1, 1)
        assert f"SQLSTATE {code}" in str(content.problem)
    (record,) = [record for record in caplog.records if record.message == "spool_refused"]
    assert code in record.fields["error"]
    assert [row["reference"] for row in await stored(url)] == ["R0", "R2", "R3"]
    async with spooling() as (_, spool):
        await until(lambda: not spool.active)
    assert len(await stored(url)) == 4


async def test_an_event_that_a_trigger_refuses_with_a_code_of_its_own_is_refused_at_once(url, folder, spooling):
    async with raising(url, "ZZ001"), spooling() as (store, spool):
        with pytest.raises(StoreUnavailable):
            await store.append(named(1, client="bad"))
        assert not spool.active


async def test_a_trigger_that_refuses_the_trial_of_the_connection_holds_nothing_back(url, folder, spooling):
    await left_behind(folder, [named(0)])
    async with raising(url, "ZZ001"):
        await execute_script(
            url,
            """
            DROP TRIGGER refuse ON events;
            CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.client = 'priohook')
                EXECUTE FUNCTION refuse();
            """,
        )
        async with spooling() as (_, spool):
            await until(lambda: not spool.active)
    assert [row["reference"] for row in await stored(url)] == ["R0"]

import asyncio
import gc
import os
import signal
import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

from app.database import engines, migrations
from app.database.engines import is_sqlite, sqlite_path
from app.events import sqlite as sqlite_writer
from app.events.rows import NewEvent, Row, Stored
from app.events.sqlite import CHECKPOINT_BYTES
from app.events.store import BadRow, EventStore, StoreFull, StoreUnavailable
from tests import postgres
from tests.conftest import payload
from tests.events.stores import RECEIVED, locked, new_event, running

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SOON = timedelta(milliseconds=100)
BAD = {"order_version": 2**70}


async def append_all(store: EventStore, events: Sequence[NewEvent]) -> list[Stored | BaseException]:
    """What each caller gets if all call at once."""
    return await asyncio.gather(*(store.append(each) for each in events), return_exceptions=True)


def refused(results: Sequence[Stored | BaseException], kind: type[Exception]) -> list[int]:
    """The positions of the callers that got this error."""
    return [place for place, each in enumerate(results) if isinstance(each, kind)]


def ids(results: Sequence[Stored | BaseException]) -> list[UUID]:
    return [each.id for each in results if isinstance(each, Stored)]


@pytest.fixture
def transactions(database_url: str, engine):
    """`await transactions()` counts the transactions that stored the events; on SQLite only while the store runs."""

    async def number() -> int:
        if is_sqlite(database_url):
            return sqlite_commits(log_of(database_url))
        async with engine.connect() as connection:
            return int(await connection.scalar(text("SELECT count(DISTINCT xmin::text) FROM events")) or 0)

    return number


def log_of(url: str) -> Path:
    """The write-ahead log of a SQLite file."""
    return Path(f"{sqlite_path(url)}-wal")


def bytes_in(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def sqlite_commits(log: Path) -> int:
    """The commit frames of a write-ahead log (https://www.sqlite.org/fileformat2.html#the_write_ahead_log)."""
    content = log.read_bytes()
    page_bytes = struct.unpack_from(">I", content, 8)[0]
    frames = range(32, len(content), 24 + page_bytes)
    return sum(struct.unpack_from(">I", content, frame + 4)[0] > 0 for frame in frames)


async def test_an_event_is_stored_as_it_is(database_url, stored):
    given = new_event(
        "whole",
        received_at=NOON,
        reason="why",
        type="ORDER_CREATE",
        reference="PRI1 é 😀",
        order_version=2**63 - 1,
        order_modified=NOON.astimezone(),
        notification_id="n",
        api_version="3.8.0",
        shape="both",
        headers=b"x-odd: a: \x00\xff\r\nx-odd: ",
        body=bytes(range(256)),
        body_bytes=5 * 2**30,
    )
    async with running(database_url) as store:
        assert await store.append(given) == Stored(given.id, duplicate=False)
    (row,) = await stored()
    headers = [["x-odd", "a: \0\xff"], ["x-odd", ""]]
    added = {"headers": headers, "duplicates": 0, "last_duplicate_at": None, "released_at": None, **RECEIVED}
    assert row._asdict() == given._asdict() | added | {"position": row.position}


async def test_what_arrives_at_once_is_one_transaction(database_url, transactions, count):
    async with running(database_url) as store:
        await append_all(store, [new_event(str(each)) for each in range(100)])
        assert await transactions() == 1
    assert await count() == 100


async def test_a_batch_has_its_largest_size(database_url, transactions, count):
    async with running(database_url, max_batch=30) as store:
        await append_all(store, [new_event(str(each)) for each in range(100)])
        assert await transactions() == 4
    assert await count() == 100


async def test_while_one_batch_commits_the_next_one_gathers(database_url, transactions):
    async with running(database_url) as store:
        async with locked(database_url):
            first = asyncio.create_task(store.append(new_event("first")))
            await asyncio.sleep(0.05)  # the writer waits for the lock now
            others = [asyncio.create_task(store.append(new_event(str(each)))) for each in range(50)]
            await asyncio.sleep(0.05)
            assert not first.done()
        await asyncio.gather(first, *others)
        assert await transactions() == 2


@pytest.mark.parametrize("bad", [BAD, {"client": "\ud800"}, {"status": "unheard of"}, {"reference": object()}])
async def test_a_bad_row_fails_alone(database_url, stored, bad):
    events = [new_event(str(each), **(bad if each == 4 else {})) for each in range(9)]
    async with running(database_url) as store:
        results = await append_all(store, events)
        assert refused(results, StoreUnavailable) == [4]
        assert (await store.append(new_event("after"))).duplicate is False
    assert len(await stored()) == 9


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_nul_that_postgresql_refuses_fails_alone(database_url, count):
    async with running(database_url) as store:
        results = await append_all(store, [new_event("a"), new_event("b", reference="\0"), new_event("c")])
    assert refused(results, StoreUnavailable) == [1]
    assert await count() == 2


async def test_copies_beside_a_bad_row_count_once_each(database_url, stored):
    events = [new_event("copy"), new_event("bad", **BAD), new_event("copy"), new_event("copy")]
    async with running(database_url) as store:
        results = await append_all(store, events)
    (row,) = await stored()
    assert refused(results, StoreUnavailable) == [1]
    assert row.duplicates == 2


async def test_an_id_that_is_taken_fails_alone(database_url, stored):
    first = new_event("first")
    async with running(database_url) as store:
        await store.append(first)
        results = await append_all(store, [new_event("same id", id=first.id), new_event("other")])
    assert refused(results, StoreUnavailable) == [0]
    assert len(await stored()) == 2


async def test_copies_within_a_batch_are_counted_on_the_first(database_url, stored):
    copies = [new_event("copy", received_at=NOON + each * SECOND) for each in range(3)]
    async with running(database_url) as store:
        results = await append_all(store, copies)
    (row,) = await stored()
    assert results == [Stored(copies[0].id, duplicate) for duplicate in (False, True, True)]
    assert (row.received_at, row.duplicates, row.last_duplicate_at) == (NOON, 2, NOON + 2 * SECOND)


async def test_copies_across_batches_are_counted_on_the_first(database_url, stored):
    copies = [new_event("copy", received_at=NOON + each * SECOND) for each in range(3)]
    async with running(database_url) as store:
        results = [await store.append(each) for each in copies]
    (row,) = await stored()
    assert results == [Stored(copies[0].id, duplicate) for duplicate in (False, True, True)]
    assert (row.received_at, row.duplicates, row.last_duplicate_at) == (NOON, 2, NOON + 2 * SECOND)


async def test_copies_within_and_across_batches_are_counted_together(database_url, stored):
    copies = [new_event("copy", received_at=NOON + each * SECOND) for each in range(6)]
    fresh = [new_event("fresh", received_at=NOON + each * SECOND) for each in range(2)]
    async with running(database_url) as store:
        await store.append(copies[0])
        await append_all(store, [*copies[1:4], *fresh])
        await append_all(store, [*copies[4:], new_event("new")])
    counted = {row.dedup_key: (row.duplicates, row.last_duplicate_at) for row in await stored()}
    assert counted[copies[0].dedup_key] == (5, NOON + 5 * SECOND)
    assert counted[fresh[0].dedup_key] == (1, NOON + SECOND)
    assert counted[new_event("new").dedup_key] == (0, None)


async def test_a_copy_changes_nothing_of_the_first_but_its_count(database_url, stored):
    async with running(database_url) as store:
        await store.append(new_event("copy", type="FIRST", body=b"first"))
        await store.append(new_event("copy", type="SECOND", body=b"second"))
    (row,) = await stored()
    assert (row.type, row.body, row.body_bytes) == ("FIRST", b"first", 5)


async def test_two_processes_that_write_the_same_events_agree_and_never_deadlock(database_url, stored):
    keys = [str(each) for each in range(300)]
    async with running(database_url, max_batch=64) as one, running(database_url, max_batch=64) as other:
        forwards, backwards = await asyncio.gather(
            append_all(one, [new_event(key) for key in keys]),
            append_all(other, [new_event(key) for key in reversed(keys)]),
        )
    rows = await stored()
    assert refused([*forwards, *backwards], Exception) == []
    assert ids(forwards) == list(reversed(ids(backwards)))
    assert {row.id for row in rows} == set(ids(forwards))
    assert [row.duplicates for row in rows] == [1] * 300


async def test_more_events_than_may_wait_are_refused_and_not_stored(database_url, count):
    async with running(database_url, max_waiting=3) as store:
        results = await append_all(store, [new_event(str(each)) for each in range(10)])
        assert refused(results, StoreFull) == list(range(3, 10))
        assert await count() == 3
        assert not (await store.append(new_event("after"))).duplicate


async def test_more_bytes_than_may_wait_are_refused_and_not_stored(database_url, count):
    events = [new_event(str(size), body=bytes(size)) for size in (60, 41, 40, 1)]
    async with running(database_url, max_waiting_bytes=100) as store:
        results = await append_all(store, events)
        assert refused(results, StoreFull) == [1, 3]
        assert await count() == 2
        assert not (await store.append(events[1])).duplicate


async def test_a_body_larger_than_all_that_may_wait_is_stored_when_it_comes_alone(database_url, count):
    async with running(database_url, max_waiting_bytes=100) as store:
        await store.append(new_event("large", body=bytes(1000)))
    assert await count() == 1


async def test_a_commit_that_takes_too_long_is_given_up_with_all_that_wait_behind_it(database_url):
    async with running(database_url, max_batch=1, timeout=SOON) as store:
        async with locked(database_url):
            results = await append_all(store, [new_event("stuck"), new_event("behind"), new_event("last")])
        assert refused(results, StoreUnavailable) == [0, 1, 2]
        assert not (await store.append(new_event("after"))).duplicate


async def test_an_event_that_was_given_up_can_be_sent_again(database_url, stored):
    async with running(database_url, timeout=SOON) as store:
        async with locked(database_url):
            results = await append_all(store, [new_event("again")])
        assert refused(results, StoreUnavailable) == [0]
        await store.append(new_event("again"))
    assert [row.dedup_key for row in await stored()] == [new_event("again").dedup_key]


async def test_what_timed_out_leaves_its_place_to_others(database_url):
    async with running(database_url, max_waiting=2, max_waiting_bytes=30, max_batch=1, timeout=SOON) as store:
        async with locked(database_url):
            await append_all(store, [new_event(str(each)) for each in range(2)])
            results = await append_all(store, [new_event("full?")])
            assert refused(results, StoreFull) == []
        assert not (await store.append(new_event("after"))).duplicate


async def test_the_end_commits_what_waits(database_url, count):
    async with running(database_url, max_batch=7) as store:
        appends = [asyncio.create_task(store.append(new_event(str(each)))) for each in range(50)]
        await asyncio.sleep(0)
    assert all(each.done() and not each.result().duplicate for each in appends)
    assert await count() == 50


async def test_a_caller_that_is_gone_undoes_nothing(database_url, stored):
    async with running(database_url) as store:
        gone, here = (asyncio.create_task(store.append(new_event(key))) for key in ("gone", "here"))
        await asyncio.sleep(0)
        gone.cancel()
        await here
        assert (await store.append(new_event("gone"))).duplicate
    assert len(await stored()) == 2


async def test_a_caller_that_is_gone_when_its_batch_falls_apart_has_its_event_stored(database_url, stored):
    async with running(database_url) as store:
        gone, *others = (
            asyncio.create_task(store.append(each))
            for each in (new_event("gone"), new_event("bad", **BAD), new_event("here"))
        )
        await asyncio.sleep(0)  # now all three are in one batch
        gone.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    assert {row.dedup_key for row in await stored()} == {new_event(key).dedup_key for key in ("gone", "here")}


async def test_callers_that_are_gone_do_not_stop_the_loop_when_the_commit_fails(database_url, count):
    async with running(database_url) as store:
        gone = asyncio.create_task(store.append(new_event("gone", **BAD)))
        await asyncio.sleep(0)
        gone.cancel()
        await store.append(new_event("after"))
    assert await count() == 1


async def test_what_a_bad_row_holds_is_in_no_log_line(database_url, caplog):
    bad: list[dict[str, Any]] = [{"status": "unheard of"}, {"order_version": 2**70}, {"reference": "Ada \ud800"}]
    async with running(database_url) as store:
        events = [new_event(str(each), **{"reference": "Ada", "body": b"Ada"} | each) for each in bad]
        assert refused(await append_all(store, events), StoreUnavailable) == [0, 1, 2]
    assert "commit_failed" in caplog.text
    assert "Ada" not in caplog.text
    assert b"Ada".hex() not in caplog.text


class AwayAfterABadRow:
    """A database that refuses a row and is unavailable from then on; each attempt takes a while."""

    def __init__(self) -> None:
        self.attempts = 0

    async def write(self, rows: Sequence[Row]) -> Mapping[bytes, UUID]:
        self.attempts += 1
        if len(rows) > 1:
            raise BadRow
        await asyncio.sleep(0.2)
        raise ConnectionError("away")

    async def probe(self, *, thorough: bool) -> None:
        pass

    async def close(self) -> None:
        pass


async def test_a_database_that_goes_away_while_a_batch_is_tried_one_by_one_keeps_nobody_waiting():
    writer = AwayAfterABadRow()
    store = EventStore(writer, max_batch=256, max_waiting=999, max_waiting_bytes=10**6, timeout=SOON)
    async with store.running(), asyncio.timeout(30):
        results = await append_all(store, [new_event(str(each)) for each in range(100)])
    assert len(refused(results, StoreUnavailable)) == 100
    assert writer.attempts < 5


async def test_an_event_that_the_database_refuses_leaves_nothing_for_the_garbage_collector(database_url):
    async with running(database_url) as store:
        gc.collect()
        gc.disable()
        try:
            for each in range(9):
                with suppress(StoreUnavailable):
                    await store.append(new_event(f"bad {each}", order_version=2**70))
            assert len([each for each in gc.get_objects() if isinstance(each, NewEvent)]) <= 1  # the last one
        finally:
            gc.enable()


async def test_the_connection_that_writes_to_sqlite_syncs_every_commit(sqlite_url):
    async with running(sqlite_url) as store:
        await store.append(new_event("one"))
        connections = [each for each in gc.get_objects() if type(each) is sqlite3.Connection]
        ours = [each for each in connections if sqlite_path(sqlite_url) in paths_of(each)]
        full = 2
        assert [(*each.execute("PRAGMA synchronous"), *each.execute("PRAGMA journal_mode")) for each in ours] == [
            ((full,), ("wal",))
        ]


def paths_of(connection: sqlite3.Connection) -> list[Path]:
    """The files that it has open; none if it is closed."""
    try:
        return [Path(path) for _, _, path in connection.execute("PRAGMA database_list")]
    except sqlite3.ProgrammingError:
        return []


async def test_the_log_of_sqlite_stays_small_if_the_file_is_reached_by_a_link(sqlite_url, tmp_path):
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(sqlite_path(sqlite_url))
    log, large = log_of(sqlite_url), bytes(CHECKPOINT_BYTES)
    async with running(f"sqlite+aiosqlite:///{link}") as store:
        sizes = []
        for each in range(9):
            await store.append(new_event(str(each), body=large))
            sizes.append(bytes_in(log))
    assert 0 < max(sizes) < 6 * CHECKPOINT_BYTES


@pytest.mark.slow
async def test_the_log_of_sqlite_stays_small_under_many_writes(sqlite_url):
    log, sizes = log_of(sqlite_url), []
    async with running(sqlite_url) as store:
        for batch in range(60):
            await append_all(store, [new_event(f"{batch} {each}", body=bytes(65536)) for each in range(16)])
            sizes.append(bytes_in(log))
    assert sum(len(bytes(65536)) * 16 for _ in sizes) > 10 * CHECKPOINT_BYTES
    assert max(sizes) < 4 * CHECKPOINT_BYTES
    assert bytes_in(log) == 0


async def test_a_log_that_a_reader_keeps_from_shrinking_is_told_of_once(sqlite_url, monkeypatch, caplog):
    monkeypatch.setattr(sqlite_writer, "LARGE_LOG_BYTES", 2 * CHECKPOINT_BYTES)
    monkeypatch.setattr(sqlite_writer, "RESTART_EVERY", 0.0)
    monkeypatch.setattr(sqlite_writer, "RESTART_WITHIN", timedelta(milliseconds=1))
    large = bytes(CHECKPOINT_BYTES)
    async with running(sqlite_url, max_waiting_bytes=99 * CHECKPOINT_BYTES) as store:
        with closing(sqlite3.connect(sqlite_path(sqlite_url), isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            for number in range(6):
                await store.append(new_event(f"{number}", body=large))
        assert [record.message for record in caplog.records].count("log_grows") == 1
        for number in range(6, 12):
            await store.append(new_event(f"{number}", body=large))
        assert bytes_in(log_of(sqlite_url)) < 4 * CHECKPOINT_BYTES
    assert [record.message for record in caplog.records].count("log_grows") == 1


async def test_sqlite_keeps_what_a_second_process_reads_meanwhile(sqlite_url, count):
    reader = sqlite3.connect(sqlite_path(sqlite_url))
    try:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (0,)
        async with running(sqlite_url) as store:
            await store.append(new_event("one"))
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (0,)
    finally:
        reader.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_postgresql_syncs_every_commit_even_when_the_roles_default_is_off(database_url):
    """A column's default says what holds in the session that inserts."""
    owner = await asyncpg.connect(database_url)
    try:
        await owner.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
        await owner.execute("ALTER TABLE events ADD seen text DEFAULT current_setting('synchronous_commit')")
        async with running(database_url) as store:
            await store.append(new_event("one"))
        assert await owner.fetchval("SELECT seen FROM events") == "on"
    finally:
        await owner.execute("ALTER TABLE events DROP seen")
        await owner.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")
        await owner.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_postgresql_compresses_no_body_with_its_slow_default(database_url, engine):
    async with running(database_url) as store:
        await store.append(new_event("order", body=payload("08-order-payload-confirmed")))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT pg_column_compression(body) FROM events")) in (None, "lz4")


@pytest.fixture(scope="module")
def own_server() -> Iterator[postgres.Server]:
    """A server that a test may stop, with a migrated database."""
    with postgres.server() as server:
        asyncio.run(migrate(server.url()))
        yield server


async def migrate(url: str) -> None:
    async with engines.engine_for(url) as engine:
        await migrations.migrate(engine)


def send(signal_: signal.Signals, server: postgres.Server) -> None:
    for pid in (server.pid, *server.children()):
        os.kill(pid, signal_)


async def test_the_store_recovers_when_a_stopped_postgresql_starts_again(own_server):
    async with running(own_server.url()) as store:
        await store.append(new_event("before"))
        await asyncio.to_thread(own_server.stop)
        results = await append_all(store, [new_event("away 1"), new_event("away 2")])
        await asyncio.to_thread(own_server.start)
        assert refused(results, StoreUnavailable) == [0, 1]
        assert not (await store.append(new_event("away 1"))).duplicate
        assert (await store.append(new_event("before"))).duplicate


async def test_the_store_recovers_when_a_crashed_postgresql_starts_again(own_server):
    async with running(own_server.url()) as store:
        await store.append(new_event("before"))
        await asyncio.to_thread(own_server.stop, "immediate")
        with pytest.raises(StoreUnavailable):
            await store.append(new_event("away"))
        await asyncio.to_thread(own_server.start)
        assert not (await store.append(new_event("away"))).duplicate
        assert (await store.append(new_event("before"))).duplicate


async def test_the_store_recovers_when_a_frozen_postgresql_goes_on(own_server):
    async with running(own_server.url(), timeout=SOON) as store:
        await store.append(new_event("before"))
        send(signal.SIGSTOP, own_server)
        try:
            results = [await append_all(store, [new_event(f"frozen {each}")]) for each in range(2)]
        finally:
            send(signal.SIGCONT, own_server)
        assert [refused(each, StoreUnavailable) for each in results] == [[0], [0]]
    async with running(own_server.url()) as store:
        assert (await store.append(new_event("before"))).duplicate


async def test_a_postgresql_without_tables_is_recovered_from_too(own_server):
    async with running(own_server.url()) as store, engines.engine_for(own_server.url()) as engine:
        await migrations.migrate(engine, revision="base")
        with pytest.raises(StoreUnavailable):
            await store.append(new_event("no table"))
        await migrations.migrate(engine)
        assert not (await store.append(new_event("no table"))).duplicate

"""Nothing is lost, whatever dies: each test is a fault under load, and a line of the table that pytest prints.

A sender keeps every 200 it got and sends what got none again, with the same bytes. Afterwards every event is stored
once, byte for byte, under the id that the sender was told. With `--long`, random faults go on for minutes.
"""

import asyncio
import json
import os
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from time import monotonic, sleep

import asyncpg
import pytest
from sqlalchemy import func, select
from sqlalchemy.engine import make_url

from app.database import engines
from app.database.engines import is_sqlite, sqlite_path
from app.events.tables import Event
from tests import postgres
from tests.e2e.conftest import (
    Served,
    configured,
    dial,
    empty_database,
    environment_for,
    migrate,
    new_event,
    request,
    unless_it_cannot,
)
from tests.e2e.faults import Preloaded, preloaded, small_disk
from tests.e2e.load import allow_open_files, post_until_it_ends, stored
from tests.e2e.proxy import Proxy
from tests.e2e.sender import PATIENCE, Sender, outcome_of

KILLS = 10
LONG_KILLS = 100
WARM = 150  # events before a fault, and after it
SPOOLED = 500  # events that go to the spool while PostgreSQL is away
COMMIT_TIMEOUT = "1"  # seconds; the default of 5 only makes the tests longer
DAY = 24 * 60 * 60  # seconds
RECOVERS_WITHIN = 30.0  # seconds
SOAK = 6.0  # seconds of random faults on each database
LONG_SOAK = 300.0


class Receiver:
    """A `priohook serve` that is started again, on the same database, after its death."""

    def __init__(self, folder: Path, url: str, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = {
            **environment_for(**configured(url, commit_timeout=COMMIT_TIMEOUT)),
            **environment,
        }
        self.start()

    def start(self) -> None:
        self.served = Served(self._folder, ("--port", "0"), self._environment)

    def kill(self) -> None:
        self.served.signal(SIGKILL)
        assert self.served.wait() == -SIGKILL
        self.served.close()


class Trial:
    """A receiver under load."""

    def __init__(self, receiver: Receiver, sender: Sender) -> None:
        self.receiver = receiver
        self.sender = sender
        self.log = ""  # the receiver's, once it ended

    async def restart(self) -> None:
        await asyncio.to_thread(self.receiver.start)
        self.sender.addresses = (self.receiver.served.address,)

    async def kill_receiver(self) -> None:
        """A fault that lasts from the death to the end of the restart."""
        since = monotonic()
        await asyncio.to_thread(self.receiver.kill)
        await self.restart()
        await self.sender.recovers(since=since)


@pytest.fixture
def trial(tmp_path: Path, record_property: Callable[[str, object], None]):
    """`async with trial("kill -9", url) as running`: load before, during and after the fault, then the comparison."""

    @asynccontextmanager
    async def trial(
        fault: str,
        url: str,
        *,
        environment: dict[str, str] | None = None,
        receiver_dies: bool = False,
        spool: Path | None = None,
    ):
        if spool is not None:
            await note_order(url)
            environment = {**(environment or {}), "PRIOHOOK_SPOOL": str(spool)}
        receiver = await asyncio.to_thread(Receiver, tmp_path, url, environment or {})
        row = {"fault": fault, "database": "SQLite" if is_sqlite(url) else "PostgreSQL"}
        sender = Sender(receiver.served.address)
        running = Trial(receiver, sender)
        first = receiver.served
        try:
            async with sender.running():
                await sender.more(200, WARM)
                yield running
                await sender.more(200, WARM)
            if spool is not None:
                await asyncio.to_thread(wait_for, lambda: state(receiver.served) == "ready")
                assert await overtaken(url) == 0
            outcome = await outcome_of(sender, url, by_id=spool is None or not receiver_dies)
            record_property("durability", {**row, **asdict(outcome)})
            assert (outcome.lost, outcome.duplicated, outcome.strangers) == (0, 0, 0)
            assert sender.accepted.keys() == sender.sent
            assert outcome.acknowledged >= 2 * WARM
            assert set(sender.answers) <= {200, 503}
            if not receiver_dies:
                assert receiver.served is first
                assert sender.broken == 0
            assert await asyncio.to_thread(receiver.served.end) == 0
            if spool is not None:
                assert await asyncio.to_thread(os.listdir, spool) == [], receiver.served.stderr
        finally:
            await asyncio.to_thread(receiver.served.end)
            running.log = receiver.served.stderr
            receiver.served.close()

    return trial


@pytest.fixture
def not_run(record_property: Callable[[str, object], None]):
    """`with not_run("full disk", "SQLite"):` notes in the table that this machine cannot make the fault."""

    return lambda fault, kind: unless_it_cannot(record_property, "durability", fault=fault, database=kind)


@pytest.fixture(scope="module")
def durable() -> Iterator[postgres.Server]:
    with postgres.server(durable=True) as running:
        yield running


@pytest.fixture(scope="module")
def migrated(durable: postgres.Server) -> Iterator[str]:
    """The name of a database that is migrated."""
    with empty_database(durable.url()) as url:
        migrate(url)
        yield url.rpartition("/")[2]


@pytest.fixture
def durable_url(durable: postgres.Server, migrated: str) -> Iterator[str]:
    with empty_database(durable.url(), like=migrated) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    name = "sqlite_url" if request.param == "sqlite" else "durable_url"
    return str(request.getfixturevalue(name))


def readiness(served: Served) -> int:
    with dial(served) as wire:
        wire.send(request(method="GET", target="/readyz", authorization=None, content_type=None, length=None))
        return wire.reply(to="GET").status


def state(served: Served) -> str:
    """What `/readyz` says."""
    with dial(served) as wire:
        wire.send(request(method="GET", target="/readyz", authorization=None, content_type=None, length=None))
        return str(json.loads(wire.reply(to="GET").body).get("status"))


async def note_order(url: str) -> None:
    """Lets the database keep the transaction that inserted an event."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        "ALTER TABLE events ADD COLUMN committed bigint DEFAULT (pg_current_xact_id()::text::bigint)"
    )
    await connection.close()


async def overtaken(url: str) -> int:
    """How many events were committed before one that arrived earlier: a worker could have delivered them first."""
    connection = await asyncpg.connect(url)
    places = await connection.fetch("SELECT id FROM events ORDER BY committed, id")
    await connection.close()
    ids = [place["id"] for place in places]
    return sum(earlier > later for earlier, later in pairwise(ids))


def wait_for(condition: Callable[[], bool]) -> None:
    until = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < until
        sleep(0.1)


def behind(proxy: Proxy, url: str) -> str:
    return make_url(url).set(port=proxy.port).render_as_string(hide_password=False)


# The receiver dies.


async def test_kill_9_of_the_receiver_again_and_again(trial, url, long):
    kills = LONG_KILLS if long else KILLS
    async with trial(f"kill -9 of the receiver, {kills} times", url, receiver_dies=True) as running:
        for _ in range(kills):
            await running.kill_receiver()
            await running.sender.more(200, WARM)


async def test_kill_9_during_a_thousand_concurrent_posts_loses_nothing_that_got_its_200(serve, url):
    allow_open_files()
    server = serve(**configured(url))
    load = await post_until_it_ends(server.address, connections=1000, after=2500, then=lambda: server.signal(SIGKILL))
    server.wait()
    rows = await stored(url)
    assert len(load.accepted) >= 2500
    assert load.accepted.items() <= dict(rows).items()
    assert len(rows) == len({body for _, body in rows})


async def test_sigterm_of_the_receiver(trial, url):
    async with trial("SIGTERM of the receiver", url, receiver_dies=True) as running:
        ended = running.receiver.served
        since = monotonic()
        ended.signal(SIGTERM)
        assert await asyncio.to_thread(ended.wait) == 0
        assert "database_lost" not in ended.stderr
        ended.close()
        await running.restart()
        await running.sender.recovers(since=since)


def test_after_kill_9_the_next_start_serves_from_the_same_file(serve):
    settings = configured("sqlite+aiosqlite:///priohook.db")
    first = serve(**settings)
    first.signal(SIGKILL)
    first.wait()
    with dial(serve(**settings)) as wire:
        assert wire.send(request(new_event())).reply().status == 200


# The database dies, stops, or is out of reach.


async def test_kill_9_of_postgresql(trial, durable, durable_url):
    async with trial("kill -9 of PostgreSQL", durable_url) as running:
        await kill_postgres(running.sender, durable)


async def test_kill_9_of_postgresql_and_the_receiver(trial, durable, durable_url):
    async with trial("kill -9 of both", durable_url, receiver_dies=True) as running:
        running.receiver.served.signal(SIGKILL)
        await asyncio.to_thread(durable.kill)
        await asyncio.to_thread(running.receiver.kill)
        since = monotonic()
        await asyncio.to_thread(durable.start)
        await running.restart()
        await running.sender.recovers(since=since)


async def test_postgresql_is_stopped_and_continued(trial, durable, durable_url):
    async with trial("SIGSTOP of PostgreSQL", durable_url) as running:
        await stop_postgres(running.sender, durable)


async def test_sigterm_while_postgresql_is_stopped(trial, durable, durable_url):
    async with trial("SIGTERM while PostgreSQL is stopped", durable_url, receiver_dies=True) as running:
        ended = running.receiver.served
        durable.signal(SIGSTOP)
        try:
            ended.signal(SIGTERM)
            assert await asyncio.to_thread(ended.wait) == 0
        finally:
            durable.signal(SIGCONT)
        ended.close()
        since = monotonic()
        await running.restart()
        await running.sender.recovers(since=since)


async def test_other_processes_come_and_go_beside_sqlite(trial, sqlite_url):
    async with trial("other processes come and go", sqlite_url) as running:
        for _ in range(20):
            with closing(sqlite3.connect(sqlite_path(sqlite_url))) as other:
                other.execute("SELECT count(*) FROM events").fetchall()
            await running.sender.more(200, 10)


async def test_another_process_locks_sqlite(trial, sqlite_url):
    async with trial("locked by another process", sqlite_url) as running:
        await lock_sqlite(running.sender, sqlite_url)


async def test_connections_are_reset(trial, durable, durable_url, long):
    async with (
        Proxy(durable.port).running() as proxy,
        trial("connections reset", behind(proxy, durable_url)) as running,
    ):
        await reset_connections(running.sender, proxy)


async def test_batches_are_cut_in_half(trial, durable, durable_url, long):
    async with (
        Proxy(durable.port).running() as proxy,
        trial("batches cut in half", behind(proxy, durable_url)) as running,
    ):
        proxy.cutting_batches = True
        await running.sender.until(lambda: proxy.cut >= 5)
        await running.sender.more(503)
        proxy.cutting_batches = False
        await running.sender.recovers()


async def test_answers_to_commits_are_lost_and_the_retries_are_duplicates(trial, durable, durable_url):
    async with Proxy(durable.port).running() as proxy, trial("answers lost", behind(proxy, durable_url)) as running:
        await lose_answers(running.sender, proxy)
    # Each of these batches held one event or more, was committed, and was sent again.
    assert (await outcome_of(running.sender, durable_url)).copies >= proxy.lost


async def test_answers_come_late(trial, durable, durable_url):
    async with Proxy(durable.port).running() as proxy, trial("answers late", behind(proxy, durable_url)) as running:
        proxy.delay = 2 * float(COMMIT_TIMEOUT)
        await running.sender.more(503)
        proxy.delay = 0.0
        await running.sender.recovers()


async def test_the_network_passes_nothing_on(trial, durable, durable_url):
    async with Proxy(durable.port).running() as proxy, trial("network stalls", behind(proxy, durable_url)) as running:
        proxy.stall()
        await running.sender.more(503)
        proxy.resume()
        await running.sender.recovers()


async def test_others_take_every_connection(trial, durable, durable_url):
    async with trial("no connection left", durable_url) as running:
        taken = await take_every_connection(durable_url)
        await running.sender.more(503)
        await asyncio.gather(*(each.close() for each in taken))
        await running.sender.recovers()


# PostgreSQL is away, and events go to the spool.


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


async def test_postgresql_is_away_for_a_while_beside_a_spool(trial, durable, durable_url, spool, long):
    async with trial("away, with a spool", durable_url, spool=spool) as running:
        for _ in range(3):
            await asyncio.to_thread(durable.kill)
            await running.sender.more(200, 20_000 if long else SPOOLED)
            await asyncio.to_thread(wait_for, lambda: state(running.receiver.served) == "spooling")
            await asyncio.to_thread(durable.start)
            await running.sender.recovers()
            await asyncio.to_thread(wait_for, lambda: state(running.receiver.served) == "ready")
        assert running.sender.answers[503] == 0


async def test_postgresql_is_stopped_and_continued_beside_a_spool(trial, durable, durable_url, spool):
    async with trial("SIGSTOP, with a spool", durable_url, spool=spool) as running:
        durable.signal(SIGSTOP)
        try:
            await running.sender.more(200, SPOOLED)
        finally:
            durable.signal(SIGCONT)
        await running.sender.recovers()
        assert running.sender.answers[503] == 0


async def test_answers_of_postgresql_are_lost_beside_a_spool(trial, durable, durable_url, spool):
    async with (
        Proxy(durable.port).running() as proxy,
        trial("answers lost, with a spool", behind(proxy, durable_url), spool=spool) as running,
    ):
        proxy.losing_answers = True
        await running.sender.until(lambda: proxy.lost >= 3)
        await running.sender.more(200, WARM)
        proxy.losing_answers = False
        await running.sender.recovers()
        assert running.sender.answers[503] == 0
    assert (await outcome_of(running.sender, durable_url)).copies == 0


async def test_postgresql_comes_back_read_only_beside_a_spool(trial, durable, durable_url, spool):
    name = make_url(durable_url).database
    async with trial("back read-only, with a spool", durable_url, spool=spool) as running:
        await asyncio.to_thread(durable.kill)
        await running.sender.more(200, SPOOLED)
        await asyncio.to_thread(durable.start)
        connection = await asyncpg.connect(durable.url())
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await running.sender.more(200, SPOOLED)
        await asyncio.to_thread(wait_for, lambda: state(running.receiver.served) == "spooling")
        await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await connection.close()
        await running.sender.recovers()
        assert running.sender.answers[503] == 0


async def test_kill_9_of_the_receiver_with_a_full_spool(trial, durable, durable_url, spool):
    async with trial("kill -9 with a full spool", durable_url, receiver_dies=True, spool=spool) as running:
        await asyncio.to_thread(durable.kill)
        for _ in range(3):  # it starts while the database is away, and serves
            await running.sender.more(200, SPOOLED)
            await running.kill_receiver()
        await running.sender.more(200, WARM)
        since = monotonic()
        await asyncio.to_thread(durable.start)
        await running.sender.recovers(since=since)


async def test_kill_9_of_the_receiver_while_it_moves_events_from_the_spool(trial, durable, durable_url, spool):
    async with trial("kill -9 while moving", durable_url, receiver_dies=True, spool=spool) as running:
        for _ in range(3):
            await asyncio.to_thread(durable.kill)
            await running.sender.more(200, 2 * SPOOLED)
            await asyncio.to_thread(durable.start)
            before = await number_stored(durable_url)
            while await number_stored(durable_url) == before:  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.005)
            await running.kill_receiver()


async def test_kill_9_of_postgresql_and_the_receiver_beside_a_spool(trial, durable, durable_url, spool):
    async with trial("kill -9 of both, with a spool", durable_url, receiver_dies=True, spool=spool) as running:
        for _ in range(3):
            await asyncio.to_thread(durable.kill)
            await running.sender.more(200, SPOOLED)
            await asyncio.to_thread(durable.start)
            running.receiver.served.signal(SIGKILL)
            await asyncio.to_thread(durable.kill)
            await asyncio.to_thread(running.receiver.kill)
            since = monotonic()
            await running.restart()
            await running.sender.recovers(since=since)
            await asyncio.to_thread(durable.start)
            await asyncio.to_thread(wait_for, lambda: state(running.receiver.served) == "ready")


async def test_the_disk_of_the_spool_is_full(trial, not_run, durable, durable_url):
    fault = "disk of the spool full"
    with not_run(fault, "PostgreSQL"), small_disk(48) as disk:
        spool = disk.folder / "spool"
        spool.mkdir()
        async with trial(fault, durable_url, spool=spool) as running:
            await asyncio.to_thread(durable.kill)  # the sender may fill the disk by itself meanwhile
            with disk.full():
                await running.sender.more(503, WARM)
                # A file that is given up leaves room for the next one, until an event has filled that too.
                await asyncio.to_thread(wait_for, lambda: readiness(running.receiver.served) == 503)
                await asyncio.to_thread(durable.start)
                await running.sender.recovers()
                await asyncio.to_thread(wait_for, lambda: state(running.receiver.served) == "ready")


async def test_a_receiver_starts_while_the_disk_of_its_spool_is_full(trial, not_run, durable, durable_url):
    fault = "disk of the spool full, then kill -9"
    with not_run(fault, "PostgreSQL"), small_disk(48) as disk:
        spool = disk.folder / "spool"
        spool.mkdir()
        async with trial(fault, durable_url, receiver_dies=True, spool=spool) as running:
            await asyncio.to_thread(durable.kill)
            with disk.full():
                await running.sender.more(503, WARM)
                await asyncio.to_thread(running.receiver.kill)
                await asyncio.to_thread(durable.start)
                since = monotonic()
                await running.restart()
                await running.sender.recovers(since=since)
                await asyncio.to_thread(wait_for, lambda: state(running.receiver.served) == "ready")


async def number_stored(url: str) -> int:
    async with engines.engine_for(url) as engine, engine.connect() as connection:
        return int(await connection.scalar(select(func.count()).select_from(Event)) or 0)


# The disk fails or is full.


async def test_fsync_fails_under_sqlite(trial, not_run, sqlite_url):
    fault = "fsync fails"
    with not_run(fault, "SQLite"), preloaded() as library:
        async with trial(fault, sqlite_url, environment=library.environment) as running:
            await fail_fsync(running.sender, library)
        assert "disk I/O error" in running.log


async def test_fsync_fails_under_sqlite_and_the_receiver_is_killed_then(trial, not_run, sqlite_url):
    fault = "fsync fails, then kill -9"
    with not_run(fault, "SQLite"), preloaded() as library:
        async with trial(fault, sqlite_url, environment=library.environment, receiver_dies=True) as running:
            with library.failing_fsync():
                await running.sender.more(503)
                await asyncio.to_thread(running.receiver.kill)
            await running.restart()
            await running.sender.recovers()


async def test_fsync_fails_under_postgresql_and_the_retries_are_duplicates(trial, not_run):
    fault = "fsync fails"
    with (
        not_run(fault, "PostgreSQL"),
        preloaded() as library,
        postgres.server(durable=True, environment=library.environment) as server,
    ):
        await asyncio.to_thread(migrate, server.url())
        async with trial(fault, server.url()) as running:
            for _ in range(3):  # which batch it hits is chance, and one that was not written yet is no duplicate later
                with library.failing_fsync():
                    await running.sender.more(503)
                    assert "PANIC" in server.log()
                since = monotonic()
                await revive(server)
                await running.sender.recovers(since=since)
        assert (await outcome_of(running.sender, server.url())).copies


async def test_the_disk_is_full_under_sqlite(trial, not_run):
    fault = "disk full"
    with not_run(fault, "SQLite"), small_disk(48) as disk:
        url = f"sqlite+aiosqlite:///{disk.folder / 'priohook.db'}"
        await asyncio.to_thread(migrate, url)
        async with trial(fault, url) as running:
            with disk.full():
                await running.sender.more(503, WARM)
                await asyncio.to_thread(wait_for, lambda: readiness(running.receiver.served) == 503)
            await running.sender.recovers()
            assert await asyncio.to_thread(readiness, running.receiver.served) == 200


def test_a_full_disk_is_known_before_an_event_comes(tmp_path, not_run):
    with not_run("disk full", "SQLite"), small_disk(48) as disk:
        url = f"sqlite+aiosqlite:///{disk.folder / 'priohook.db'}"
        migrate(url)
        receiver = Receiver(tmp_path, url, {})
        try:
            with disk.full():
                wait_for(lambda: readiness(receiver.served) == 503)
            wait_for(lambda: readiness(receiver.served) == 200)
        finally:
            receiver.served.close()


async def test_the_disk_is_full_under_postgresql(trial, not_run):
    fault = "disk full"
    with (
        not_run(fault, "PostgreSQL"),
        small_disk(200) as disk,
        postgres.server(durable=True, data=disk.folder) as server,
    ):
        await asyncio.to_thread(migrate, server.url())
        async with trial(fault, server.url()) as running:
            with disk.full():
                await running.sender.more(503, WARM)
            since = monotonic()
            await revive(server)
            await running.sender.recovers(since=since)
        assert "No space left on device" in server.log()


# The clock, and everything at once.


async def test_the_clock_is_set_back_by_a_day(trial, not_run, url):
    fault = "clock set back a day"
    with not_run(fault, "SQLite" if is_sqlite(url) else "PostgreSQL"), preloaded() as library:
        async with trial(fault, url, environment=library.environment) as running:
            sender = running.sender
            before = dict(sender.accepted)
            with library.clock_set_back(DAY):
                await sender.recovers()
                await sender.more(200, WARM)
                under = sender.accepted.items() - before.items()
        # Times of arrival are those of the ids, which go on where they were.
        assert await spread_of_arrivals(url) < PATIENCE
        # Those that were on their way meanwhile may lie on either side.
        assert sum(event_id > max(before.values()) for _, event_id in under) >= WARM


async def test_random_faults_one_after_another_on_postgresql(trial, durable, durable_url, long):
    async with (
        Proxy(durable.port).running() as proxy,
        trial("random faults", behind(proxy, durable_url), receiver_dies=True) as running,
    ):
        sender = running.sender
        await soak(
            running,
            LONG_SOAK if long else SOAK,
            running.kill_receiver,
            lambda: kill_postgres(sender, durable),
            lambda: stop_postgres(sender, durable),
            lambda: reset_connections(sender, proxy),
            lambda: lose_answers(sender, proxy),
        )


async def test_random_faults_one_after_another_on_sqlite(trial, not_run, sqlite_url, long):
    fault = "random faults"
    with not_run(fault, "SQLite"), preloaded() as library:
        async with trial(fault, sqlite_url, environment=library.environment, receiver_dies=True) as running:
            await soak(
                running,
                LONG_SOAK if long else SOAK,
                running.kill_receiver,
                lambda: lock_sqlite(running.sender, sqlite_url),
                lambda: fail_fsync(running.sender, library),
            )


async def soak(running: Trial, seconds: float, *faults: Callable[[], Awaitable[None]]) -> None:
    """Makes faults in a new random order each time."""
    choose = random.SystemRandom()
    until = monotonic() + seconds
    while monotonic() < until:
        await choose.choice(faults)()
        await running.sender.more(200, choose.randint(1, 2 * WARM))


async def kill_postgres(sender: Sender, server: postgres.Server) -> None:
    await asyncio.to_thread(server.kill)
    await sender.more(503)
    since = monotonic()
    await asyncio.to_thread(server.start)
    await sender.recovers(since=since)


async def stop_postgres(sender: Sender, server: postgres.Server) -> None:
    server.signal(SIGSTOP)
    try:
        await sender.more(503)
    finally:
        server.signal(SIGCONT)
    await sender.recovers()


async def reset_connections(sender: Sender, proxy: Proxy) -> None:
    proxy.refusing = True
    proxy.reset()
    await sender.more(503)
    proxy.refusing = False
    await sender.recovers()


async def lose_answers(sender: Sender, proxy: Proxy) -> None:
    wanted = proxy.lost + 5
    proxy.losing_answers = True
    await sender.until(lambda: proxy.lost >= wanted)
    proxy.losing_answers = False
    await sender.recovers()


async def lock_sqlite(sender: Sender, url: str) -> None:
    with closing(sqlite3.connect(sqlite_path(url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await sender.more(503)
        other.execute("ROLLBACK")
    await sender.recovers()


async def fail_fsync(sender: Sender, library: Preloaded) -> None:
    with library.failing_fsync():
        await sender.more(503, WARM)
    await sender.recovers()


async def take_every_connection(url: str) -> list[asyncpg.Connection]:
    """Takes all connections that the server allows, after ending all others, also those that have no name yet."""
    taken = [await asyncpg.connect(url)]
    while True:
        try:
            taken.append(await asyncpg.connect(url))
        except asyncpg.TooManyConnectionsError:
            ended = await taken[0].fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> ALL($1)",
                [each.get_server_pid() for each in taken],
            )
            if not ended:
                return taken


async def revive(server: postgres.Server) -> None:
    """Starts PostgreSQL again if the fault also broke its recovery, after which it ends, or stays and never goes on."""
    with suppress(TimeoutError):
        async with asyncio.timeout(RECOVERS_WITHIN):
            while server.runs():
                try:
                    connection = await asyncpg.connect(server.url())
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.1)
                else:
                    await connection.close()
                    return
    if server.runs():
        await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def spread_of_arrivals(url: str) -> float:
    """Seconds between the earliest and the latest stored time of arrival."""
    async with engines.engine_for(url) as engine, engine.connect() as connection:
        first, last = (await connection.execute(select(func.min(Event.received_at), func.max(Event.received_at)))).one()
    return float((last - first).total_seconds())

"""Everything arrives once or more and in order, whatever the network, the clocks and the processes do.

Two receivers, two workers, PostgreSQL, the sender and the consumer are on hosts of their own. Each test is a fault
under load, and a line of the table that pytest prints. Without `--long` only the first one runs, which has the worst
of them.
"""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from itertools import pairwise
from random import SystemRandom
from signal import SIGKILL, SIGTERM, Signals
from time import monotonic, time
from typing import Any

import pytest

from tests import postgres
from tests.e2e.conftest import migrate, unless_it_cannot
from tests.e2e.faults import CannotRun, small_disk
from tests.e2e.harm import (
    BETWEEN,
    FAULTS,
    LONGEST,
    WARM,
    frozen,
    happens,
    lose_connections,
    parted,
    schedule,
    trial,
    unplugged,
    without_names,
    without_power,
)
from tests.e2e.hosted import CONSUMER, DATABASE, Hosted, Hosts, hosts, prepared, settings_for
from tests.e2e.proxy import Proxy

LEASE = 6.0  # seconds; the destination's timeout and what a claim lasts longer
LASTS = LEASE + 2  # seconds of a fault, so that claims run out meanwhile
HOUR = 3600  # seconds
HALF_AN_HOUR = 30 * 60.0  # seconds

LONG = pytest.mark.long
PAIRS = ["sender and receivers", "receivers and database", "workers and database", "workers and consumer"]


@pytest.fixture(scope="session")
def network() -> Iterator[Hosts | CannotRun]:
    """The hosts, or why there are none."""
    with ExitStack() as stack:
        try:
            on: Hosts | CannotRun = stack.enter_context(hosts())
        except CannotRun as reason:
            on = reason
        yield on


@pytest.fixture
def hosted(
    network: Hosts | CannotRun, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[Hosted]:
    """priohook on hosts; nothing is started."""
    with unless_it_cannot(record_property, "chaos", fault=request.node.name):
        if isinstance(network, CannotRun):
            raise network
    with prepared(network) as hosted:
        yield hosted


@pytest.fixture
def harmed(hosted: Hosted, record_property: Callable[[str, object], None]) -> Callable[..., Any]:
    """`async with harmed("a worker frozen") as running`: load around the fault, then the comparison."""
    return lambda fault, **more: trial(fault, hosted, record_property, **more)


def between(hosted: Hosted, pair: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    on = hosted.hosts
    return {
        PAIRS[0]: ((on.sender,), on.receivers),
        PAIRS[1]: (on.receivers, (on.database,)),
        PAIRS[2]: (on.workers, (on.database,)),
        PAIRS[3]: (on.workers, (on.consumer,)),
    }[pair]


async def test_one_fault_after_another_while_clocks_are_hours_apart(harmed, hosted):
    """A worker without the database past the lease, one frozen past it, no name found, and all killed.

    The worker whose clock is ahead then never comes back.
    """
    on, clocks = hosted.hosts, {"receiver": -3 * HOUR, "worker": 5 * HOUR, "database": HOUR}
    by_names(hosted)
    with skewed(hosted, **clocks):
        async with harmed(f"several in turn; clocks: {shown(clocks)}") as running:
            with parted([await hosted.busiest()], [on.database]):
                await asyncio.sleep(LASTS)
            with frozen(on.workers[1]):
                await asyncio.sleep(LASTS)
            with without_names(running, silent=True):
                await lose_connections(running)
                await running.sender.more(503)
                await asyncio.sleep(LEASE)
            async with without_power(running, *on.receivers, on.database, *on.workers, gone=on.workers[0]):
                pass


# The network.


@LONG
async def test_a_worker_cannot_reach_the_database_until_its_claims_have_run_out(harmed, hosted):
    async with harmed("a worker and the database parted past the lease"):
        with parted([await hosted.busiest()], [hosted.hosts.database]):
            await asyncio.sleep(LASTS)


@LONG
@pytest.mark.parametrize("pair", PAIRS)
async def test_both_sides_are_parted(harmed, hosted, pair):
    async with harmed(f"{pair} parted"):
        with parted(*between(hosted, pair)):
            await asyncio.sleep(LASTS)


@LONG
@pytest.mark.parametrize("pair", PAIRS)
async def test_every_answer_is_late(harmed, hosted, pair):
    """Later than a commit or an attempt may take: what is given up has been done all the same."""
    await late(harmed, hosted, pair, delay=2.0)


@LONG
@pytest.mark.parametrize("pair", PAIRS)
async def test_every_answer_is_slow(harmed, hosted, pair):
    await late(harmed, hosted, pair, delay=0.3)


async def late(harmed: Any, hosted: Hosted, pair: str, *, delay: float) -> None:
    on = hosted.hosts
    async with AsyncExitStack() as stack:

        async def proxy(port: int, target: str) -> Proxy:
            made = Proxy(port, target=target, address=on.sender.outside)
            return await stack.enter_async_context(made.running())

        proxies, addresses = [], []
        if pair == PAIRS[0]:
            proxies = [await proxy(port, host) for host, port in hosted.addresses]
            addresses = [(each.address, each.port) for each in proxies]
        elif pair == PAIRS[3]:
            proxies = [await proxy(hosted.consumer.port, on.consumer.address)]
            hosted.settings = settings_for(hosted.url, f"http://{proxies[0].address}:{proxies[0].port}/in")
        else:
            proxies = [await proxy(on.server.port, on.database.address)]
            name = hosted.url.rpartition("/")[2]
            far = settings_for(
                f"postgresql://priohook@{on.sender.outside}:{proxies[0].port}/{name}", hosted.consumer.url
            )
            for host in on.receivers if pair == PAIRS[1] else on.workers:
                hosted.environments[host] = {"PRIOHOOK_DATABASE_URL": far["database_url"]}
        async with harmed(f"{pair}: answers late by {delay:g} s", addresses=addresses):
            for each in proxies:
                each.delay = delay
            await asyncio.sleep(LASTS)
            for each in proxies:
                each.delay = 0.0


@LONG
@pytest.mark.parametrize("which", ["receiver", "database", "worker", "both workers", "consumer"])
async def test_connections_of_a_host_that_lost_power_are_half_open(harmed, hosted, which):
    on = hosted.hosts
    async with harmed(f"power lost: {which}") as running:
        if which == "consumer":
            on.consumer.unplug()
            hosted.consumer.stop()
            await asyncio.sleep(LASTS)
            on.consumer.plug()
            hosted.consumer.start()
            return
        lost = {
            "receiver": on.receivers[:1],
            "database": [on.database],
            "worker": [await hosted.busiest()],
            "both workers": on.workers,
        }[which]
        async with without_power(running, *lost):
            await asyncio.sleep(LASTS)


@LONG
async def test_a_host_is_unplugged(harmed, hosted):
    async with harmed("the database unplugged"):
        with unplugged(hosted.hosts.database):
            await asyncio.sleep(LASTS)


# Processes.


@LONG
async def test_a_worker_is_frozen_until_its_claims_have_run_out(harmed, hosted):
    async with harmed("a worker frozen past the lease"):
        with frozen(await hosted.busiest()):
            await asyncio.sleep(LASTS)


@LONG
@pytest.mark.parametrize("which", ["receiver", "database"])
async def test_a_host_is_frozen(harmed, hosted, which):
    on = hosted.hosts
    async with harmed(f"{which} frozen"):
        with frozen(on.database if which == "database" else on.receivers[0]):
            await asyncio.sleep(LASTS)


@LONG
async def test_everything_is_killed_at_once(harmed, hosted):
    async with harmed("all processes killed at once") as running, without_power(running, *hosted.hosts.all[1:6]):
        pass


# Clocks.


@LONG
@pytest.mark.parametrize(
    "clocks",
    [
        {"receiver": 30, "worker": -30},
        {"receiver": -30, "worker": 30},
        {"database": 30},
        {"database": -30},
        {"receiver": 5 * HOUR, "worker": -3 * HOUR, "database": HOUR},
        {"receiver": -5 * HOUR},
        {"receiver": 30 * HOUR},
        {"worker": 5 * HOUR},
        {"worker": -30 * HOUR},
        {"database": 5 * HOUR},
        {"database": -5 * HOUR},
    ],
    ids=str,
)
async def test_clocks_differ(harmed, hosted, record_property, clocks):
    """A worker with such a clock does all the work for a while, and never comes back."""
    fault = f"clocks differ: {shown(clocks)}"
    with unless_it_cannot(record_property, "chaos", fault=fault):
        if hosted.hosts.skewed is None:
            raise CannotRun("it needs Linux and a C compiler named cc")
    lost, other = hosted.hosts.workers
    with skewed(hosted, **clocks):
        async with harmed(fault) as running:
            with frozen(other):
                await asyncio.sleep(LASTS)
            async with without_power(running, lost, gone=lost):
                await asyncio.sleep(LASTS)


@contextmanager
def skewed(hosted: Hosted, *, receiver: int = 0, worker: int = 0, database: int = 0) -> Iterator[None]:
    """The clocks of one receiver, one worker and the database are ahead of all others by so many seconds."""
    on = hosted.hosts
    if on.skewed is None:
        yield
        return
    hosted.environments |= {on.receivers[0]: on.skewed.ahead(receiver), on.workers[0]: on.skewed.ahead(worker)}
    with on.skewed.clock_set_back(-database):
        yield


def shown(clocks: dict[str, int]) -> str:
    ahead = {name: f"{by // HOUR:+d} h" if abs(by) >= HOUR else f"{by:+d} s" for name, by in clocks.items()}
    return ", ".join(f"{name} {by}" for name, by in ahead.items())


# Names.


@LONG
@pytest.mark.parametrize("silent", [True, False], ids=["silent", "unknown"])
async def test_no_name_is_found(harmed, hosted, silent):
    by_names(hosted)
    fault = f"DNS gone, and all connections lost: {'no answer' if silent else 'unknown names'}"
    async with harmed(fault) as running:
        with without_names(running, silent=silent):
            await lose_connections(running)
            await running.sender.more(503)
            await asyncio.sleep(LASTS)


def by_names(hosted: Hosted) -> None:
    """Names the database and the consumer in the settings instead of their addresses."""
    name, port = hosted.url.rpartition("/")[2], hosted.hosts.server.port
    database, consumer = (
        f"postgresql://priohook@{DATABASE}:{port}/{name}",
        f"http://{CONSUMER}:{hosted.consumer.port}/in",
    )
    hosted.settings = settings_for(database, consumer)


# Disks. tests/e2e/test_durability.py fills those of the database, of SQLite and of the spool before a receiver.


@LONG
async def test_the_disk_of_a_worker_is_full(harmed, hosted, record_property):
    """Its log is there, and its working directory."""
    fault = "disk of the workers' logs full"
    with unless_it_cannot(record_property, "chaos", fault=fault), small_disk(8) as disk:
        hosted.folder = disk.folder
        async with harmed(fault) as running:
            with disk.full():
                await running.sender.more(200, 3 * WARM)
        hosted.close()


@LONG
async def test_the_disk_of_the_database_is_full(harmed, hosted, record_property):
    fault = "disk of the database full"
    on = hosted.hosts
    with (
        unless_it_cannot(record_property, "chaos", fault=fault),
        small_disk(200) as disk,
        postgres.server(
            durable=True, data=disk.folder, address=on.database.address, there=on.database.command
        ) as server,
    ):
        await asyncio.to_thread(migrate, server.url())
        hosted.url = server.url()
        hosted.settings = settings_for(hosted.url, hosted.consumer.url)
        async with harmed(fault) as running:
            with disk.full():
                await running.sender.more(503, WARM)
                await asyncio.sleep(LASTS)
            if not server.runs():  # it panics if its log cannot grow
                running.crashes.append(time())
                await asyncio.to_thread(server.start)


@LONG
async def test_the_disk_of_sqlite_is_full(harmed, hosted, record_property):
    """One receiver and its worker, on one host."""
    fault = "disk of SQLite full"
    with unless_it_cannot(record_property, "chaos", fault=fault), small_disk(48) as disk:
        hosted.url = f"sqlite+aiosqlite:///{disk.folder / 'priohook.db'}"
        await asyncio.to_thread(migrate, hosted.url)
        hosted.settings = settings_for(hosted.url, hosted.consumer.url)
        hosted.alone = True
        async with harmed(fault, addresses=hosted.addresses[:1]) as running:
            with disk.full():
                await running.sender.more(503, WARM)
                await asyncio.sleep(LASTS)


# A pooler.


@LONG
@pytest.mark.parametrize("number", [SIGTERM, SIGKILL], ids=["SIGTERM", "kill -9"])
async def test_pgbouncer_is_restarted(harmed, hosted, record_property, number):
    fault = f"pgbouncer restarted after {number.name}"
    with unless_it_cannot(record_property, "chaos", fault=fault), pgbouncer(hosted) as pooler:
        name = hosted.url.rpartition("/")[2]
        address = f"{hosted.hosts.database.address}:{POOLER_PORT}"
        hosted.settings = settings_for(f"postgresql://priohook@{address}/{name}", hosted.consumer.url)
        async with harmed(fault) as running:
            for _ in range(3):
                pooler.end(number)
                await running.sender.more(503)
                pooler.start()
                await running.sender.recovers()
                await running.sender.more(200, WARM)


POOLER_PORT = 6432


class Pooler:
    """A pgbouncer beside the database, which pools sessions."""

    def __init__(self, hosted: Hosted) -> None:
        on = hosted.hosts
        configuration = hosted.folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host={on.database.address} port={on.server.port} user=priohook\n"
            f"[pgbouncer]\nlisten_addr = {on.database.address}\nlisten_port = {POOLER_PORT}\nauth_type = any\n"
            "pool_mode = session\ndefault_pool_size = 60\nmax_client_conn = 200\nunix_socket_dir =\n"
        )
        configuration.chmod(0o644)
        hosted.folder.chmod(0o755)
        as_nobody = ("setpriv", "--reuid", "nobody", "--clear-groups", "--")  # it does not run as root
        self._command = on.database.command(*as_nobody, "pgbouncer", "-q", configuration)
        self._log = (hosted.folder / "pgbouncer.log").open("a")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)

    def end(self, number: Signals) -> None:
        self._process.send_signal(number)
        self._process.wait()

    def close(self) -> None:
        self.end(SIGKILL)
        self._log.close()


@contextmanager
def pgbouncer(hosted: Hosted) -> Iterator[Pooler]:
    if shutil.which("pgbouncer") is None:
        raise CannotRun("Debian's pgbouncer is not installed")
    pooler = Pooler(hosted)
    try:
        yield pooler
    finally:
        hosted.close()
        pooler.close()


# Everything, for long.


@LONG
async def test_faults_one_after_another(harmed, hosted, pytestconfig, capsys):
    """`--seed` makes the faults of an earlier run again, and `--minutes` says for how long."""
    given, minutes = pytestconfig.getoption("--seed"), pytestconfig.getoption("--minutes")
    seed = SystemRandom().randrange(1_000_000) if given is None else given
    planned = schedule(seed, minutes * 60)
    with capsys.disabled():
        print(f"\n{len(planned)} faults; again: --long --seed {seed} --minutes {minutes:g}")  # noqa: T201
    by_names(hosted)
    async with harmed(f"{len(planned)} faults in {minutes:g} minutes, seed {seed}") as running:
        began = monotonic()
        for each in planned:
            await asyncio.sleep(max(0.0, began + each.at - monotonic()))
            await happens(each, running)


def test_a_seed_gives_the_same_faults_again_and_every_kind_of_them():
    assert schedule(7, HALF_AN_HOUR) == schedule(7, HALF_AN_HOUR) != schedule(8, HALF_AN_HOUR)
    assert {each.fault for each in schedule(7, HALF_AN_HOUR)} == set(FAULTS)


def test_the_faults_of_a_seed_follow_one_another():
    planned = schedule(7, HALF_AN_HOUR)
    assert all(0 <= later.at - each.at - each.lasts <= BETWEEN for each, later in pairwise(planned))
    assert HALF_AN_HOUR - BETWEEN - LONGEST <= planned[-1].at + planned[-1].lasts <= HALF_AN_HOUR

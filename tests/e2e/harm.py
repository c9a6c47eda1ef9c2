"""Faults of a priohook on hosts, and what a trial of one says. Each fault is a context: it lasts as long as that."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from time import monotonic, time
from typing import NamedTuple

import asyncpg

from tests.e2e.consumer import Consumer
from tests.e2e.explained import explain, settled
from tests.e2e.hosted import Hosted
from tests.e2e.hosts import Host
from tests.e2e.sender import Sender, outcome_of

ORDERS = 24
REST = 0.15  # seconds between two events of an order
WARM = 60  # events before a fault, and after it


@dataclass
class Trial:
    """priohook on hosts under load.

    Attributes:
        crashes: When the database began again after a crash, by `time`.
    """

    hosted: Hosted
    sender: Sender
    crashes: list[float] = field(default_factory=list)


@asynccontextmanager
async def trial(
    fault: str, hosted: Hosted, record: Callable[[str, object], None], *, addresses: Iterable[tuple[str, int]] = ()
) -> AsyncIterator[Trial]:
    """Load before, during and after the fault; then everything settles, and is compared.

    Each order stays with one receiver: between receivers there is no order.
    """
    sender = Sender(
        *(addresses or hosted.addresses), connections=ORDERS, rest=REST, stays=True, inside=hosted.hosts.sender.entered
    )
    running = Trial(hosted, sender)
    await hosted.start()
    try:
        async with sender.running():
            await sender.more(200, WARM)
            yield running
            since = monotonic()
            await sender.recovers(since=since)
            await sender.more(200, WARM)
        await settled(hosted.url)
        took = monotonic() - since
        outcome = await outcome_of(sender, hosted.url)
        told = await explain(sender, list(hosted.consumer.seen), hosted.url, crashes=running.crashes)
    except BaseException as error:
        error.add_note(await asyncio.to_thread(hosted.logs))
        raise
    record(
        "chaos",
        {
            "fault": fault,
            "requests": outcome.requests,
            "acknowledged": outcome.acknowledged,
            "lost": outcome.lost,
            "duplicated": outcome.duplicated,
            "arrivals": told.arrivals,
            "repeats": told.repeats,
            "back": told.back,
            "at_once": hosted.consumer.at_once,
            "unexplained": len(told.unexplained),
            "undelivered": told.undelivered,
            "recovery": outcome.recovery,
            "settled": took,
        },
    )
    assert sender.accepted.keys() == sender.sent
    assert set(sender.answers) <= {200, 503}
    assert (outcome.lost, outcome.duplicated, outcome.strangers, told.undelivered) == (0, 0, 0, 0)
    assert told.unexplained == []
    assert (told.back, hosted.consumer.at_once) == (0, 0)
    assert await hosted.end() == set(), hosted.logs()


@contextmanager
def parted(some: Iterable[Host], others: Iterable[Host]) -> Iterator[None]:
    """What they send each other is dropped in silence, also on connections that are open."""
    far = tuple(others)
    with ExitStack() as stack:
        for host in some:
            host.part(*far)
            stack.callback(host.meet, *far)
        yield


@contextmanager
def unplugged(host: Host) -> Iterator[None]:
    """Nobody reaches the host, and nobody is told."""
    host.unplug()
    try:
        yield
    finally:
        host.plug()


@contextmanager
def frozen(host: Host) -> Iterator[None]:
    """All processes of the host are stopped, and go on then."""
    host.freeze()
    try:
        yield
    finally:
        host.thaw()


@contextmanager
def without_names(running: Trial, *, silent: bool) -> Iterator[None]:
    """No name is known; the name server says so, or does not answer at all."""
    names = running.hosted.hosts.names
    known, names.known, names.silent = names.known, {}, silent
    try:
        yield
    finally:
        names.known, names.silent = known, False


async def lose_connections(running: Trial) -> None:
    """Ends every connection to the database, so that all must be opened again."""
    connection = await asyncpg.connect(running.hosted.hosts.server.url())
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    await connection.close()


@asynccontextmanager
async def without_power(running: Trial, *hosts: Host, gone: Host | None = None) -> AsyncIterator[None]:
    """All processes of the hosts die at once, and nobody is told. What is not gone starts again afterwards."""
    hosted = running.hosted
    async with AsyncExitStack() as stack:
        for host in hosts:
            host.unplug()
            stack.callback(host.plug)
        for host in hosts:
            host.kill()
        await asyncio.to_thread(hosted.reap, hosts)
        while hosted.hosts.database in hosts and hosted.hosts.server.runs():  # noqa: ASYNC110 - the kernel ends it
            await asyncio.sleep(0.02)
        yield
    if hosted.hosts.database in hosts:
        running.crashes.append(time())
        await asyncio.to_thread(hosted.hosts.server.start)
    if again := [host for host in hosts if host != gone]:
        await hosted.start(*again)


class Planned(NamedTuple):
    """A fault of a soak: when it begins and how long it lasts, in seconds, and which one it is."""

    at: float
    lasts: float
    fault: str
    one: int
    """Which of two receivers or workers."""


FAULTS = (
    "receiver-database",
    "worker-database",
    "worker-consumer",
    "sender-receiver",
    "frozen worker",
    "frozen receiver",
    "frozen database",
    "killed worker",
    "killed receiver",
    "killed database",
    "all killed",
    "no names",
    "connections ended",
    "consumer away",
)
SHORTEST, LONGEST = 1.0, 12.0  # seconds of a fault
BETWEEN = 6.0  # seconds


def schedule(seed: int, seconds: float) -> list[Planned]:
    """The faults of a soak: of one seed always the same."""
    choose = random.Random(seed)  # noqa: S311 - it must be the same again
    planned: list[Planned] = []
    at = 0.0
    while True:
        at += choose.uniform(0, BETWEEN)
        lasts = choose.uniform(SHORTEST, LONGEST)
        if at + lasts > seconds:
            return planned
        planned.append(Planned(at, lasts, choose.choice(FAULTS), choose.randrange(2)))
        at += lasts


async def happens(planned: Planned, running: Trial) -> None:
    """Makes the fault, for as long as it shall last."""
    hosted = running.hosted
    on = hosted.hosts
    receiver, worker = on.receivers[planned.one], on.workers[planned.one]
    lasting: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "receiver-database": lambda: parted([receiver], [on.database]),
        "worker-database": lambda: parted([worker], [on.database]),
        "worker-consumer": lambda: parted([worker], [on.consumer]),
        "sender-receiver": lambda: parted([on.sender], [receiver]),
        "frozen worker": lambda: frozen(worker),
        "frozen receiver": lambda: frozen(receiver),
        "frozen database": lambda: frozen(on.database),
        "no names": lambda: without_names(running, silent=True),
        "consumer away": lambda: away(hosted.consumer),
    }
    dying: dict[str, Sequence[Host]] = {
        "killed worker": [worker],
        "killed receiver": [receiver],
        "killed database": [on.database],
        "all killed": [*on.receivers, *on.workers, on.database],
    }
    if planned.fault in lasting:
        with lasting[planned.fault]():
            await asyncio.sleep(planned.lasts)
    elif planned.fault in dying:
        async with without_power(running, *dying[planned.fault]):
            await asyncio.sleep(planned.lasts)
    else:
        await lose_connections(running)


@contextmanager
def away(consumer: Consumer) -> Iterator[None]:
    """The consumer refuses connections."""
    consumer.stop()
    try:
        yield
    finally:
        consumer.start()

"""The loss of a host: PostgreSQL runs on three, under Patroni; two receivers and two workers go on without a restart.

A sender keeps every 200 that it got. Each fault is a line of the table that pytest prints. Without `--long`, only the
worst of them is made.
"""

import asyncio
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep, time

import pytest

from tests.e2e.cluster import NAMES, PASSWORD, Cluster, Files, Node, cluster
from tests.e2e.conftest import Served, configured, environment_for, migrate
from tests.e2e.consumer import Consumer
from tests.e2e.faults import CannotRun
from tests.e2e.hosts import Host
from tests.e2e.sender import PATIENCE, Outcome, Sender, outcome_of, reference_of
from tests.e2e.test_deliveries import delivering
from tests.e2e.working import Working
from tests.pages import page

CONNECTIONS = 16
REST = 0.1  # seconds; a fault lasts some seconds, and each event is delivered by the end
WARM = 100  # events before a fault and after it; more than are under way at one moment
COMMIT_TIMEOUT = "1"  # seconds; less than Patroni takes to end a primary that is cut off, as with its defaults

ZEROS = ("lost", "duplicated", "strangers", "out_of_order")

Heal = Callable[[], None]


def nothing() -> None:
    """There is nothing to repair."""


def one(cluster: Cluster, role: str) -> Node:
    (node,) = cluster.with_role(role)
    return node


def lose(cluster: Cluster, role: str) -> Heal:
    lost = one(cluster, role)
    lost.lose_power()

    def bring_back() -> None:
        lost.host.plug()
        cluster.start(lost)

    return bring_back


def freeze(cluster: Cluster) -> Heal:
    frozen = one(cluster, "leader")
    frozen.host.freeze()
    return frozen.host.thaw


def cut_off(cluster: Cluster) -> Heal:
    apart = one(cluster, "leader")
    others = [node.host for node in cluster.nodes if node is not apart]
    apart.host.part(*others)
    return lambda: apart.host.meet(*others)


def switch_over(cluster: Cluster) -> Heal:
    cluster.switch_over()
    return nothing


def lose_member(cluster: Cluster) -> Heal:
    primary = one(cluster, "leader")
    primary.end_etcd()
    return lambda: cluster.start(primary)


def lose_etcd(cluster: Cluster) -> Heal:
    for node in cluster.nodes:
        node.end_etcd()
    return cluster.start


FAULTS: dict[str, Callable[[Cluster], Heal]] = {
    "the primary's host loses its power": lambda cluster: lose(cluster, "leader"),
    "the primary's host freezes, and is thawed": freeze,
    "the primary is cut off from the other hosts, and clients reach it": cut_off,
    "`patronictl switchover`": switch_over,
    "the synchronous standby's host loses its power": lambda cluster: lose(cluster, "sync_standby"),
    "the third host, the witness, loses its power": lambda cluster: lose(cluster, "replica"),
    "the primary's member of etcd is killed": lose_member,
    "etcd is killed on all hosts": lose_etcd,
}
SHORT = ("the primary is cut off from the other hosts, and clients reach it",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fault" in metafunc.fixturenames:
        metafunc.parametrize("fault", FAULTS if metafunc.config.getoption("--long") else SHORT)


class Company:
    """Two receivers and two workers of one database, a sender and a consumer."""

    def __init__(self, stack: ExitStack, folder: Path, url: str) -> None:
        self.url = url
        self.consumer = stack.enter_context(Consumer().running())
        settings = delivering(url, self.consumer) | {"commit_timeout": COMMIT_TIMEOUT}
        self.workers = [Working(folder, environment_for(**settings)) for _ in range(2)]
        with ThreadPoolExecutor() as pool:
            starting = [pool.submit(Served, folder, ("--port", "0"), environment_for(**settings)) for _ in range(2)]
            self.receivers = [each.result() for each in starting]
        self._processes: list[Served | Working] = [*self.receivers, *self.workers]
        for process in self._processes:
            stack.callback(process.close)
            stack.callback(process.kill)  # its end in good order would wait for the database, which is lost then
        for worker in self.workers:
            worker.until_started()
        addresses = [receiver.address for receiver in self.receivers]
        self.sender = Sender(*addresses, connections=CONNECTIONS, rest=REST)

    def runs(self) -> bool:
        """Whether all processes are those that were started."""
        return all(process.runs for process in self._processes)


def until_delivered(sender: Sender, consumer: Consumer) -> None:
    """Waits until each event is delivered that has its 200 by now."""
    wanted, until = set(sender.accepted.values()), monotonic() + PATIENCE
    while missing := wanted - {request.event_id for request in consumer.delivered()}:
        assert monotonic() < until, f"{len(missing)} are not delivered"
        sleep(0.2)


def out_of_order(sender: Sender, consumer: Consumer) -> int:
    """How many orders were not delivered in the order in which their events got their 200."""
    wanted: dict[str, list[str]] = defaultdict(list)
    for body, event_id in sender.accepted.items():
        wanted[reference_of(body)].append(event_id)
    accepted = set(sender.accepted.values())
    first: dict[str, dict[str, None]] = defaultdict(dict)
    for request in consumer.delivered():
        if request.event_id in accepted:
            first[request.reference].setdefault(request.event_id)
    return sum(list(first[reference]) != ids for reference, ids in wanted.items())


def strangers(sender: Sender, consumer: Consumer) -> int:
    """How many events were delivered that never got a 200 under this id."""
    return len({request.event_id for request in consumer.delivered()} - set(sender.accepted.values()))


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster | CannotRun]:
    with ExitStack() as stack:
        running: Cluster | CannotRun
        try:
            running = stack.enter_context(cluster())
        except CannotRun as reason:
            running = reason
        yield running


@pytest.fixture
def hosts(made: Cluster | CannotRun, record_property: Callable[[str, object], None]) -> Cluster:
    """The cluster, if this machine can have one; otherwise the table says why not."""
    if isinstance(made, CannotRun):
        record_property("failover", {"fault": "the loss of a host", "not run": str(made)})
        pytest.skip(f"not run: {made}")
    return made


@pytest.fixture(scope="module")
def company(made: Cluster | CannotRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company | None]:
    with ExitStack() as stack:
        if isinstance(made, CannotRun):
            yield None
        else:
            url = new_database(made, "synchronous")
            migrate(url)
            yield Company(stack, tmp_path_factory.mktemp("company"), url)


def new_database(cluster: Cluster, name: str) -> str:
    """The URL of a new database, whose role may see the standbys."""
    cluster.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_monitor", f"CREATE DATABASE {name} OWNER {name}"
    )
    return cluster.url(name, user=name)


def test_the_page_sets_up_a_host_as_this_test_does():
    hosts = [Host(name, f"10.0.0.{number}", "") for number, name in enumerate(NAMES, 2)]
    files = Files(Path("/own"), Path("/own/patroni.yml"), Path("/programs"), "postgres")
    nodes = [Node(host, host.name, files) for host in hosts]
    written = re.findall(r"^ +((?:ETCD|PATRONI)_\w+)=(.+)$", page("failover"), re.MULTILINE)
    tested = nodes[0].etcd(nodes) | nodes[0].environment(nodes)
    assert [name for name, _ in written] == list(tested)
    assert {name: value for name, value in written if value[0] not in "/…"}.items() <= tested.items()


def judged(outcome: Outcome, sender: Sender, consumer: Consumer) -> dict[str, object]:
    """A line of the table."""
    return {
        "replication": "synchronous",
        "acknowledged": outcome.acknowledged,
        "lost": outcome.lost,
        "duplicated": outcome.duplicated,
        "strangers": strangers(sender, consumer),
        "out_of_order": out_of_order(sender, consumer),
    }


def longest(times: list[float], *, since: float, until: float) -> float:
    """The longest time without any, in seconds."""
    within = [since, *(each for each in times if since < each < until), until]
    return max(later - earlier for earlier, later in pairwise(within))


async def test_an_acknowledged_event_survives(fault, hosts, company, long, record_property):
    sender, consumer, known = company.sender, company.consumer, len(company.sender.accepted)
    await asyncio.to_thread(hosts.until_well)
    async with sender.running():
        await sender.more(200, WARM)
        await asyncio.to_thread(until_delivered, sender, consumer)
        since, clock = monotonic(), time() - monotonic()
        heal = await asyncio.to_thread(FAULTS[fault], hosts)
        await sender.more(200, WARM)
        await asyncio.to_thread(until_delivered, sender, consumer)
        await asyncio.to_thread(heal)
        if long:
            await asyncio.to_thread(hosts.until_well)
        await sender.more(200, WARM)
        until = monotonic()
    await asyncio.to_thread(until_delivered, sender, consumer)
    outcome = await outcome_of(sender, company.url)
    row = {
        **judged(outcome, sender, consumer),
        "fault": fault,
        "acknowledged": len(sender.accepted) - known,
        "without_200": longest(sender.accepted_at, since=since, until=until),
        "without_delivery": longest([request.at - clock for request in consumer.delivered()], since=since, until=until),
    }
    record_property("failover", row)
    assert {name: row[name] for name in ZEROS} == dict.fromkeys(ZEROS, 0)
    assert outcome.strangers == 0
    assert sender.accepted.keys() == sender.sent
    assert set(sender.answers) <= {200, 503}
    assert sender.broken == 0
    assert company.runs()
    told = ["survives the loss of any machine", *(("database_lost", "database_back") if fault in SHORT else ())]
    assert [words for words in told for receiver in company.receivers if words not in receiver.stderr] == []


@pytest.mark.long
async def test_nothing_is_lost_on_the_way_from_sqlite_to_three_hosts(hosts, tmp_path, record_property):
    with ExitStack() as stack:
        consumer = stack.enter_context(Consumer().running())
        settings = delivering("sqlite+aiosqlite:///priohook.db", consumer)

        def serve(**settings: str) -> Served:
            served = Served(tmp_path, ("--port", "0"), environment_for(**settings), with_worker=True)
            stack.callback(served.close)
            return served

        first = await asyncio.to_thread(serve, **settings)
        sender = Sender(first.address, connections=CONNECTIONS, rest=REST)
        async with sender.running():
            await sender.more(200, WARM)
            await asyncio.to_thread(hosts.until_well)
            url = await asyncio.to_thread(new_database, hosts, "moved")
            move = [sys.executable, "-m", "app", "move", url]
            env = environment_for(**settings)
            assert await asyncio.to_thread(subprocess.call, move, cwd=tmp_path, env=env, timeout=PATIENCE) == 0
            await sender.more(200, WARM)
            second = await asyncio.to_thread(serve, **delivering(url, consumer))
            sender.addresses = (first.address, second.address)
            await sender.more(200, WARM)
            refused = sender.answers.total() - sender.answers[200] + sender.broken
            bring_back = await asyncio.to_thread(lose, hosts, "leader")
            await sender.more(200, WARM)
            await asyncio.to_thread(bring_back)
            await asyncio.to_thread(hosts.until_well)
            await sender.more(200, WARM)
        await asyncio.to_thread(until_delivered, sender, consumer)
        outcome = await outcome_of(sender, url)
        row = judged(outcome, sender, consumer) | {
            "fault": "`priohook move` from SQLite, one more receiver, then the primary's host loses its power"
        }
        record_property("failover", row)
        assert {name: row[name] for name in ZEROS} == dict.fromkeys(ZEROS, 0)
        assert (outcome.strangers, refused) == (0, 0)
        assert sender.accepted.keys() == sender.sent


async def test_with_asynchronous_replication_the_same_loses_events(hosts, tmp_path, record_property):
    await asyncio.to_thread(hosts.until_well, count=2)
    await asyncio.to_thread(hosts.change, synchronous_mode=False)
    await asyncio.to_thread(hosts.until_well, count=2, synchronous=False)
    url = await asyncio.to_thread(new_database, hosts, "asynchronous")
    await asyncio.to_thread(migrate, url)
    receiver = await asyncio.to_thread(
        Served, tmp_path, ("--port", "0"), environment_for(**configured(url, commit_timeout=COMMIT_TIMEOUT))
    )
    sender = Sender(receiver.address, connections=CONNECTIONS, rest=REST)
    primary = await asyncio.to_thread(one, hosts, "leader")  # which is no leader any more if all this takes long
    try:
        async with sender.running():
            await sender.more(200, WARM)
            await asyncio.to_thread(cut_off, hosts)
            await sender.more(200, WARM)
            await asyncio.to_thread(primary.lose_power)
            since = monotonic()
            await sender.more(200, WARM)
            until = monotonic()
        outcome = await outcome_of(sender, url)
        row = {
            "fault": "the primary is cut off for a moment, then its host loses its power",
            "replication": "asynchronous",
            "acknowledged": outcome.acknowledged,
            "lost": outcome.lost,
            "duplicated": outcome.duplicated,
            "without_200": longest(sender.accepted_at, since=since, until=until),
        }
        record_property("failover", row)
        assert outcome.lost > 0
    finally:
        await asyncio.to_thread(receiver.close)

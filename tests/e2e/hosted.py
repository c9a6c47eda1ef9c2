"""All of priohook on hosts of a network: PostgreSQL, two receivers, two workers, their consumer and their sender."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import postgres
from tests.e2e.conftest import Served, configured, empty_database, environment_for, migrate
from tests.e2e.consumer import Consumer
from tests.e2e.faults import CannotRun, Preloaded, preloaded
from tests.e2e.hosts import Host, network
from tests.e2e.names import Names
from tests.e2e.working import Working

PORT = 8000
ATTEMPT = '"event":"attempt"'
LINES = 40  # of a log that are shown
TAKES = 0.1  # seconds of the consumer for an answer, so that something is always under way
TIMEOUT = 1  # seconds for one attempt, so that a claim lasts for six
DATABASE, CONSUMER = "database.test", "consumer.test"


@dataclass
class Hosts:
    """The hosts, their database server and their name server.

    Attributes:
        skewed: Makes clocks that differ; None if it cannot be compiled here.
    """

    sender: Host
    receivers: tuple[Host, Host]
    database: Host
    workers: tuple[Host, Host]
    consumer: Host
    server: postgres.Server
    names: Names
    skewed: Preloaded | None
    migrated: str
    """The name of a migrated database."""

    @property
    def all(self) -> tuple[Host, ...]:
        return (self.sender, *self.receivers, self.database, *self.workers, self.consumer)


@contextmanager
def hosts() -> Iterator[Hosts]:
    """The hosts, with a PostgreSQL that waits for its disk.

    Raises:
        CannotRun: there is no network of its own.
    """
    with ExitStack() as stack:
        made = stack.enter_context(network("s", "ra", "rb", "db", "wa", "wb", "c"))
        sender, first, second, database, one, other, consumer = made
        names = stack.enter_context(Names(sender.outside).running())
        names.known |= {DATABASE: database.address, CONSUMER: consumer.address}
        for host in made:
            host.ask(sender.outside)
        try:
            skewed: Preloaded | None = stack.enter_context(preloaded())
        except CannotRun:
            skewed = None
        server = stack.enter_context(
            postgres.server(
                durable=True,
                environment=skewed.environment if skewed else {},
                address=database.address,
                there=database.command,
            )
        )
        migrated = stack.enter_context(empty_database(server.url()))
        migrate(migrated)
        like = migrated.rpartition("/")[2]
        yield Hosts(sender, (first, second), database, (one, other), consumer, server, names, skewed, like)


@dataclass
class Hosted:
    """priohook on the hosts.

    Attributes:
        url: The database's, for the test.
        settings: Of all processes; may change before a start.
        environments: More of the environment of what runs on a host.
        alone: Whether it is one receiver with a worker beside it.
    """

    hosts: Hosts
    url: str
    folder: Path
    consumer: Consumer
    settings: dict[str, str]
    environments: dict[Host, Mapping[str, str]] = field(default_factory=dict)
    alone: bool = False
    running: dict[Host, Served | Working] = field(default_factory=dict)
    _ended: list[Served | Working] = field(default_factory=list)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Of the receivers."""
        return [(host.address, PORT) for host in self.hosts.receivers]

    async def start(self, *hosts: Host) -> None:
        """Starts the receivers and workers of these hosts, by default of all, at the same time."""
        some = hosts or (self.hosts.receivers[:1] if self.alone else self.hosts.all)
        receivers = (asyncio.to_thread(self._receive, host) for host in self.hosts.receivers if host in some)
        workers = (asyncio.to_thread(self._work, host) for host in self.hosts.workers if host in some)
        await asyncio.gather(*receivers, *workers)

    def reap(self, hosts: Iterable[Host]) -> None:
        """Waits for the processes of hosts that were killed."""
        for host in hosts:
            if process := self.running.pop(host, None):
                process.wait()
                self._ended.append(process)

    async def end(self) -> set[str]:
        """Ends all processes, and returns the hosts of those that do not exit with 0."""
        statuses = await asyncio.gather(*(asyncio.to_thread(process.end) for process in self.running.values()))
        return {host.name for host, status in zip(self.running, statuses, strict=True) if status}

    async def busiest(self) -> Host:
        """The host of the worker that now makes the most attempts: often one makes all of them."""
        before = self._attempts()
        while (after := self._attempts()) == before:  # noqa: ASYNC110 - it reads logs
            await asyncio.sleep(0.5)
        return max(after, key=lambda host: after[host] - before.get(host, 0))

    def _attempts(self) -> dict[Host, int]:
        return {host: _log_of(self.running[host]).count(ATTEMPT) for host in self.hosts.workers if host in self.running}

    def close(self) -> None:
        for process in (*self.running.values(), *self._ended):
            process.close()

    def logs(self) -> str:
        """The last lines of every process that runs."""
        return "\n\n".join(
            "\n".join([host.name, *_log_of(process).splitlines()[-LINES:]]) for host, process in self.running.items()
        )

    def _environment(self, host: Host) -> dict[str, str]:
        return environment_for(**self.settings) | dict(self.environments.get(host, {}))

    def _receive(self, host: Host) -> None:
        arguments = ("--host", host.address, "--port", str(PORT))
        command = host.command(sys.executable, "-m", "app")
        environment = self._environment(host)
        self.running[host] = Served(self.folder, arguments, environment, command=command, with_worker=self.alone)

    def _work(self, host: Host) -> None:
        working = Working(self.folder, self._environment(host), command=host.command(sys.executable, "-m", "app"))
        self.running[host] = working
        working.until_started()


def settings_for(database: str, consumer: str) -> dict[str, str]:
    """The settings of all processes, with the URLs of the database and of the consumer."""
    erp = {"url": consumer, "timeout": TIMEOUT, "max_in_flight": 16}
    return configured(database, destinations=json.dumps({"erp": erp}), commit_timeout="1")


@contextmanager
def prepared(on: Hosts) -> Iterator[Hosted]:
    """priohook with an empty database of its own and a consumer that listens; nothing is started."""
    consumer = Consumer(address=on.consumer.address, inside=on.consumer.entered, takes=TAKES)
    with (
        tempfile.TemporaryDirectory(prefix="priohook-hosted-") as folder,
        empty_database(on.server.url(), like=on.migrated) as url,
        consumer.running(),
    ):
        hosted = Hosted(on, url, Path(folder), consumer, settings_for(url, consumer.url))
        try:
            yield hosted
        finally:
            hosted.close()
            if not on.server.runs():
                on.server.start()


def _log_of(process: Served | Working) -> str:
    return process.stderr if isinstance(process, Served) else process.log

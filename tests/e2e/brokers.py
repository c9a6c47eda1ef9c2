"""Message brokers as child processes, with folders and ports of their own, and deliveries to them."""

import asyncio
import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from time import monotonic, sleep
from typing import Any

from app.deliveries.destinations.kinds import open_destination
from app.deliveries.results import Outcome
from app.deliveries.tables import AttemptResult, Delivery
from app.settings.model import DestinationSettings
from tests.deliveries.claims import new_claim
from tests.e2e.consumer import PATIENCE
from tests.e2e.test_deliveries import stored

STARTS_WITHIN = 120.0  # seconds; a bound for a slow machine, never waited for

LARGE = 32 << 20  # bytes; more than the buffers of both ends hold

NATS = """
listen: 127.0.0.1:{port}
max_payload: {max_payload}
jetstream {{ store_dir: "{folder}/jetstream" }}
{more}
"""


class Server:
    """A broker as a child process."""

    _process: subprocess.Popen[Any]

    def freeze(self) -> None:
        _freeze(self._process)

    def thaw(self) -> None:
        self._process.send_signal(SIGCONT)

    def kill(self) -> None:
        self._process.send_signal(SIGKILL)
        self._process.wait()

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()


class NATSServer(Server):
    """A nats-server with JetStream, whose streams are files.

    Args:
        folder: Its own.
        more: What else its configuration says.
        max_payload: Bytes.
    """

    def __init__(self, folder: Path, *, more: str = "", max_payload: int = 1 << 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._config = folder / "nats.conf"
        self._config.write_text(NATS.format(port=self.port, folder=folder, more=more, max_payload=max_payload))
        self._log = folder / "nats.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["nats-server", "-c", self._config], stdout=log, stderr=log)  # noqa: S607
        until(lambda: listens(self.port), self._log)


RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Not the one in PATH, which becomes another user."""

CONFIG = """
listeners.tcp.1 = 127.0.0.1:{port}
log.console = true
log.console.level = warning
"""

TLS_CONFIG = """
listeners.ssl.1 = 127.0.0.1:{tls_port}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {certificate}
"""


class RabbitMQ(Server):
    """A rabbitmq-server with a port mapper of its own, as otherwise one would stay behind."""

    def __init__(self, folder: Path, *, certificate: Path) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self.url = f"amqp://127.0.0.1:{self.port}"
        mapper = str(free_port())
        (folder / "rabbitmq.conf").write_text((CONFIG + TLS_CONFIG).format(**vars(self), certificate=certificate))
        (folder / "plugins").write_text("[].")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ERL_EPMD_PORT": mapper,
            "RABBITMQ_NODENAME": f"priohook{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none -noinput",
            "RABBITMQ_ALLOW_INPUT": "1",  # otherwise a shell stays between the server and us
        }
        self._log = folder / "rabbitmq.log"
        self._mapper = subprocess.Popen(["epmd", "-port", mapper, "-address", "127.0.0.1"])  # noqa: S607
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [RABBITMQ], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        until(lambda: listens(self.tls_port) and listens(self.port), self._log)

    def control(self, *arguments: str) -> None:
        """Runs `rabbitmqctl`."""
        subprocess.run(
            [RABBITMQ.with_name("rabbitmqctl"), *arguments], env=self._environment, check=True, capture_output=True
        )

    def close(self) -> None:
        super().close()
        self._mapper.kill()
        self._mapper.wait()


class MockKafka(Server):
    """librdkafka's cluster of three brokers, in a process of its own."""

    _process: subprocess.Popen[str]

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.mock_kafka"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.servers = self._read()
        self.url = f"kafka://{self.servers}"

    def do(self, *command: str | int) -> None:
        """Does what `mock_kafka` understands."""
        assert self._process.stdin
        print(*command, file=self._process.stdin, flush=True)
        assert self._read() == "done"

    def close(self) -> None:
        super().close()
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@asynccontextmanager
async def sending(url: str, **settings: Any) -> AsyncIterator[Callable[..., Any]]:
    """`async with sending("nats://…", subject="…") as send`: `await send(reference="P1")` makes one attempt."""
    destination = open_destination(DestinationSettings.model_validate({"url": url, "timeout": 30, **settings}))

    async def send(**changes: Any) -> Outcome:
        return await destination.send(new_claim(**changes), now=datetime.now(UTC))

    try:
        yield send
    finally:
        await destination.close()


async def arrives(send: Callable[..., Any], **changes: Any) -> None:
    """Makes attempts until one is delivered: the machine may be too slow for a short timeout."""
    ends = monotonic() + STARTS_WITHIN
    while (outcome := await send(**changes)).result is not AttemptResult.DELIVERED:
        assert monotonic() < ends, outcome


async def given_up(server: Server, send: Callable[..., Any]) -> None:
    """Gives up a message of `LARGE` bytes, most of which are still in our buffers, and thaws the server at once."""
    await arrives(send)
    server.freeze()
    large = asyncio.create_task(send(body=bytes(LARGE)))
    await asyncio.sleep(0.5)  # longer than a library may take to give up
    beside = await send()
    assert (await large).result is AttemptResult.TIMED_OUT
    server.thaw()
    assert beside.result is AttemptResult.UNREACHABLE
    assert beside.error.startswith("It did not confirm the message: ")
    await arrives(send)
    await asyncio.sleep(0.5)  # time for what must not arrive


@asynccontextmanager
async def hanging_up() -> AsyncIterator[int]:
    """The port of a server that closes each connection at once, as a balancer does that has nobody behind it."""
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def until_delivered(
    url: str, events: int, priohook: Callable[..., subprocess.CompletedProcess[str]], settings: dict[str, str]
) -> None:
    """Waits until all these events are delivered to `erp`, without waiting for back-offs."""
    ends = monotonic() + PATIENCE
    while [row.status for row in asyncio.run(stored(url, Delivery))] != ["delivered"] * events:
        assert monotonic() < ends
        assert priohook("destinations", "resume", "erp", **settings).returncode == 0


def in_order(arrived: Iterable[tuple[str, str]], sent: Iterable[tuple[str, str]]) -> None:
    """Checks that all that was sent has arrived, and the first copies of a reference's events in their order.

    Both are pairs of a reference and an event's id.
    """
    firsts: dict[str, list[str]] = defaultdict(list)
    for reference, event_id in arrived:
        if event_id not in firsts[reference]:
            firsts[reference].append(event_id)
    expected: dict[str, list[str]] = defaultdict(list)
    for reference, event_id in sent:
        expected[reference].append(event_id)
    assert firsts == expected


def _freeze(process: subprocess.Popen[Any]) -> None:
    process.send_signal(SIGSTOP)
    until(lambda: set(_states(process.pid)) == {"T"})


def _states(pid: int) -> list[str]:
    """The state of each thread, a letter."""
    stats = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat"))
    return [each.rpartition(")")[2].split()[0] for each in stats]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def until(true: Callable[[], bool], log: Path | None = None) -> None:
    """Waits until `true()` is true."""
    ends = monotonic() + STARTS_WITHIN
    while not true():
        assert monotonic() < ends, log.read_text() if log else ""
        sleep(0.02)

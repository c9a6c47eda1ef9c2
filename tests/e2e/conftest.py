import asyncio
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from app.database import engines, migrations, schema
from tests.conftest import CLIENTS, WEBHOOK, basic_header
from tests.e2e.faults import CannotRun
from tests.e2e.tables import TABLES

LISTENS = "priohook listens at "
SIMULATED = "The simulated Prioticket answers at "
API_SECRET = "not-a&real#secret"
SEED = 5
"""Of the simulated Prioticket."""

ANSWERS_WITHIN = 60.0  # seconds; a bound for a slow machine, never waited for
ENDS_WITHIN = 120.0  # seconds; likewise

AUTHORIZATION = "Authorization: " + basic_header()["Authorization"]
JSON = "Content-Type: application/json"

# Under nohup it is ignored, and every process started here would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Served:
    """A `priohook serve` in a process of its own."""

    def __init__(
        self,
        folder: Path,
        arguments: tuple[str, ...],
        environment: dict[str, str],
        *,
        command: Sequence[str] = (sys.executable, "-m", "app"),
        with_worker: bool = False,
        inherits_orphans: bool = False,
    ) -> None:
        self._stderr = (folder / f"stderr-{uuid4().hex}").open("w+")
        self._process = subprocess.Popen(
            [*command, "serve", *([] if with_worker else ["--no-worker"]), *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            bufsize=1,
            preexec_fn=inherit_orphans if inherits_orphans else None,  # noqa: PLW1509 - no thread of ours runs
        )
        self.pid = self._process.pid
        self.stdout = ""
        while not self.stdout.startswith(LISTENS):
            line = self._line()
            if not line:
                why = f"it did not start: {self.end()}\n{self.stdout}{self.stderr}"
                self.close()
                raise AssertionError(why)
            self.stdout += line
        self.url = self.stdout.removeprefix(LISTENS).strip()
        parts = urlsplit(self.url)
        self.address = ("127.0.0.1" if parts.hostname == "0.0.0.0" else str(parts.hostname), int(parts.port or 0))  # noqa: S104

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        self._stderr.seek(0)
        return self._stderr.read()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def end_of_banner(self) -> None:
        """Reads standard output until the credentials were printed."""
        while "webhook_auth" not in self.stdout:
            line = self._line()
            assert line, self.stdout
            self.stdout += line

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def end(self) -> int:
        """Ends it with SIGTERM if it still runs, and returns its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        with self._bounded():
            status = self._process.wait()
        assert self._process.stdout
        if not self._process.stdout.closed:
            self.stdout += self._process.stdout.read()
            self._process.stdout.close()
        return status

    def close(self) -> None:
        self.end()
        self._stderr.close()

    def _line(self) -> str:
        assert self._process.stdout
        with self._bounded():
            return self._process.stdout.readline()

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Kills the process if it takes too long, so that no test waits for ever."""
        timer = Timer(ENDS_WITHIN, self._process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def inherit_orphans() -> None:
    """Makes this process inherit orphans, as process 1 of a container does: prctl(PR_SET_CHILD_SUBREAPER)."""
    if ctypes.CDLL(None).prctl(36, 1, 0, 0, 0):
        os._exit(99)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Wire:
    """One connection to a server, byte by byte."""

    def __init__(self, address: tuple[str, int], *, timeout: float = ANSWERS_WITHIN) -> None:
        self._socket = socket.create_connection(address, timeout=timeout)
        self._file = self._socket.makefile("rb")

    def send(self, *parts: bytes) -> Self:
        for part in parts:
            self._socket.sendall(part)
        return self

    def reset(self) -> None:
        """Hangs up at once with a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def reply(self, *, to: str = "POST") -> Reply:
        """The next answer. An answer to HEAD has no body."""
        _, status, *_ = self._file.readline().decode().split(" ", 2)
        headers: dict[str, str] = {}
        while line := self._file.readline().decode("latin-1").strip():
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        size = 0 if to == "HEAD" else int(headers.get("content-length", "0"))
        return Reply(int(status), headers, self._file.read(size))

    def ended(self) -> bool:
        """Whether the server closes the connection and sends nothing more."""
        with suppress(ConnectionResetError):  # what it did not read makes of the end a reset
            return self._file.read(1) == b""
        return True

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextmanager
def dial(server: Served, *, timeout: float = ANSWERS_WITHIN) -> Iterator[Wire]:
    wire = Wire(server.address, timeout=timeout)
    try:
        yield wire
    finally:
        wire.close()


def request(
    body: bytes = b"",
    *headers: str,
    method: str = "POST",
    target: str = WEBHOOK,
    version: str = "HTTP/1.1",
    authorization: str | None = AUTHORIZATION,
    content_type: str | None = JSON,
    length: int | None = -1,
) -> bytes:
    """A request as bytes. `length` is a wrong Content-Length; None leaves the header out."""
    lines = [f"{method} {target} {version}", "Host: priohook", *headers]
    lines += [line for line in (authorization, content_type) if line]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def new_event(reference: str = "P1") -> bytes:
    """The body of an event that no other test sends."""
    notification = {
        "notification_id": str(uuid4()),
        "notification_event": "ORDER_CREATE",
        "notification_item_id": reference,
    }
    return json.dumps({"api_version": "3.8", "data": {"kind": "notification", "notification": notification}}).encode()


def environment_for(**settings: str) -> dict[str, str]:
    """This process's environment with these settings and no others."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PRIOHOOK_")}
    here = str(schema.PACKAGE.parent)
    return {**plain, "PYTHONPATH": here, **{f"PRIOHOOK_{name.upper()}": value for name, value in settings.items()}}


def configured(url: str, **settings: str) -> dict[str, str]:
    """Settings with clients and a database."""
    return {"database_url": url, "clients": json.dumps(CLIENTS), "log_format": "json", **settings}


@contextmanager
def serving(folder: Path, *arguments: str, **settings: str) -> Iterator[Served]:
    served = Served(folder, arguments or ("--port", "0"), environment_for(**settings))
    try:
        yield served
    finally:
        served.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """`serve("--host", "0.0.0.0", database_url=…)` starts a server in `tmp_path`, which ends after the test."""
    running: list[Served] = []

    def serve(*arguments: str, with_worker: bool = False, inherits_orphans: bool = False, **settings: str) -> Served:
        environment = environment_for(**settings)
        server = Served(
            tmp_path,
            ("--port", "0", *arguments),
            environment,
            with_worker=with_worker,
            inherits_orphans=inherits_orphans,
        )
        running.append(server)
        return running[-1]

    yield serve
    for server in running:
        server.close()


@pytest.fixture
def priohook(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`priohook("migrate", database_url=…)` runs a command to its end in `tmp_path`."""

    def run(*arguments: str, given: str | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            input=given,
            cwd=tmp_path,
            env=environment_for(**settings),
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN,
            check=False,
        )

    return run


class Simulated:
    """A `priohook simulate --serve` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "app", "simulate", "--serve", "127.0.0.1:0", "--seed", str(SEED), "--json"]
        self._process = subprocess.Popen(
            [*command, "--api-client", f"demo:{API_SECRET}", *arguments],
            cwd=folder,
            env=environment_for(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        timer = Timer(ENDS_WITHIN, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        assert line.startswith(SIMULATED), line
        self.url = line.removeprefix(SIMULATED).strip()
        self.settings = {
            "prioticket__base_url": self.url,
            "prioticket__client_id": "demo",
            "prioticket__client_secret": API_SECRET,
        }

    def end(self) -> dict[str, Any]:
        """Ends it, and returns what it says of the run."""
        self._process.terminate()
        written, _ = self._process.communicate(timeout=ENDS_WITHIN)
        assert self._process.returncode == 0
        return dict(json.loads(written))

    def close(self) -> None:
        if self._process.poll() is None:
            self.end()


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[Callable[..., Simulated]]:
    running: list[Simulated] = []

    def start(*arguments: str) -> Simulated:
        running.append(Simulated(tmp_path, *arguments))
        return running[-1]

    yield start
    for each in running:
        each.close()


@contextmanager
def empty_database(server_url: str, *, like: str = "template1") -> Iterator[str]:
    """A new database with the tables and rows of another one, by default none, dropped at the end."""
    name = f"priohook_{uuid4().hex}"
    asyncio.run(_execute(server_url, f"CREATE DATABASE {name} TEMPLATE {like}"))
    yield server_url.rpartition("/")[0] + "/" + name
    asyncio.run(_execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


@contextmanager
def unless_it_cannot(record_property: Callable[[str, object], None], table: str, **row: str) -> Iterator[None]:
    """Notes in a table that this machine cannot make the fault."""
    try:
        yield
    except CannotRun as reason:
        record_property(table, {**row, "not run": str(reason)})
        pytest.skip(f"not run: {reason}")


@pytest.fixture
def empty_postgres_url(postgres_server_url: str) -> Iterator[str]:
    with empty_database(postgres_server_url) as url:
        yield url


def migrate(url: str) -> None:
    async def run() -> None:
        async with engines.engine_for(url) as engine:
            await migrations.migrate(engine)

    asyncio.run(run())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the tables of faults from what the tests recorded, whether they passed or not."""
    found = terminalreporter.stats.values()
    properties = [
        recorded
        for reports in found
        for report in reports
        if getattr(report, "when", None) == "call"
        for recorded in report.user_properties
    ]
    for name, table in TABLES.items():
        if rows := [row for kind, row in properties if kind == name]:
            terminalreporter.section(table.title)
            terminalreporter.write("".join(f"{line}\n" for line in table.lines(rows)))
            if terminalreporter.config.getoption("--record") and table.page:
                table.record(rows)

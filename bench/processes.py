"""Server processes, and what the kernel says they take. Linux only, as it reads /proc."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from app.settings.clients import Scope
from bench.load import PASSWORD, PROJECT, USERNAME

STARTS_WITHIN = 30.0  # seconds
ENDS_WITHIN = 40.0  # seconds
LISTENS = b" listens at "
TICKS = os.sysconf("SC_CLK_TCK")
LOGS_END = ("tail", "--bytes=2000")

Process = subprocess.Popen[bytes]
MODULES = {"receiver": ("app", "serve", "--port", "0", "--no-worker"), "fastapi": ("bench.twin",)}
"""What starts a target that is not one of `bench.targets`: `receiver` is what an operator runs."""


class Target:
    """One running server.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, process: Process, url: str) -> None:
        self.pid = process.pid
        self.url = url
        self._process = process

    def line(self) -> str:
        """The next that it writes on its standard output."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe, see below
        return self._process.stdout.readline().decode()


@contextmanager
def running(name: str, database_url: str) -> Iterator[Target]:
    """A started server.

    Its log goes into a pipe and is thrown away but for the end, as fast as a container's runtime would read it.

    Raises:
        RuntimeError: it did not start; the text has the end of its log.
    """
    module = MODULES.get(name, ("bench.targets", name))
    with (
        subprocess.Popen(LOGS_END, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as log,
        started(module, database_url, stdout=subprocess.PIPE, stderr=log.stdin) as process,
    ):
        assert log.stdin is not None and log.stdout is not None  # noqa: S101, PT018 - pipes, see above
        log.stdin.close()
        url = _url(process)
        if url is None:
            raise RuntimeError(f"{name} did not start: {log.stdout.read().decode()}")
        yield Target(process, url)


@contextmanager
def working(database_url: str, destinations: Mapping[str, Mapping[str, object]]) -> Iterator[int]:
    """A worker; gives its process id."""
    settings = {"DESTINATIONS": json.dumps(destinations)}
    with started(("app", "worker"), database_url, settings, stderr=subprocess.DEVNULL) as process:
        yield process.pid


@contextmanager
def started(
    module: Sequence[str], database_url: str, settings: Mapping[str, str] | None = None, **streams: Any
) -> Iterator[Process]:
    """A process that runs a module with arguments and with the benchmark's settings alone, ended with SIGTERM."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PRIOHOOK_")}
    clients = {USERNAME: {"secret": PASSWORD, "scopes": [Scope.SEND]}}
    ours = {"DATABASE_URL": database_url, "CLIENTS": json.dumps(clients), "LOG_FORMAT": "json", **(settings or {})}
    environment = {**plain, **{f"PRIOHOOK_{name}": value for name, value in ours.items()}}
    with subprocess.Popen((sys.executable, "-m", *module), cwd=PROJECT, env=environment, **streams) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its threads, its live descendants, and of those that it has waited for."""
    # Behind the name in brackets, which may hold spaces: proc(5), fields 14 to 17.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(int(each) for each in fields[11:15]) / TICKS
    return own + sum(_or_zero(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """The processes that this one started, by all of its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def rss_mb(pid: int) -> float:
    """Resident memory in MB of 10^6 bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return kibibytes * 1024 / 1e6


def written_bytes(pid: int) -> float:
    """What a process has had written to disk."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def _or_zero(pid: int) -> float:
    try:
        return cpu_seconds(pid)
    except OSError:
        return 0.0  # it ended meanwhile


def _url(process: Process) -> str | None:
    """Where a server says that it listens; None if it ended."""
    assert process.stdout is not None  # noqa: S101 - a pipe, see above
    timer = Timer(STARTS_WITHIN, process.kill)
    timer.start()
    try:
        found = (line.rstrip().partition(LISTENS) for line in process.stdout)
        return next((url.decode() for _, listens, url in found if listens), None)
    finally:
        timer.cancel()

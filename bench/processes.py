"""Server processes, and what the kernel says they take. Linux only, as it reads /proc."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from app.settings.clients import Scope
from bench.load import PASSWORD, PROJECT, USERNAME

LISTENS = b" listens at "
TICKS = os.sysconf("SC_CLK_TCK")
CLIENTS = {USERNAME: {"secret": PASSWORD, "scopes": [Scope.SEND]}}
MODULES = {"receiver": ("app", "serve", "--port", "0", "--no-worker"), "fastapi": ("bench.twin",)}
"""What starts a server that is not one of `bench.targets`: `receiver` is what an operator runs."""

Process = subprocess.Popen[bytes]


class Server(NamedTuple):
    """A server that listens at its URL."""

    process: Process
    url: str

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


@contextmanager
def running(name: str, database_url: str, *options: str) -> Iterator[Server]:
    """A started server.

    Its log goes into a pipe and is thrown away but for the end, as fast as a container's runtime would read it.

    Raises:
        RuntimeError: it did not start; the text has the end of its log.
    """
    command = (*MODULES.get(name, ("bench.targets", name)), *options)
    with (
        subprocess.Popen(("tail", "--bytes=2000"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as log,  # noqa: S607
        started(command, database_url, stdout=subprocess.PIPE, stderr=log.stdin) as process,
    ):
        log.stdin.close()  # type: ignore[union-attr] # a pipe
        found = (line.rstrip().partition(LISTENS) for line in process.stdout or ())
        url = next((url.decode() for _, listens, url in found if listens), None)
        if url is None:
            raise RuntimeError(f"{name} did not start: {log.stdout.read().decode()}")  # type: ignore[union-attr] # too
        yield Server(process, url)


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
    ours = {"DATABASE_URL": database_url, "CLIENTS": json.dumps(CLIENTS), "LOG_FORMAT": "json", **(settings or {})}
    environment = {**plain, **{f"PRIOHOOK_{name}": value for name, value in ours.items()}}
    with subprocess.Popen((sys.executable, "-m", *module), cwd=PROJECT, env=environment, **streams) as process:
        try:
            yield process
        finally:
            process.terminate()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its threads, its live descendants, and of those that it has waited for."""
    try:
        # Behind the name in brackets, which may hold spaces: proc(5), fields 14 to 17.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        tasks = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return 0.0  # it ended meanwhile
    return sum(map(int, fields[11:15])) / TICKS + sum(cpu_seconds(int(child)) for child in " ".join(tasks).split())


def rss_mb(pid: int) -> float:
    """Resident memory in MB of 10^6 bytes."""
    return _field(f"/proc/{pid}/status", "VmRSS:") * 1024 / 1e6


def written_bytes(pid: int) -> float:
    """What a process has had written to disk."""
    return _field(f"/proc/{pid}/io", "write_bytes:")


def _field(file: str, name: str) -> float:
    return next(float(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(name))

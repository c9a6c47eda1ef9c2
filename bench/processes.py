"""Server processes, and what the kernel says they take. Linux only, as it reads /proc."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, Timer

from app.settings.clients import Scope
from bench.load import PASSWORD, PROJECT, USERNAME

STARTS_WITHIN = 30.0  # seconds
ENDS_WITHIN = 40.0  # seconds
LISTENS = " listens at "
TICKS = os.sysconf("SC_CLK_TCK")
READ_BYTES = 65536


class Target:
    """One running server.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", url: str) -> None:
        self.pid = process.pid
        self.url = url
        self._process = process

    def line(self) -> str:
        """The next that it writes on its standard output."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe, see below
        return self._process.stdout.readline().decode()


def command_for(name: str) -> list[str]:
    """The command that starts a target: `receiver` is what an operator runs."""
    if name == "receiver":
        return [sys.executable, "-m", "app", "serve", "--port", "0", "--no-worker"]
    if name == "fastapi":
        return [sys.executable, "-m", "bench.twin"]
    return [sys.executable, "-m", "bench.targets", name]


@contextmanager
def running(name: str, database_url: str) -> Iterator[Target]:
    """A started server, ended with SIGTERM.

    Its log goes into a pipe and is thrown away but for the end, as fast as a container's runtime would read it.

    Raises:
        RuntimeError: it did not start; the text has the end of its log.
    """
    process = subprocess.Popen(
        command_for(name),
        cwd=PROJECT,
        env=environment(database_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    log: deque[bytes] = deque(maxlen=4)
    reader = Thread(target=_drain, args=(process, log), daemon=True)
    reader.start()
    try:
        yield Target(process, _wait_for_url(name, process, log))
    finally:
        process.terminate()
        try:
            process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def working(database_url: str, destinations: Mapping[str, Mapping[str, object]]) -> Iterator[int]:
    """A worker, ended with SIGTERM; gives its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "worker"],
        cwd=PROJECT,
        env=environment(database_url) | {"PRIOHOOK_DESTINATIONS": json.dumps(destinations)},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def environment(database_url: str) -> dict[str, str]:
    """This process's environment with the benchmark's settings alone."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PRIOHOOK_")}
    clients = {USERNAME: {"secret": PASSWORD, "scopes": [Scope.SEND]}}
    ours = {"DATABASE_URL": database_url, "CLIENTS": json.dumps(clients), "LOG_FORMAT": "json"}
    return {**plain, **{f"PRIOHOOK_{name}": value for name, value in ours.items()}}


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


def _wait_for_url(name: str, process: "subprocess.Popen[bytes]", log: deque[bytes]) -> str:
    assert process.stdout is not None  # noqa: S101 - a pipe, see above
    timer = Timer(STARTS_WITHIN, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            _, listens, url = line.decode().rstrip().partition(LISTENS)
            if listens:
                return url
    finally:
        timer.cancel()
    process.wait()
    raise RuntimeError(f"{name} did not start: {b''.join(log).decode()[-2000:]}")


def _drain(process: "subprocess.Popen[bytes]", log: deque[bytes]) -> None:
    assert process.stderr is not None  # noqa: S101 - a pipe, see above
    while chunk := os.read(process.stderr.fileno(), READ_BYTES):
        log.append(chunk)

"""The command `priohook worker`, and the worker that `priohook serve` keeps beside it."""

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket, socketpair
from time import monotonic

import click

from app import database
from app.cli.heartbeat import Pulse, beating
from app.cli.opened import opened
from app.cli.streams import outlive_output
from app.deliveries.worker import Worker
from app.health import Health, watching
from app.processes import ended_children, ending_signals, ending_with, exit_when_told, read_status
from app.settings import Settings
from app.telemetry.logs import LogWriter, logging_to, stderr_writer

NICENESS = 10
"""On a machine that is busy, acknowledgements go before deliveries."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a worker that ended is started again
ENDS_WITHIN = 15.0  # seconds; a worker waits less for its attempts
OWNER_ONLY = 0o600  # of the lock: who else could open it could hold it


class WorkerRuns(click.ClickException):
    """Another worker has this SQLite file."""


@click.command()
@click.option("--beside", type=int, hidden=True, help="A descriptor: end when its other end is closed.")
def worker(*, beside: int | None) -> None:
    """Deliver events to the destinations until SIGTERM, then finish what is under way and exit 0."""
    exit_when_told()
    outlive_output()
    if beside is not None:
        ending_with(beside, within=ENDS_WITHIN)  # before all else, which may take long or hang
    settings = Settings.load()
    sys.path.append(str(Path.cwd()))  # where a python: destination's module is
    log = stderr_writer(settings.log_format)
    with _alone(settings.database_url), log.running(), logging_to(log):
        asyncio.run(_work(settings, log, line=beside))
        if beside is None:
            log.write("worker_ended", {"status": 0})


class Beside:
    """A worker in a process of its own, as no destination, and no function of a user's, may slow the receiver.

    A pair of sockets joins the two: the kernel closes this end when this process ends, however that comes about.
    """

    def __init__(self, log: LogWriter) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._wait = FIRST_WAIT
        self._told = 0.0
        self._hung = False
        self._start()

    def look(self) -> None:
        """Starts it again if it has ended, later each time; costs microseconds."""
        for child, code in ended_children():
            if self._process is not None and child == self._process.pid:
                self._process.returncode = code
                self._over(self._process)
        if self._process is not None and not self._told and not self._hung and not self._pulse.beats():
            self._hung = True
            self._process.kill()
        if self._process is None and monotonic() >= self._due:
            self._start()

    def tell(self) -> None:
        """Tells it to end; does not wait."""
        if self._told:
            return
        self._told = monotonic()
        if self._process is not None:
            self._process.terminate()

    def end(self) -> None:
        """Waits until it has ended, `ENDS_WITHIN` after it was first told at most."""
        self.tell()
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, self._told + ENDS_WITHIN - monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._over(self._process)

    def _start(self) -> None:
        self._started = monotonic()
        try:
            self._line, self._process = _joined()
            self._pulse, self._hung = Pulse(self._line), False
        except (OSError, MemoryError) as error:  # no descriptor, process or memory is left: the receiver goes on
            self._put_off()
            fields = {"error": str(error) or type(error).__name__, "again_in": round(self._due - self._started, 1)}
            self._log.write("worker_not_started", fields, level="error")

    def _over(self, process: "subprocess.Popen[bytes]") -> None:
        status = read_status(process.returncode)
        last_words = self._pulse.last_words()
        if self._hung or "traceback" in last_words:
            self._log.write("worker_hung", last_words, level="error")
        self._log.write("worker_ended", {"status": status}, level="info" if self._told else "error")
        self._line.close()
        self._process = None
        self._put_off()

    def _put_off(self) -> None:
        """Says when to start the next: at once after one that lived long, else later each time."""
        if monotonic() - self._started > LONGEST_WAIT:
            self._wait = FIRST_WAIT
        self._due = self._started + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)


def _joined() -> "tuple[socket, subprocess.Popen[bytes]]":
    """A new worker, and the socket that joins it to this process."""
    ours, theirs = socketpair()
    paths = [str(database.PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        process = subprocess.Popen(
            # Not from the working directory, where a user may have an `app` of their own.
            [sys.executable, "-P", "-m", "app", "worker", "--beside", str(theirs.fileno())],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,  # a terminal's Ctrl-C is for `serve`, which tells the worker
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, process


async def _work(settings: Settings, log: LogWriter, *, line: int | None) -> None:
    ended = asyncio.Event()
    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    url = settings.database_url
    if not database.is_sqlite(url):  # there it would keep the receiver waiting for the lock that it holds
        os.nice(NICENESS)
    async with opened(settings, within=database.STATEMENT) as engine, watching(engine, Health(), commits=False):
        work = Worker(engine, url, settings.destinations)
        async with beating(work.under_way, line=line), work.running():
            log.write("worker_started", {"destinations": sorted(settings.destinations)})
            await ended.wait()


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """On SQLite the only worker of its file; on PostgreSQL any number share the work."""
    if not database.is_sqlite(url):
        yield
        return
    path = database.sqlite_path(url)
    lock = Path(f"{path}-worker")  # not the file itself: closing it here would drop SQLite's own locks
    with os.fdopen(os.open(lock, os.O_CREAT | os.O_WRONLY, OWNER_ONLY), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkerRuns(
                f"A worker runs for {path} already, and SQLite has room for one: `serve` brings its own unless it is "
                "started with --no-worker. PostgreSQL takes any number."
            ) from None
        except OSError as error:  # a file system without locks
            raise OSError(error.errno, error.strerror, str(lock)) from None
        yield

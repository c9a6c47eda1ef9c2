"""The command `priohook worker`, and the worker that `priohook serve` keeps beside it."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import click

from app import database
from app.deliveries.worker import Worker
from app.settings import Settings
from app.telemetry.logs import LogWriter, logging_to, stderr_writer

PARENT_LOOK = 1.0  # seconds between looks whether the process that started this one is still there
NICENESS = 10
"""On a machine that is busy, acknowledgements go before deliveries."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a worker that ended is started again
ENDS_WITHIN = 15.0  # seconds; a worker waits less for its attempts


class WorkerRuns(click.ClickException):
    """Another worker has this SQLite file."""


@click.command()
@click.option("--beside", is_flag=True, hidden=True, help="End when the process that started this one ends.")
def worker(*, beside: bool) -> None:
    """Deliver events to the destinations until SIGTERM, then finish what is under way and exit 0."""
    settings = Settings.load()
    sys.path.append(str(Path.cwd()))  # where a python: destination's module is
    log = stderr_writer(settings.log_format)
    with _alone(settings.database_url), log.running(), logging_to(log):
        asyncio.run(_work(settings, log, parent=os.getppid() if beside else None))


class Beside:
    """A worker in a process of its own, as no destination, and no function of a user's, may slow the receiver."""

    def __init__(self) -> None:
        self._wait = FIRST_WAIT
        self._start()

    def look(self) -> None:
        """Starts it again if it has ended, later each time; costs microseconds."""
        if self._process.poll() is None or monotonic() - self._started < self._wait:
            return
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        self._start()

    def end(self) -> None:
        """Tells it to end and waits for that."""
        self._process.terminate()
        try:
            self._process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._started = monotonic()
        paths = [str(database.PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            # Not from the working directory, where a user may have an `app` of their own.
            [sys.executable, "-P", "-m", "app", "worker", "--beside"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
        )


async def _work(settings: Settings, log: LogWriter, *, parent: int | None) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    url = settings.database_url
    if not database.is_sqlite(url):  # there it would keep the receiver waiting for the lock that it holds
        os.nice(NICENESS)
    async with database.engine_for(url) as engine:
        await database.check_schema(engine)
        async with Worker(engine, url, settings.destinations).running():
            log.write("worker_started", {"destinations": sorted(settings.destinations)})
            while not ended.is_set() and (parent is None or os.getppid() == parent):
                try:
                    async with asyncio.timeout(PARENT_LOOK):
                        await ended.wait()
                except TimeoutError:
                    continue
    log.write("worker_ended", {})


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """On SQLite the only worker of its file; on PostgreSQL any number share the work."""
    if not database.is_sqlite(url):
        yield
        return
    path = database.sqlite_path(url)
    lock = Path(f"{path}-worker")  # not the file itself: closing it here would drop SQLite's own locks
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WorkerRuns(
                f"A worker runs for {path} already, and SQLite has room for one: `serve` brings its own unless it is "
                "started with --no-worker. PostgreSQL takes any number."
            ) from None
        yield

"""The command `priohook worker`, and the worker that `priohook serve` keeps beside it."""

import asyncio
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from app.cli.opened import load_settings, opened
from app.cli.streams import outlive_output
from app.database import engines
from app.database.health import Health, watching
from app.deliveries.worker import Worker
from app.server.beside import ENDS_WITHIN
from app.server.heartbeat import beating
from app.server.processes import ending_signals, ending_with, exit_when_told
from app.settings.model import Settings
from app.telemetry.logs import LogWriter, logging_to, stderr_writer

NICENESS = 10
"""On a busy machine, acknowledgements come before deliveries."""
LOOK_EVERY = 10.0  # seconds between looks at the database of a worker that has nothing to do
OWNER_ONLY = 0o600  # of the lock file: another user who could open it could hold the lock


class WorkerRuns(click.ClickException):
    """Another worker uses this SQLite file."""


@click.command()
@click.option("--beside", type=int, hidden=True, help="A descriptor: end when its other end is closed.")
def worker(*, beside: int | None) -> None:
    """Deliver events to the destinations until SIGTERM, then finish what is under way and exit 0."""
    exit_when_told()
    outlive_output()
    if beside is not None:
        ending_with(beside, within=ENDS_WITHIN)  # first, as everything else may take long or hang
    settings = load_settings()
    sys.path.append(str(Path.cwd()))  # where a python: destination's module is
    log = stderr_writer(settings.log_format)
    with _alone(settings.database_url), log.running(), logging_to(log):
        asyncio.run(_work(settings, log, line=beside))
        if beside is None:
            log.write("worker_ended", {"status": 0})


async def _work(settings: Settings, log: LogWriter, *, line: int | None) -> None:
    ended = asyncio.Event()
    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    url = settings.database_url
    if not engines.is_sqlite(url):  # on SQLite the receiver waits for a lock that the worker holds
        os.nice(NICENESS)
    async with (
        opened(settings, within=engines.STATEMENT, of_worker=True) as engine,
        watching(engine, Health(), commits=False, every=LOOK_EVERY),
    ):
        work = Worker(engine, url, settings.destinations)
        async with beating(work.under_way, line=line), work.running():
            log.write("worker_started", {"destinations": sorted(settings.destinations)})
            await ended.wait()


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """Makes sure that a SQLite file has only one worker. On PostgreSQL any number share the work."""
    if not engines.is_sqlite(url):
        yield
        return
    path = engines.sqlite_path(url)
    # Not the file itself: closing it here would drop SQLite's own locks. Beside the file, by whatever link it is named.
    lock = Path(f"{path.resolve()}-worker")
    with os.fdopen(os.open(lock, os.O_CREAT | os.O_WRONLY, OWNER_ONLY), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkerRuns(
                f"A worker already runs for {path}, and SQLite allows only one. `serve` starts its own unless it gets "
                "--no-worker. PostgreSQL allows any number."
            ) from None
        except OSError as error:  # a file system without locks
            raise OSError(error.errno, error.strerror, str(lock)) from None
        yield

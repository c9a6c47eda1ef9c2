"""The command `priohook status`."""

import asyncio
import shutil
import socket
import sys
import time
from datetime import UTC, datetime

import click
from sqlalchemy.ext.asyncio import AsyncConnection

from app.alarms.judged import Judged, judged, judged_without_database
from app.alarms.readings import read as read_all
from app.alarms.words import lasting
from app.auth.first_start import complete
from app.cli.failures import sentence
from app.cli.opened import load_settings, opened, read
from app.cli.output import say, say_json
from app.cli.screen import screen, told
from app.database.clock import ahead
from app.settings.model import Settings
from app.telemetry.processes import Seen, running_processes

WITHIN = 10.0  # seconds for everything
EVERY = 2.0  # seconds between two looks
PIPE_WIDTH = 80


@click.command()
@click.option("--watch", is_flag=True, help="On a terminal: look again every two seconds, until Ctrl-C.")
@click.option("--worker", is_flag=True, help="Only whether a worker runs on this host, for a container's health check.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, as GET /api/status answers it.")
def status(*, watch: bool, worker: bool, as_json: bool) -> None:
    """Show on one screen whether all is well, or what is wrong and what to type. Exit 1 if something is wrong."""
    if worker:
        if watch or as_json:
            raise click.UsageError("--worker cannot be used together with other options.")
        _tell_of_worker()
        return
    settings = complete(load_settings())
    if watch:
        if as_json or not sys.stdout.isatty():
            raise click.UsageError("--watch needs a terminal, and cannot be used together with --json.")
        sys.exit(_watch(settings))
    found = _judged(settings)
    if as_json:
        say_json({"well": found.well, **found._asdict()})
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
        for line in _lines(found, width):
            say(line)
    sys.exit(0 if found.well else 1)


def _judged(settings: Settings) -> Judged:
    """The status, also if the database cannot be read; then what is known without it."""
    try:
        return _look(settings)
    except Exception as error:
        if (why := sentence(error)) is None:
            raise
        return asyncio.run(judged_without_database(settings, error, why=why))


def _tell_of_worker() -> None:
    """Says when a worker of this host last reported; exits with 1 if none runs."""
    host = socket.gethostname()
    now, running = read(_running)
    beats = [each.beat_at for each in running if each.kind == "worker" and each.host == host]
    if not beats:
        raise click.ClickException(f"No worker runs on {host}: `priohook worker` starts one.")
    say(f"A worker runs on {host}. It reported {lasting(now - max(beats))} ago.")


async def _running(connection: AsyncConnection) -> tuple[datetime, list[Seen]]:
    now = datetime.now(UTC) + await ahead(connection)
    return now, await running_processes(connection, now=now)


def _look(settings: Settings) -> Judged:
    async def look() -> Judged:
        async with (
            asyncio.timeout(WITHIN),
            opened(settings, writes=False) as engine,
            engine.connect() as connection,
        ):
            now = datetime.now(UTC) + await ahead(connection)
            return judged(await read_all(connection, settings, now=now), settings)

    try:
        return asyncio.run(look())
    except TimeoutError:
        raise TimeoutError(f"it did not answer within {WITHIN:g} seconds") from None


def _watch(settings: Settings) -> int:
    """Shows the status again and again. Returns the exit status of the last one."""
    well = False
    try:
        while True:
            found = _judged(settings)
            first, *others = _lines(found, shutil.get_terminal_size().columns)
            well = found.well
            click.clear()
            click.secho(first, fg="green" if well else "red", bold=True)
            for line in others:
                say(line)
            time.sleep(EVERY)
    except KeyboardInterrupt:
        return 0 if well else 1


def _lines(found: Judged, width: int) -> list[str]:
    if found.readings is None:
        return told(found.findings, width=width)
    return screen(found.readings, found.findings, width=width)

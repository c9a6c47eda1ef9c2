"""The command `priohook worker`, and the worker that `priohook serve` keeps beside it."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.alarms.watching import AlarmWatch
from app.audit.starts import note_settings
from app.auth.first_clients import with_kept_clients
from app.auth.first_start import complete
from app.cli.opened import load_settings, opened
from app.cli.page import metrics_for, publisher_for
from app.cli.streams import outlive_output
from app.database import engines
from app.database.clock import SharedClock
from app.database.health import Health, watching
from app.database.leaving import read_move
from app.database.locks import locked_file
from app.database.surviving import surviving
from app.database.writing import writing
from app.deliveries.wake import Notifier
from app.deliveries.worker import Worker
from app.prioticket.client import Prioticket, prioticket_of
from app.reconciliation.enrichment import Enricher, give_up_fetches
from app.reconciliation.keeping import Keeper
from app.reconciliation.periodic import Periodic
from app.retention.pruning import pruning
from app.server.beside import ENDS_WITHIN, PageBeside
from app.server.heartbeat import beating
from app.server.processes import ending_signals, ending_with, exit_when_told
from app.server.server import url_of
from app.settings.digest import digest_of
from app.settings.model import Settings
from app.settings.prioticket import PrioticketSettings
from app.telemetry.logs import LogWriter, logging_to, stderr_writer
from app.telemetry.processes import Identity
from app.telemetry.reporting import Reporter
from app.telemetry.snapshots import Gauges, Publisher, connections_of
from app.telemetry.spans import Spans

logger = logging.getLogger(__name__)

NICENESS = 10
"""On a busy machine, acknowledgements come before deliveries."""
LOOK_AT_PAGE = 1.0  # seconds between looks whether the page of metrics still runs
LOOK_FOR_MOVE = 1.0  # seconds between looks whether the SQLite file is moved
LOOK_EVERY = 10.0  # seconds between looks at the database of a worker that has nothing to do


class WorkerRuns(click.ClickException):
    """Another worker uses this SQLite file."""


@click.command()
@click.option("--beside", type=int, hidden=True, help="A descriptor: end when its other end is closed.")
@click.option("--snapshots", type=click.Path(path_type=Path), hidden=True, help="Where to write what it counts.")
def worker(*, beside: int | None, snapshots: Path | None) -> None:
    """Deliver events to the destinations until SIGTERM, then finish what is under way and exit 0."""
    exit_when_told()
    outlive_output()
    if beside is not None:
        ending_with(beside, within=ENDS_WITHIN)  # first, as everything else may take long or hang
    settings = load_settings()
    sys.path.append(str(Path.cwd()))  # where a python: destination's module is
    log = stderr_writer(settings.log_format)
    with (
        _alone(settings.database_url),
        log.running(),
        logging_to(log),
        _counting(settings, log, beside, snapshots) as counts,
    ):
        asyncio.run(_work(settings, log, line=beside, counts=counts))
        if beside is None:
            log.write("worker_ended", {"status": 0})


@dataclass(frozen=True, slots=True)
class _Counts:
    """Where a worker counts, and the page that it keeps beside itself, if it does."""

    publisher: Publisher
    page: PageBeside | None


@contextmanager
def _counting(
    settings: Settings, log: LogWriter, beside: int | None, snapshots: Path | None
) -> Iterator[_Counts | None]:
    """Where the worker counts: for the page of its `serve`, or for one of its own. None if metrics are off."""
    if beside is not None:
        yield _Counts(publisher_for(settings, snapshots, process="worker"), None) if snapshots else None
        return
    with metrics_for(settings) as metrics:
        if metrics is None:
            yield None
            return
        page = PageBeside(log, metrics.listener, metrics.folder)
        log.write("metrics_started", {"url": f"{url_of(metrics.listener)}/metrics"})
        try:
            yield _Counts(publisher_for(settings, metrics.folder, process="worker"), page)
        finally:
            page.end()


@asynccontextmanager
async def _published(counts: _Counts | None, log: LogWriter, engine: AsyncEngine) -> AsyncIterator[None]:
    """Publishes what is counted, and starts the page of the worker's own again if it ends."""
    if counts is None:
        yield
        return

    def measured() -> Gauges:
        counts.publisher.meter.dropped(log.dropped)
        connections = connections_of(engine.pool)
        return {("priohook_database_connections", ("worker", state)): n for state, n in connections.items()}

    async with counts.publisher.running(measured), _kept(counts.page):
        yield


@asynccontextmanager
async def _kept(page: PageBeside | None) -> AsyncIterator[None]:
    """Starts the page again if it ends."""

    async def look() -> None:
        while page is not None:
            page.look(())  # for its own child alone: another one may be a function's
            await asyncio.sleep(LOOK_AT_PAGE)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()


async def _work(settings: Settings, log: LogWriter, *, line: int | None, counts: _Counts | None) -> None:
    ended = asyncio.Event()
    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    url = settings.database_url
    if not engines.is_sqlite(url):  # on SQLite the receiver waits for a lock that the worker holds
        os.nice(NICENESS)
    async with (
        opened(settings, within=engines.STATEMENT, of_worker=True) as engine,
        watching(engine, Health(), commits=False, every=LOOK_EVERY),
        (spans := Spans()).running(),
    ):
        if line is None:  # one beside `serve` has the settings of that
            async with writing(engine) as connection:
                await note_settings(connection, settings, "worker", now=datetime.now(UTC))
        account = settings.prioticket
        enrich = account is not None and account.enrich
        meter = counts.publisher.meter if counts else None
        clock = SharedClock()
        work = Worker(engine, url, settings.destinations, enrich=enrich, clock=clock, spans=spans, meter=meter)
        digest = digest_of(complete(settings))  # as its receivers have it
        identity = Identity.of_this_process("worker", name=work.name, settings=digest, now=datetime.now(UTC))
        async with (
            beating(work.under_way, line=line),
            Reporter(engine, identity).running(),
            _published(counts, log, engine),
            work.running(),
            _asking(engine, settings, clock),
            pruning(engine, settings.retention),
            _alarming(engine, settings),
            _ending_for_move(engine, ended, beside=line is not None),
        ):
            log.write("worker_started", {"destinations": sorted(settings.destinations)})
            await ended.wait()


@asynccontextmanager
async def _ending_for_move(engine: AsyncEngine, ended: asyncio.Event, *, beside: bool) -> AsyncIterator[None]:
    """Ends the worker when its SQLite file is about to be moved. One beside `serve` is told by that."""
    if beside or engine.dialect.name != "sqlite":
        yield
        return

    async def look() -> None:
        while True:
            async with engine.connect() as connection:
                move = await read_move(connection)
            if move is not None and move.rests():
                logger.warning("move_rests", extra={"fields": {"target": move.target}})
                ended.set()
                return
            await asyncio.sleep(LOOK_FOR_MOVE)

    task = asyncio.create_task(surviving(look))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def _alarming(engine: AsyncEngine, settings: Settings) -> AsyncIterator[None]:
    """Looks meanwhile for what is wrong, if the settings say so."""
    if settings.alarms is None and not settings.alarm_channels:
        yield
        return
    async with AlarmWatch(engine, complete(settings)).running():
        yield


@asynccontextmanager
async def _asking(engine: AsyncEngine, settings: Settings, clock: SharedClock) -> AsyncIterator[None]:
    """Asks Prioticket for orders meanwhile, if the settings say so."""
    account = settings.prioticket
    if account is None or not account.enrich:
        await give_up_fetches(engine)
    if account is None or not (account.enrich or account.reconcile_every):
        yield
        return
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(prioticket_of(account))
        if account.reconcile_every:
            reconciling = _reconciling(engine, settings, client, account, every=account.reconcile_every)
            await stack.enter_async_context(reconciling)
        if account.enrich:
            await stack.enter_async_context(_enriching(engine, settings, client, account, clock))
        yield


@asynccontextmanager
async def _reconciling(
    engine: AsyncEngine, settings: Settings, client: Prioticket, account: PrioticketSettings, *, every: timedelta
) -> AsyncIterator[None]:
    keeper = Keeper(engine, with_kept_clients(settings).clients)
    keeps = settings.retention.accepted if settings.retention else None
    periodic = Periodic(engine=engine, client=client, keeper=keeper, every=every, thin=account.enrich, keeps=keeps)
    task = asyncio.create_task(periodic.go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def _enriching(
    engine: AsyncEngine, settings: Settings, client: Prioticket, account: PrioticketSettings, clock: SharedClock
) -> AsyncIterator[None]:
    clients = with_kept_clients(settings).clients
    usernames = {name: each.username or name for name, each in clients.items()}
    url = settings.database_url
    async with Notifier(url).running() as notifier:
        enricher = Enricher(engine, url, client, account, usernames=usernames, stored=notifier.stored, now=clock.now)
        async with enricher.running():
            yield


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """Makes sure that a SQLite file has only one worker. On PostgreSQL any number share the work."""
    if not engines.is_sqlite(url):
        yield
        return
    path = engines.sqlite_path(url)
    # Not the file itself: closing it here would drop SQLite's own locks. Beside the file, by whatever link it is named.
    with locked_file(Path(f"{path.resolve()}-worker")) as locked:
        if not locked:
            raise WorkerRuns(
                f"A worker already runs for {path}, and SQLite allows only one. `serve` starts its own unless it gets "
                "--no-worker. PostgreSQL allows any number."
            )
        yield

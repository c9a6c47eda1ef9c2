"""The command `priohook serve`."""

import asyncio
import json
import os
import shlex
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from socket import socket

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application import create_app
from app.audit.starts import note_settings
from app.auth.first_clients import FirstClients, check_clients, first_clients
from app.auth.first_start import complete
from app.auth.kept import ignored_files
from app.auth.keys import make_first_key
from app.cli.opened import load_settings
from app.cli.output import say
from app.cli.page import Metrics, metrics_for, publisher_for
from app.cli.streams import outlive_output
from app.database import engines, migrations, schema, writing
from app.database.health import Health
from app.database.leaving import check_not_leaving
from app.deliveries.registering import register_in_parts
from app.events.handover import Handover
from app.receiver.starting import can_start
from app.server.beside import Beside, PageBeside
from app.server.processes import end_within, ended_children, exit_when_told, run_processes
from app.server.server import ends_within, listen, server_for, url_of
from app.settings.model import Settings
from app.settings.origins import unknown_variables
from app.settings.sources import ENV_PREFIX
from app.telemetry.logs import LogWriter, stderr_writer

LAST = 3.0  # seconds after all is answered, for the worker and for closing the database

EXAMPLE = {
    "api_version": "3.8.0",
    "data": {
        "kind": "notification",
        "notification": {
            "notification_id": "0d8b9a7e-5f0b-4c5d-9f35-3f6a1d6f7c11",
            "notification_event": "ORDER_CREATE",
            "notification_item_id": "PRI00000001",
        },
    },
}


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 or :: for all addresses."
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="The port to listen on; 0 for any free port.",
)
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="How many processes receive on this port; more than one needs PostgreSQL.",
)
@click.option("--no-worker", is_flag=True, help="Only receive. `priohook worker` delivers.")
def serve(host: str, port: int, processes: int, *, no_worker: bool) -> None:
    """Receive and deliver webhooks until SIGTERM, then finish what was begun and exit 0."""
    configured = load_settings()
    complete(configured)  # a clash is refused before anything is begun
    check_clients(configured)
    if processes > 1 and engines.is_sqlite(configured.database_url):
        raise click.UsageError("--processes needs PostgreSQL, as SQLite has only one writer. See database_url.")
    for name in unknown_variables(os.environ):
        say(f"priohook: {name} is set, but there is no such setting. Is it misspelt?", err=True)
    exit_when_told()
    outlive_output()
    listener = listen(host, port)  # before the first clients are made, whose secrets are shown once
    with metrics_for(configured) as metrics:
        _serve(configured, listener, metrics, processes=processes, no_worker=no_worker)


def _serve(configured: Settings, listener: socket, metrics: Metrics | None, *, processes: int, no_worker: bool) -> None:
    asyncio.run(_prepare(configured))
    make_first_key(configured)
    made = first_clients(configured)  # last: if a later step failed, their secrets would never be shown
    settings = complete(configured)
    log = stderr_writer(settings.log_format)
    for path, reason in ignored_files(configured).items():
        log.write("file_ignored", {"file": str(path), "reason": reason}, level="warning")
    if not settings.token_keys:
        log.write(
            "tokens_are_off", {"reason": "There are no token_keys: `priohook keys new` makes one."}, level="warning"
        )
    publisher = publisher_for(settings, metrics.folder, process="receiver-0") if metrics else None
    health, handover = Health(), _handover(settings)
    app = create_app(settings, log=log, publisher=publisher, known=health, handover=handover)

    def started(url: str) -> None:
        say(f"priohook listens at {url}{_console(settings, url)}")
        if metrics:
            log.write("metrics_started", {"url": f"{url_of(metrics.listener)}/metrics"})
        if made:
            _introduce(made, url, others=bool(configured.clients))

    bound = ends_within(settings) + LAST
    delay = settings.shutdown_delay.total_seconds()
    leaving = partial(_leave, health, log, delay)

    def run(number: int) -> None:
        if publisher:
            publisher.process = f"receiver-{number}"
        with _beside(log, metrics, handover, first=number == 0, no_worker=no_worker) as (look, tell):

            def ending() -> None:
                end_within(bound, log)
                tell()

            announce = started if number == 0 else lambda _: None
            meter = publisher.meter if publisher else None
            server = server_for(
                app, settings, log=log, started=announce, tick=look, ending=ending, leaving=leaving, meter=meter
            )
            server.run([listener])

    if processes == 1:
        run(0)
    else:
        run_processes(run, count=processes, within=delay + bound, log=log)


def _leave(health: Health, log: LogWriter, delay: float) -> None:
    health.leaving = True
    log.write("receiver_leaves", {"seconds": delay})


def _handover(settings: Settings) -> Handover | None:
    """Lets a receiver on SQLite go on with PostgreSQL when its file is moved there."""
    if not engines.is_sqlite(settings.database_url):
        return None
    return Handover(
        most=settings.max_waiting_events, most_bytes=settings.max_waiting_bytes, timeout=settings.commit_timeout
    )


@contextmanager
def _beside(
    log: LogWriter, metrics: Metrics | None, handover: Handover | None, *, first: bool, no_worker: bool
) -> Iterator[tuple[Callable[[], object], Callable[[], None]]]:
    """Keeps a worker and the page of metrics beside the first receiver.

    Gives a function to call regularly, and one that tells them to end.
    """
    if not first:
        yield ended_children, lambda: None
        return
    kept = _Kept(log, metrics, handover, no_worker=no_worker)
    try:
        kept.start()
        yield kept.look, kept.tell
    finally:
        kept.tell()
        with log.running():
            kept.end()


class _Kept:
    """The processes beside a receiver. They end before its SQLite file is moved, and start on the new database."""

    def __init__(self, log: LogWriter, metrics: Metrics | None, handover: Handover | None, *, no_worker: bool) -> None:
        self._log = log
        self._metrics = metrics
        self._handover = handover
        self._no_worker = no_worker
        self._processes: list[Beside] = []
        self._moved_to: str | None = None
        self._ending = False

    def start(self) -> None:
        metrics = self._metrics
        if not self._no_worker:
            self._processes.append(Beside(self._log, metrics=metrics.folder if metrics else None))
        if metrics:
            self._processes.append(PageBeside(self._log, metrics.listener, metrics.folder))

    def look(self) -> None:
        ended = ended_children()
        for beside in self._processes:
            beside.look(ended)
        if self._handover is not None and not self._ending:
            self._follow(self._handover)

    def tell(self) -> None:
        self._ending = True
        self._tell()

    def end(self) -> None:
        for beside in self._processes:
            beside.end()

    def _follow(self, handover: Handover) -> None:
        if handover.resting or handover.url != self._moved_to:
            self._tell()
        if handover.resting or not all(beside.has_ended for beside in self._processes):
            return
        self._moved_to = handover.url
        if handover.url is not None:  # for the new processes, which have it from nowhere else
            os.environ[ENV_PREFIX + "DATABASE_URL"] = handover.url
        self._processes.clear()
        self.start()

    def _tell(self) -> None:
        for beside in self._processes:
            beside.tell()


async def _prepare(settings: Settings) -> None:
    """Migrates SQLite, which only this process uses. PostgreSQL may serve others, so its schema is only checked."""
    url = settings.database_url
    async with engines.engine_for(url, within=engines.STATEMENT) as engine:
        if engines.is_sqlite(url):
            async with engine.connect() as connection:
                await check_not_leaving(connection)
            await migrations.migrate(engine)
        await can_start(_register(engine, settings), settings)


async def _register(engine: AsyncEngine, settings: Settings) -> None:
    await schema.check_schema(engine)
    await register_in_parts(engine, settings.destinations, now=datetime.now(UTC))  # so that they get the first event
    async with writing.writing(engine) as connection:
        await note_settings(connection, settings, "serve", now=datetime.now(UTC))


def _introduce(made: FirstClients, url: str, *, others: bool) -> None:
    if not made.made_now:
        say(f"The clients are in {made.path}{' and in the settings' if others else ''}.")
        return
    secrets = {name: client.secret.get_secret_value() for name, client in made.clients.items() if client.secret}
    say(
        f"\npriohook made these clients and keeps them in {made.path} (mode 0600). Their secrets are shown only once:\n"
    )
    for name, secret in secrets.items():
        say(f"  {name:<11} {secret}   {' '.join(sorted(made.clients[name].scopes))}")
    body = shlex.quote(json.dumps(EXAMPLE))
    credential = f"prioticket:{secrets['prioticket']}"
    target = f"{_reachable(url)}/webhooks/prioticket"
    say("\nSend it an event, and look at it in the console, where `admin` can sign in:\n")
    say(f"  curl -i -u {credential} -H 'Content-Type: application/json' -d {body} {target}\n")
    say("Register it at Prioticket, with a URL that reaches it from outside:\n")
    say("  webhook_url   https://…/webhooks/prioticket")
    say(f"  webhook_auth  {b64encode(credential.encode()).decode()}\n")


def _console(settings: Settings, url: str) -> str:
    """The line that says where the console is. Without a key nobody can sign in there."""
    return f"\nIts console is at {settings.public_url or _reachable(url)}/console" if settings.token_keys else ""


def _reachable(url: str) -> str:
    """The URL with an address that this machine reaches; all addresses of it are none."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")

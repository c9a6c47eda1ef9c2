"""The command `priohook move`."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from uuid import uuid4

import asyncpg
import click
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.alarms import tables as _alarms  # noqa: F401 - so that Base knows the tables of every room
from app.audit import tables as _audit  # noqa: F401
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.auth.kept import NAMES, kept_path
from app.cli.filters import giving_reason
from app.cli.opened import acting, load_settings
from app.cli.output import say
from app.cli.progress import progress_bar
from app.database import leaving, schema
from app.database.columns import Base, sqlite_instant
from app.database.engines import engine_for, is_sqlite, sqlite_path
from app.database.leaving import Move, Phase, read_move
from app.database.locks import locked_file
from app.deliveries import tables as _deliveries  # noqa: F401
from app.events import fetches as _fetches  # noqa: F401
from app.events import tables as _events  # noqa: F401
from app.reconciliation import tables as _reconciliation  # noqa: F401
from app.retention import tables as _retention  # noqa: F401
from app.settings.databases import DatabaseURL
from app.settings.model import Settings
from app.telemetry import tables as _telemetry  # noqa: F401
from app.telemetry.processes import SILENT, running_processes
from app.transfer import target
from app.transfer.columns import Moving, moving_tables
from app.transfer.moving import TooSlow, Transfer
from app.transfer.source import Source
from app.transfer.target import TransferProblem

FEW = 200
"""So many changes are copied in a moment."""

MOST_ROUNDS = 100
LONGEST_SWITCH = timedelta(seconds=2)
"""How long events wait at most for the last changes. It is half of what `commit_timeout` allows if that is less."""

SWITCHES = 5
READY_WITHIN = timedelta(seconds=90)
"""How long receivers and workers may take to get ready: a worker first finishes its attempts."""

FOLLOW_WITHIN = timedelta(seconds=60)
LOOK_EVERY = 0.2  # seconds


@click.command()
@click.argument("database_url")
@click.option("--give-up", is_flag=True, help="Forget a move that has begun: the SQLite file is as it was.")
@giving_reason
def move(database_url: str, *, give_up: bool, reason: str | None) -> None:
    """Move all that is in the SQLite file to the PostgreSQL database DATABASE_URL, while events are received.

    Run it again if it was interrupted, whatever interrupted it: it goes on.
    """
    settings = load_settings()
    if not is_sqlite(settings.database_url):
        raise click.UsageError("Only what is in a SQLite file can be moved, and database_url names another database.")
    try:
        url = TypeAdapter(DatabaseURL).validate_python(database_url)
    except ValidationError:
        url = ""
    if not url or is_sqlite(url):
        raise click.UsageError("Name the new database: postgresql://user:password@host/database.")
    path = sqlite_path(settings.database_url).resolve()
    with _only_one(path):
        try:
            asyncio.run(_give_up(settings) if give_up else _move(settings, url, reason))
        except (TransferProblem, leaving.NotComplete) as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            raise click.ClickException("Interrupted. The same command goes on.") from None


async def _move(settings: Settings, url: str, reason: str | None) -> None:
    tables = moving_tables(Base.metadata)
    shown = leaving.shown(url)
    async with engine_for(settings.database_url) as engine, target.connected(url) as connection:
        moved = await _state(engine, settings)
        with closing(Source(settings.database_url, tables)) as source:
            receivers = 0
            if moved is None:
                transfer = await _begin(source, connection, tables, url, shown)
                await _record(settings.database_url, shown, reason, step="begins")
                await _copy(source, transfer, tables, shown)
                receivers = await _switch(settings, source, transfer)
            elif not await _is_there(moved, connection, shown):
                raise TransferProblem(f"The SQLite file was moved to another database: {moved.target}.")
            elif moved.url is not None:  # it was interrupted after the switch: some may still need the URL
                receivers = len(source.receivers(since=_lately(datetime.fromtimestamp(moved.beat_at, UTC))))
            async with engine_for(url) as new:
                await leaving.complete(new)
                if await _have_followed(new, receivers):
                    source.forget_url()
    await _record(url, shown, reason, step="ended")
    say(f"All is in {shown} now. {sqlite_path(settings.database_url)} takes no changes any more: keep it as a backup.")
    _say_what_to_set(settings)


async def _give_up(settings: Settings) -> None:
    async with engine_for(settings.database_url) as engine:
        if await _state(engine, settings) is not None:
            raise TransferProblem("The move has ended: the events are in PostgreSQL.")
    with closing(Source(settings.database_url, moving_tables(Base.metadata))) as source:
        source.give_up()
    say("The move is forgotten. The SQLite file is as it was; drop what was copied into PostgreSQL.")


async def _state(engine: AsyncEngine, settings: Settings) -> Move | None:
    """The move, if all has left the SQLite file already.

    Raises:
        NoDatabase: there is no file.
        SchemaNotCurrent: the file is of another release.
    """
    path = sqlite_path(settings.database_url)
    if not path.exists():
        raise schema.NoDatabase(f"There is no database {path}: `priohook serve` creates it.")
    async with engine.connect() as connection:
        found = await read_move(connection)
        if found is not None and found.phase == Phase.MOVED:
            return found
        revision = await schema.check_revision(connection)
    if revision != schema.known_revisions()[-1]:
        raise schema.SchemaTooNew(schema.newer(revision))
    return None


async def _is_there(moved: Move, connection: asyncpg.Connection, shown: str) -> bool:
    """Whether all was moved to this database. Once it is complete, only its URL tells."""
    token = await target.token_of(connection)
    return moved.target == shown if token is None else moved.token == token


async def _record(url: str, shown: str, reason: str | None, *, step: str) -> None:
    act = Act(action=Action.MOVE, kind=Kind.DATABASE, target=shown, reason=reason, details={"step": step})
    async with engine_for(url) as engine, acting(engine, act):
        pass


async def _begin(
    source: Source, connection: asyncpg.Connection, tables: Sequence[Moving], url: str, shown: str
) -> Transfer:
    """Begins a move, or goes on with one that was interrupted."""
    token, filled = source.token(), await target.token_of(connection)
    if filled is None:
        await target.require_empty(connection, Base.metadata)
        token = filled = uuid4().hex
    elif filled != token:
        raise TransferProblem(
            f"{shown} holds a part of another SQLite file, or of this one before the move was given up. Name an empty "
            "database."
        )
    else:
        say("Going on where the move was interrupted.")
    source.begin(filled, target=shown, url=url)
    await target.begin(connection, url, tables, filled)
    await target.set_triggers(connection, tables, on=False)
    return Transfer(source, connection, tables)


async def _copy(source: Source, transfer: Transfer, tables: Sequence[Moving], shown: str) -> None:
    """Copies all rows and compares them, while everything goes on."""
    rows = sum(source.count(table) for table in tables)
    say(f"Copying {rows:,} rows to {shown}.")
    began = monotonic()
    with progress_bar() as bar:
        for what, step in (("copied", transfer.copy), ("compared", transfer.verify)):
            task = bar.add_task(what, total=rows)
            await step(partial(bar.advance, task))
    await transfer.analyze()
    say(f"All {rows:,} rows are copied and compared, in {monotonic() - began:,.0f} s.")


async def _switch(settings: Settings, source: Source, transfer: Transfer) -> int:
    """Lets deliveries rest, and switches once all are ready; how many receivers there are."""
    within = min(LONGEST_SWITCH, settings.commit_timeout / 2).total_seconds()
    path = sqlite_path(settings.database_url).resolve()
    for _ in range(MOST_ROUNDS):
        if await transfer.catch_up() < FEW:
            break
    try:
        async with _resting(source, path):
            for _ in range(SWITCHES):
                await transfer.catch_up()
                source.rest(resting=True)
                receivers = len(source.receivers(since=_lately()))
                with suppress(TooSlow):
                    await transfer.switch(within=within)
                    return receivers
    finally:
        if not source.is_moved():
            source.rest(resting=False)
    raise TransferProblem(
        f"The last changes took longer than {within:g} s, which events would have waited for. Nothing was switched. "
        "Run the command again when fewer events arrive."
    )


@asynccontextmanager
async def _resting(source: Source, path: Path) -> AsyncIterator[None]:
    """No worker runs meanwhile, and all receivers are ready to use PostgreSQL.

    Raises:
        TransferProblem: one of them is not.
    """
    say("Deliveries rest. Events are received as before.")
    ends = monotonic() + READY_WITHIN.total_seconds()
    while True:
        source.rest(resting=True)
        with locked_file(path.with_name(f"{path.name}-worker")) as alone:
            receivers = source.receivers(since=_lately())
            for each in receivers:
                if each.problem is not None:
                    raise TransferProblem(f"The receiver {each.name} cannot use the new database: {each.problem}.")
            waits = [each.name for each in receivers if not each.said]
            if alone and not waits:
                yield
                return
        if monotonic() > ends:
            who = "A worker still runs" if not alone else f"The receiver {waits[0]} does not answer"
            raise TransferProblem(
                f"{who}. Is it of another release, or does it hang? Nothing was switched. End it, and run this command "
                "again."
            )
        await asyncio.sleep(LOOK_EVERY)


async def _have_followed(new: AsyncEngine, wanted: int) -> bool:
    """Waits until as many receivers use PostgreSQL as used the file; False if they do not in time."""
    ends = monotonic() + FOLLOW_WITHIN.total_seconds()
    while wanted:
        async with new.connect() as connection:
            running = await running_processes(connection, now=datetime.now(UTC))
        found = sum(each.kind == "receiver" for each in running)
        if found >= wanted:
            say(f"{found} receiver{'s use' if found > 1 else ' uses'} the new database.")
            return True
        if monotonic() > ends:
            say(f"Only {found} of {wanted} receivers use the new database. Restart the others with it.", err=True)
            return False
        await asyncio.sleep(LOOK_EVERY)
    return True


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    try:
        with locked_file(path.with_name(f"{path.name}-move")) as alone:
            if not alone:
                raise click.ClickException(f"A `priohook move` of {path.name} runs already.")
            yield
    except sqlite3.DatabaseError as error:
        raise click.ClickException(f"{path.name} cannot be used: {error}.") from None


def _lately(now: datetime | None = None) -> str:
    return sqlite_instant((now or datetime.now(UTC)) - SILENT)


def _say_what_to_set(settings: Settings) -> None:
    say("Before you start priohook again, set database_url to the new database.")
    kept = [path for name in NAMES if (path := kept_path(settings, name)) is not None and path.exists()]
    if kept:
        say(f"Move what is in {' and '.join(map(str, kept))} into priohook.toml: beside SQLite only it is read there.")

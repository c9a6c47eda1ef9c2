"""The database: what all tables share, engines for SQLite and PostgreSQL, migrations and the check that they ran."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, DateTime, Dialect, Engine, MetaData, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

from app.libpq import target
from app.postgres import CLOSE_TIMEOUT, CannotConnect, connect_postgres, takes_writes
from app.sqlite import SQLiteFile

logger = logging.getLogger(__name__)

PROJECT = Path(__file__).parent.parent
SQLITE_BUSY = timedelta(seconds=5)
"""How long a write waits for another process's write, such as `priohook events release` beside `serve`."""

CONTENDED = 0.003
"""Seconds to begin from which the receiver is taken to be busy; a free lock on an idle machine takes a tenth. Waiting
for a processor counts on purpose: looking at the lock alone left the receiver half of its rate, not 0.8."""

COURTESY = 12

SQLITE_INSTANT = len("2026-08-12 10:15:00.123456")
STATEMENT = timedelta(seconds=20)
"""How long one of the receiver's or the worker's may take; PostgreSQL ends it then."""

READ_ONLY_TRANSACTION = "25006"
LOCK_TIMEOUT = timedelta(seconds=5)
MIGRATION_LOCK = 7_092_717_263
"""An arbitrary number, the same everywhere: two `priohook migrate` at once take turns."""


class SchemaNotCurrent(Exception):
    """The database lacks migrations that this release needs; the text says what to run."""


def sqlite_instant(value: datetime) -> str:
    """How SQLite holds an instant: its time in UTC, 26 characters for any year, so that texts sort as times do."""
    return value.astimezone(UTC).isoformat(" ", "microseconds")[:SQLITE_INSTANT]


class _SQLiteDateTime(sqlite.DATETIME):
    """Reads what `sqlite_instant` writes, and years before 1000 as earlier releases wrote them, without zeros."""

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], str | None]:  # noqa: ARG002
        return lambda value: None if value is None else sqlite_instant(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], datetime | None]:  # noqa: ARG002
        return lambda value: None if value is None else datetime.fromisoformat(value.rjust(SQLITE_INSTANT, "0"))


class UTCDateTime(TypeDecorator[datetime]):
    """An instant: aware in, aware and in UTC out, on both databases."""

    impl = DateTime(timezone=True).with_variant(_SQLiteDateTime(), "sqlite")  # type: ignore[no-untyped-call] # SQLAlchemy's
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a zone says no instant")
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The base of every table: one naming convention, so that migrations can name what they drop."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def is_sqlite(url: str) -> bool:
    """Whether the URL names a SQLite file; otherwise it names PostgreSQL."""
    return make_url(url).get_backend_name() == "sqlite"


def sqlite_path(url: str) -> Path:
    """The file behind a SQLite URL."""
    return Path(make_url(url).database or "")


def open_engine(url: str, *, within: timedelta | None = None, writes: bool = True) -> AsyncEngine:
    """An engine for reads, commands and migrations; connects on first use.

    Args:
        url: The database's.
        within: How long a statement of PostgreSQL's may take; without, as long as it needs.
        writes: Without, a host of PostgreSQL's that only reads will do when there is no other.
    """
    if is_sqlite(url):
        _make_private(sqlite_path(url))
        engine = create_async_engine(url, hide_parameters=True)
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        SQLiteFile(sqlite_path(url)).guard(engine.sync_engine)
        return engine
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda **_: connect_postgres(url, within=within, writes=writes),
        pool_pre_ping=True,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "handle_error", _distrust)
    event.listen(engine.sync_engine, "checkin", _leave_read_only)
    return engine


def tell_ignored(url: str) -> None:
    """Logs the parameters of a PostgreSQL URL that change nothing here."""
    if not is_sqlite(url) and (ignored := target(url).ignored):
        fields = {"parameters": ignored, "reason": "The driver cannot do these, or always does."}
        logger.warning("database_parameters_ignored", extra={"fields": fields})


@asynccontextmanager
async def engine_for(url: str, *, within: timedelta | None = None, writes: bool = True) -> AsyncIterator[AsyncEngine]:
    """`open_engine`, closed at the end; a server that does not answer is left without a farewell."""
    engine = open_engine(url, within=within, writes=writes)
    try:
        yield engine
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT.total_seconds()):
                await engine.dispose()


def open_sqlite(url: str) -> tuple[Engine, SQLiteFile]:
    """A synchronous engine on a SQLite file, for a thread of its own, and what guards the file."""
    _make_private(sqlite_path(url))
    engine = create_engine(make_url(url).set(drivername="sqlite+pysqlite"), hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    file = SQLiteFile(sqlite_path(url))
    file.guard(engine)
    return engine, file


class Courtesy:
    """Lets the receiver write a SQLite file first: this process's writers take turns, and rest between two of them.

    One that found the file locked leaves it to the receiver for `COURTESY` times as long as it then held it itself.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._rests_until = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["Courtesy"]:
        """Waits for the turn, and for the rest after the one before."""
        async with self._lock:
            await asyncio.sleep(self._rests_until - monotonic())
            yield self

    def held(self, seconds: float) -> None:
        """Notes how long a file was held that somebody else wanted too."""
        self._rests_until = monotonic() + COURTESY * seconds


@asynccontextmanager
async def writing(engine: AsyncEngine, *, courtesy: Courtesy | None = None) -> AsyncIterator[AsyncConnection]:
    """A transaction that may write from its first statement on; SQLite would let another one write before it does."""
    if engine.dialect.name != "sqlite":
        async with engine.begin() as connection:
            yield connection
        return
    async with courtesy.turn() if courtesy else nullcontext():
        began = monotonic()
        async with engine.begin() as connection:
            await connection.execute(text("BEGIN IMMEDIATE"))
            locked = monotonic()
            yield connection
        if courtesy and locked - began > CONTENDED:
            courtesy.held(monotonic() - locked)


async def insert_new(connection: AsyncConnection, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts the rows that are not there yet."""
    if rows:
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        await connection.execute(insert(table).on_conflict_do_nothing(), rows)


async def migrate(engine: AsyncEngine, *, revision: str = "head") -> None:
    """Brings the schema to a revision, newer or older."""
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            # A migration that waits for a lock makes all others wait behind it: better that it gives up for now.
            await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT.total_seconds():.0f}s'"))
        else:
            await connection.execute(text("BEGIN IMMEDIATE"))  # the driver begins none before CREATE TABLE
        await connection.run_sync(lambda each: _move(each, revision))


async def check_schema(engine: AsyncEngine) -> None:
    """Returns when the schema is one that this release can use.

    A revision that this release does not know is a newer release's: its migrations run beside this one, so it passes.

    Raises:
        SchemaNotCurrent: migrations are missing.
    """
    known, head = _revisions(PROJECT)
    async with engine.connect() as connection:
        current = await connection.run_sync(lambda each: MigrationContext.configure(each).get_current_revision())
    if current is None or (current in known and current != head):
        has = f"is at {current}" if current else "has no tables yet"
        raise SchemaNotCurrent(f"The database {has}, this release needs {head}: run `priohook migrate`.")


async def weaknesses(engine: AsyncEngine) -> list[str]:
    """What the server's settings take from the promise that a 200 means durable, a sentence each.

    It starts all the same: a server whose disk keeps what it was given when power fails may run so on purpose.
    """
    if engine.dialect.name == "sqlite":
        return []
    query = text("SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'")
    async with engine.connect() as connection:
        off = sorted(await connection.scalars(query))
    return [f"PostgreSQL runs with {name}=off: events that were answered 200 can be lost in a crash." for name in off]


def _move(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if revision == "head" and current is not None and current not in _known(scripts):
        return  # a newer release's schema, which this one can use
    behind = (
        {script.revision for script in scripts.iterate_revisions(current, "base")} - {current} if current else set()
    )
    if revision == "base" or revision in behind:
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


@cache
def _revisions(project: Path) -> tuple[frozenset[str], str | None]:  # noqa: ARG001 - the key: another one has others
    """The revisions that this release knows, and its own; reading the scripts takes milliseconds."""
    scripts = ScriptDirectory.from_config(_config())
    return _known(scripts), scripts.get_current_head()


def _known(scripts: ScriptDirectory) -> frozenset[str]:
    return frozenset(script.revision for script in scripts.walk_revisions())


def _make_private(path: Path) -> None:
    """Makes the file, if it is not there, readable by its owner only: it will hold guests' names.

    One that is there is not even opened. Closing it would drop the locks that SQLite holds in this process (POSIX:
    fcntl), and the next command to end, thinking itself the last, would remove the log with what is committed in it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise CannotConnect(f"{path}: {error.strerror}") from error
    if path.is_dir():  # aiosqlite's thread would outlive the event loop and write a traceback of its own
        raise CannotConnect(f"{path} is a folder and no database")


def _distrust(context: ExceptionContext) -> None:
    """Throws away connections, and those beside it, to a host that takes no writes any more, or that fell silent."""
    error = context.original_exception
    if isinstance(error, TimeoutError) or getattr(error, "sqlstate", None) == READ_ONLY_TRANSACTION:
        context.is_disconnect = True


def _leave_read_only(connection: Any, record: Any) -> None:
    """Keeps no connection to a host that only reads: another one may take writes by the next time."""
    if connection is not None and not takes_writes(connection.driver_connection):
        record.invalidate(soft=True)


def _config() -> Config:
    return Config(toml_file=PROJECT / "pyproject.toml")


def _prepare_sqlite(connection: Any, _: object) -> None:
    """WAL lets readers and the writer pass each other; FULL makes COMMIT return after fsync."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(SQLITE_BUSY.total_seconds() * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA schema_version")  # the first read opens the log, which `SQLiteFile` looks at
    cursor.fetchall()
    cursor.close()

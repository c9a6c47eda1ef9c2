"""Engines for SQLite and PostgreSQL."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.database.commits import Left
from app.database.libpq import target
from app.database.postgres import CLOSE_TIMEOUT, connect_postgres, takes_writes
from app.database.problems import CannotConnect
from app.database.sqlite import SQLiteFile

logger = logging.getLogger(__name__)
STATEMENT = timedelta(seconds=20)
"""How long a statement of the receiver or the worker may take before PostgreSQL cancels it."""

READ_ONLY_TRANSACTION = "25006"

TRIGGERS = ("events_arrived", "events_released")
"""On the table `events`: they tell the deliveries which events are new."""

WEAKNESSES = text(f"""
SELECT 'setting', name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'
UNION ALL SELECT 'trigger', name FROM unnest(ARRAY{[*TRIGGERS]}) AS name WHERE NOT EXISTS (
    SELECT FROM pg_trigger WHERE tgrelid = to_regclass('events') AND tgname = name AND tgenabled IN ('O', 'A')
)
""")  # noqa: S608


def is_sqlite(url: str) -> bool:
    """Whether the URL names a SQLite file; otherwise it names PostgreSQL."""
    return make_url(url).get_backend_name() == "sqlite"


def sqlite_path(url: str) -> Path:
    """The file that a SQLite URL names."""
    return Path(make_url(url).database or "")


def open_engine(
    url: str, *, within: timedelta | None = None, writes: bool = True, of_worker: bool = False
) -> AsyncEngine:
    """An engine for reads, commands and migrations; connects on first use.

    Args:
        url: The database's.
        within: How long a statement may take on PostgreSQL; None for as long as it needs.
        writes: Whether the host must take writes. If False, a read-only host is used when no other answers.
        of_worker: Whether it is a worker's, which does anew what is lost. On SQLite its commits reach the disk with
            the next one of a receiver. On PostgreSQL a connection is used without asking first whether it still works.
    """
    if is_sqlite(url):
        _make_private(sqlite_path(url))
        engine = create_async_engine(url, hide_parameters=True)
        SQLiteFile(sqlite_path(url)).guard(engine.sync_engine)
        if of_worker:
            event.listen(engine.sync_engine, "connect", _sync_later)
        return engine
    left = Left()
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda **_: connect_postgres(url, within=within, writes=writes, left=left),
        pool_pre_ping=not of_worker,
        hide_parameters=True,
    )
    if of_worker:
        event.listen(engine.sync_engine, "checkout", _discard_closed)
    event.listen(engine.sync_engine, "handle_error", _distrust)
    event.listen(engine.sync_engine, "checkin", _leave_read_only)
    return engine


def tell_ignored(url: str) -> None:
    """Logs the parameters of a PostgreSQL URL that change nothing here."""
    if not is_sqlite(url) and (ignored := target(url).ignored):
        fields = {"parameters": ignored, "reason": "The driver does not support these, or always does what they ask."}
        logger.warning("database_parameters_ignored", extra={"fields": fields})


@asynccontextmanager
async def engine_for(
    url: str, *, within: timedelta | None = None, writes: bool = True, of_worker: bool = False
) -> AsyncIterator[AsyncEngine]:
    """`open_engine`, closed at the end; closing does not wait long for a server that does not answer."""
    engine = open_engine(url, within=within, writes=writes, of_worker=of_worker)
    try:
        yield engine
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT.total_seconds()):
                await engine.dispose()


def prefer_indexes(engine: AsyncEngine) -> None:
    """Lets PostgreSQL find rows by an index wherever there is one, in all connections that are opened from now on.

    If a queue was empty when the server made its statistics, it would otherwise read all of the queue when it is full.
    """
    if engine.dialect.name == "postgresql":
        event.listen(engine.sync_engine, "connect", _prefer_indexes)


def open_sqlite(url: str) -> SQLiteFile:
    """A SQLite file, for a thread of its own."""
    return open_sqlite_file(sqlite_path(url))


def open_sqlite_file(path: Path) -> SQLiteFile:
    """The SQLite file at a path, which is made if it is missing."""
    _make_private(path)
    return SQLiteFile(path)


async def weaknesses(engine: AsyncEngine) -> list[str]:
    """Why a 200 may not be durable, or events may not be delivered: one sentence for each weakness of the database.

    priohook starts all the same: a server whose disk survives a power failure may run like this on purpose, and a
    stored event can be replayed.
    """
    if engine.dialect.name == "sqlite":
        return []
    async with engine.connect() as connection:
        found = [tuple(row) for row in await connection.execute(WEAKNESSES)]
    return [
        f"PostgreSQL runs with {name}=off: events that were answered 200 can be lost in a crash."
        if kind == "setting"
        else f"The trigger {name} on the table events is disabled or missing: new events are stored and not delivered."
        for kind, name in sorted(found)
    ]


def _make_private(path: Path) -> None:
    """Makes the file, if it is missing, readable by its owner only: it will hold guests' names.

    An existing file is not even opened. Closing it would drop the locks that SQLite holds in this process (POSIX:
    fcntl). The next command to end would then think that it is the last one, and remove the log with the commits in it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise CannotConnect(f"{path}: {error.strerror}") from error
    if path.is_dir():  # aiosqlite's thread would outlive the event loop and write a traceback of its own
        raise CannotConnect(f"{path} is a folder, not a database")


def _prefer_indexes(connection: Any, _: object) -> None:
    connection.run_async(lambda driver: driver.execute("SET enable_seqscan = off"))


def _distrust(context: ExceptionContext) -> None:
    """Discards the pool's connections to a host that does not take writes any more, or that does not answer."""
    error = context.original_exception
    if isinstance(error, TimeoutError) or getattr(error, "sqlstate", None) == READ_ONLY_TRANSACTION:
        context.is_disconnect = True


def _sync_later(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _discard_closed(connection: Any, _: Any, __: Any) -> None:
    """Takes another connection if the server has closed this one, which costs no round trip to see."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _leave_read_only(connection: Any, record: Any) -> None:
    """Discards a connection to a read-only host: next time another host may take writes."""
    if connection is not None and not takes_writes(connection.driver_connection):
        record.invalidate(soft=True)

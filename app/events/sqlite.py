"""Writes events into SQLite, in a thread of its own."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, event, func, or_, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError, StatementError

from app.database.columns import sqlite_instant
from app.database.engines import SQLITE_BUSY, open_sqlite, sqlite_path
from app.database.postgres import DatabaseProblem
from app.database.sqlite import DamagedFile
from app.events.store import COLUMNS, BadRow, Row, old_keys, outlived_keys
from app.events.tables import Event

logger = logging.getLogger(__name__)

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""When the write-ahead log is larger than this, its pages are copied into the database."""

LARGE_LOG_BYTES = 64 * 1024 * 1024
"""A log grows this large only if there is always a reader, so that no checkpoint can restart it."""

RESTART_EVERY = 10.0  # seconds between attempts to restart a large log
RESTART_WITHIN = timedelta(milliseconds=200)
"""How long such an attempt waits for readers. The next commit waits as long."""

INSERT = (
    f"INSERT INTO events ({', '.join(COLUMNS)}) SELECT {', '.join('?' for _ in COLUMNS)} "  # noqa: S608
    "WHERE NOT EXISTS (SELECT 1 FROM events WHERE dedup_key BETWEEN ? AND ?) ON CONFLICT (dedup_key) DO NOTHING"
)
FIRST_COPIES = select(Event.dedup_key, Event.id)
COUNT_COPIES = (
    update(Event)
    .where(Event.id == bindparam("first"))
    .values(
        duplicates=Event.duplicates + bindparam("copies"),
        last_duplicate_at=func.coalesce(bindparam("last", type_=Event.last_duplicate_at.type), Event.last_duplicate_at),
    )
)


BAD_ROW = (IntegrityError, DataError, InterfaceError, ProgrammingError, ValueError, OverflowError)


class SQLiteWriter:
    """The writer of one SQLite file.

    Checkpoints run on a second connection in another thread: inside commits they would cause the slowest answers.
    """

    def __init__(self, url: str) -> None:
        self._engine, self._file = open_sqlite(url)
        event.listen(self._engine, "connect", _checkpoint_by_hand)
        path = sqlite_path(url)
        self._log = path.with_name(path.name + "-wal")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._checkpointer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-checkpointer")
        self._copying: Future[bool] | None = None
        self._damage: DamagedFile | None = None
        self._log_grows = False
        self._next_restart = 0.0

    def write(self, rows: Sequence[Row]) -> Awaitable[Mapping[bytes, UUID]]:
        """Implements `Writer.write`."""
        return asyncio.get_running_loop().run_in_executor(self._writer, self._write, rows)

    def probe(self, *, thorough: bool) -> Awaitable[None]:
        """Implements `Writer.probe`: takes the write lock, and commits a page if the probe is thorough."""
        return asyncio.get_running_loop().run_in_executor(self._writer, self._probe, thorough)

    async def close(self) -> None:
        """Waits for the write under way, then closes the connections. With the last one SQLite removes its log."""
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._checkpointer.shutdown)
        self._engine.dispose()

    def _write(self, rows: Sequence[Row]) -> dict[bytes, UUID]:
        self._look()
        self._bound_log()
        try:
            with self._engine.begin() as connection:
                for key, before in outlived_keys(rows):
                    _free_key(connection, key, before)
                # Calls the driver: SQLAlchemy's own way takes a third longer, and holds Python's lock meanwhile.
                if connection.exec_driver_sql(INSERT, [_bound(row) for row in rows]).rowcount == len(rows):
                    ids = {row.event.dedup_key: row.event.id for row in rows}
                else:
                    ids = _count_copies(connection, rows)
        except DamagedFile as damage:
            self._damage = damage
            raise
        except BAD_ROW as error:
            # Only the error's class: its message may quote the row.
            raise BadRow(type(error).__name__) from None
        except DBAPIError:
            raise
        except StatementError as error:  # a value that SQLAlchemy could not bind
            raise BadRow(type(error.orig).__name__) from None
        self._file.check()  # again: the file may have been replaced during the commit
        return ids

    def _probe(self, thorough: bool) -> None:  # noqa: FBT001 - an executor passes by position
        self._look()
        names = ", ".join(COLUMNS)
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql(f"INSERT INTO events ({names}) SELECT {names} FROM events WHERE 0")  # noqa: S608
            if thorough or self._is_nearly_full():
                connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")
                connection.commit()

    def _is_nearly_full(self) -> bool:
        disk = os.statvfs(self._log.parent)
        return disk.f_bavail * disk.f_frsize < CHECKPOINT_BYTES

    def _look(self) -> None:
        """Raises if the file is damaged, or is not the one that was opened any more.

        In the second case, first saves as much as possible of what was committed. A file that was found damaged counts
        as damaged until a restart: an event that an intact page takes now may be lost later.
        """
        if self._damage is not None:
            raise self._damage
        try:
            self._file.check()
        except DatabaseProblem:
            with suppress(DBAPIError, sqlite3.Error, DatabaseProblem), closing(self._engine.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")  # into the file that was opened
            raise

    def _bound_log(self) -> None:
        """Keeps the log near `CHECKPOINT_BYTES`.

        SQLite restarts the log only when all of it has been copied, which never happens while commits go on. So the
        other thread copies most of it, and this one copies the rest between two commits.
        """
        size = self._log.stat().st_size if self._log.exists() else 0
        if size <= CHECKPOINT_BYTES:
            self._log_grows = False
        elif self._copying is None:
            self._copying = self._checkpointer.submit(self._copy_log)
        elif self._copying.done():
            self._copying = None
            self._copy_log()
            if size > LARGE_LOG_BYTES and monotonic() >= self._next_restart:
                self._next_restart = monotonic() + RESTART_EVERY
                self._restart_log(size)

    def _restart_log(self, size: int) -> None:
        """Waits for a moment without readers; logs it once if there is none."""
        if self._copy_log("RESTART", within=RESTART_WITHIN) or self._log_grows:
            return
        self._log_grows = True
        fields = {"file": self._log.name, "bytes": size, "reason": "Another process keeps a transaction open."}
        logger.warning("log_grows", extra={"fields": fields})

    def _copy_log(self, mode: str = "PASSIVE", *, within: timedelta = SQLITE_BUSY) -> bool:
        """Copies the log into the database; False if another connection or an error prevented it."""
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql(_busy_timeout(within))
                try:
                    return connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").scalar() == 0
                finally:
                    connection.exec_driver_sql(_busy_timeout(SQLITE_BUSY))
        except (DBAPIError, DatabaseProblem):
            logger.warning("checkpoint_failed", exc_info=True)
            return False


def _busy_timeout(within: timedelta) -> str:
    return f"PRAGMA busy_timeout = {int(within.total_seconds() * 1000)}"


def _bound(row: Row) -> tuple[Any, ...]:
    """The values as SQLAlchemy's types for SQLite store them."""
    return tuple(
        value.hex if isinstance(value, UUID) else sqlite_instant(value) if isinstance(value, datetime) else value
        for value in (*row.values(), *old_keys(row.event.dedup_key))
    )


def _free_key(connection: Connection, key: bytes, before: datetime) -> None:
    has_key = or_(Event.dedup_key == key, Event.dedup_key.between(*old_keys(key)))
    old = select(Event.id).where(has_key, Event.received_at < before)
    for event_id in connection.scalars(old).all():
        connection.execute(update(Event).where(Event.id == event_id).values(dedup_key=event_id.bytes))


def _count_copies(connection: Connection, rows: Sequence[Row]) -> dict[bytes, UUID]:
    """Counts the rows that are copies of events from earlier batches; gives the id of every row's event."""
    keys = [row.event.dedup_key for row in rows]
    ids = dict(connection.execute(FIRST_COPIES.where(Event.dedup_key.in_(keys))).all())
    for key in keys:
        if key not in ids:
            ids[key] = connection.scalars(select(Event.id).where(Event.dedup_key.between(*old_keys(key)))).one()
    again = [
        {"first": ids[row.event.dedup_key], "copies": row.copies, "last": row.last_copy_at}
        for row in rows
        if ids[row.event.dedup_key] != row.event.id
    ]
    connection.execute(COUNT_COPIES, again)
    return ids


def _checkpoint_by_hand(connection: Any, _: object) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 0").close()
    connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES}").close()

"""Writes events into SQLite, in a thread of its own."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

from app.database.columns import sqlite_instant
from app.database.engines import open_sqlite
from app.database.leaving import MOVED, MOVED_FILE, REFUSED, Moved
from app.database.problems import DatabaseProblem
from app.database.sqlite import SQLITE_BUSY, DamagedFile, SQLiteFile, busy_timeout
from app.events.rows import COLUMNS, NewEvent, Row, old_keys, outlived_keys
from app.events.store import BadRow

logger = logging.getLogger(__name__)

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""When the write-ahead log is larger than this, its pages are copied into the database."""

LARGE_LOG_BYTES = 64 * 1024 * 1024
"""A log grows this large only if there is always a reader, so that no checkpoint can restart it."""

RESTART_EVERY = 10.0  # seconds between attempts to restart a large log
RESTART_WITHIN = timedelta(milliseconds=200)
"""How long such an attempt waits for readers. The next commit waits as long."""

INSERT = (
    f"INSERT INTO events ({', '.join(COLUMNS)}) SELECT {', '.join(f'?{place + 1}' for place in range(len(COLUMNS)))} "  # noqa: S608
    f"WHERE NOT EXISTS (SELECT 1 FROM deleted_events WHERE dedup_key = ?{COLUMNS.index('dedup_key') + 1}) "
    "ON CONFLICT (dedup_key) DO NOTHING"
)
NO_OLD_KEYS = 1
"""The file's `user_version` if no event has an old key, see `old_keys`: migration 0010 sets it in an empty file.

A file that was restored from SQL has lost it, so old keys are looked up there.
"""

WITH_KEY = "SELECT id FROM events WHERE dedup_key = ?"
WITH_OLD_KEY = "SELECT id FROM events WHERE dedup_key BETWEEN ? AND ?"
WITH_DELETED_KEY = "SELECT event_id FROM deleted_events WHERE dedup_key = ?"
COUNT_DELETED = "UPDATE deleted_events SET duplicates = duplicates + ?, last_duplicate_at = ? WHERE dedup_key = ?"
COUNT_COPIES = (
    "UPDATE events SET duplicates = duplicates + ?, last_duplicate_at = ?, "
    "origin = CASE origin WHEN 'fetched' THEN 'both' ELSE origin END WHERE id = ?"
)
FREE_KEY = "UPDATE events SET dedup_key = ? WHERE id = ? AND received_at < ?"
NAMES = ", ".join(COLUMNS)
PROBE = f"INSERT INTO events ({NAMES}) SELECT {NAMES} FROM events WHERE 0"  # noqa: S608

BETWEEN_TIMES = slice(NewEvent._fields.index("received_at") + 1, NewEvent._fields.index("order_modified"))
BEHIND_TIMES = slice(NewEvent._fields.index("order_modified") + 1, None)

BAD_ROW = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    ValueError,
    OverflowError,
)


class SQLiteWriter:
    """The writer of one SQLite file.

    Checkpoints run on a second connection in another thread: inside commits they would cause the slowest answers.
    """

    def __init__(self, url: str) -> None:
        self._file = open_sqlite(url)
        self._connection: sqlite3.Connection | None = None  # of the writer
        self._has_old_keys = True
        self._second: sqlite3.Connection | None = None  # for checkpoints
        self._log = self._file.log
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
        for connection in (self._second, self._connection):
            if connection is not None:
                self._file.close(connection)

    def _write(self, rows: Sequence[Row]) -> dict[bytes, UUID]:
        self._look()
        self._bound_log()
        try:
            with self._transaction() as connection:
                ids = _store(connection, rows, has_old_keys=self._has_old_keys)
        except BAD_ROW as error:
            # Only the error's class: its message may quote the row.
            raise BadRow(type(error).__name__) from None
        self._file.check()  # again: the file may have been replaced during the commit
        return ids

    def _probe(self, thorough: bool) -> None:  # noqa: FBT001 - an executor passes by position
        self._look()
        with self._transaction() as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application == MOVED_FILE:  # no trigger fires without a row
                raise Moved(MOVED)
            connection.execute(PROBE)
            if thorough or self._is_nearly_full():
                connection.execute("UPDATE alembic_version SET version_num = version_num")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Calls the driver: SQLAlchemy's way takes a third longer, and holds Python's lock meanwhile."""
        try:
            if self._connection is None:
                self._connection = _open(self._file)
                (version,) = self._connection.execute("PRAGMA user_version").fetchone()
                self._has_old_keys = version != NO_OLD_KEYS
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                self._file.check()
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.DatabaseError as error:
            if str(error) == REFUSED:
                raise Moved(MOVED) from None
            self._damage = self._file.damage(error)
            if self._damage is not None:
                raise self._damage from error
            raise

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
            if self._connection is not None:
                with suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # into the file that was opened
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
            self._file.check()
            if self._second is None:
                self._second = _open(self._file)
            self._second.execute(busy_timeout(within))
            (busy, _, _) = self._second.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except (sqlite3.Error, DatabaseProblem):
            logger.warning("checkpoint_failed", exc_info=True)
            return False
        return bool(busy == 0)


def _open(file: SQLiteFile) -> sqlite3.Connection:
    """A connection that leaves checkpoints to the writer."""
    connection = file.connect()
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES}")
    return connection


def _store(connection: sqlite3.Connection, rows: Sequence[Row], *, has_old_keys: bool) -> dict[bytes, UUID]:
    """Inserts the rows, or counts those that are copies. Returns what `Writer.write` returns."""
    for key, before in outlived_keys(rows):
        _free_key(connection, key, before)
    old: list[tuple[bytes] | None] = [None] * len(rows)
    if has_old_keys:
        old = [connection.execute(WITH_OLD_KEY, old_keys(row.event.dedup_key)).fetchone() for row in rows]
    new = [_bound(row) for row, found in zip(rows, old, strict=True) if found is None]
    if connection.executemany(INSERT, new).rowcount == len(rows):
        return {row.event.dedup_key: row.event.id for row in rows}
    ids: dict[bytes, UUID] = {}
    for row, found in zip(rows, old, strict=True):
        stored = found or connection.execute(WITH_KEY, (row.event.dedup_key,)).fetchone()
        if stored is None:
            deleted = connection.execute(WITH_DELETED_KEY, (row.event.dedup_key,)).fetchone()
            if deleted is not None:
                ids[row.event.dedup_key] = UUID(bytes=deleted[0])
                copies = (row.copies, sqlite_instant(row.last_copy_at), row.event.dedup_key)
                connection.execute(COUNT_DELETED, copies)
            continue
        (first,) = stored
        ids[row.event.dedup_key] = UUID(bytes=first)
        if ids[row.event.dedup_key] != row.event.id:
            connection.execute(COUNT_COPIES, (row.copies, sqlite_instant(row.last_copy_at), first))
    return ids


def _bound(row: Row) -> tuple[Any, ...]:
    """The values in the order of `COLUMNS`, as SQLAlchemy's types for SQLite store them."""
    event = row.event
    values: tuple[Any, ...] = event
    return (
        event.id.bytes,
        sqlite_instant(event.received_at),
        *values[BETWEEN_TIMES],
        event.order_modified and sqlite_instant(event.order_modified),
        *values[BEHIND_TIMES],
        row.duplicates,
        row.last_duplicate_at and sqlite_instant(row.last_duplicate_at),
    )


def _free_key(connection: sqlite3.Connection, key: bytes, before: datetime) -> None:
    found = connection.execute(WITH_KEY, (key,)).fetchall() + connection.execute(WITH_OLD_KEY, old_keys(key)).fetchall()
    for (event_id,) in found:
        connection.execute(FREE_KEY, (event_id, event_id, sqlite_instant(before)))

"""Writes events into SQLite, from a thread of its own."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, event, func, select, update
from sqlalchemy.exc import OperationalError, StatementError

from app.database import open_sqlite, sqlite_instant, sqlite_path
from app.events.store import COLUMNS, BadRow, Row
from app.events.tables import Event

logger = logging.getLogger(__name__)

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""The size of the write-ahead log from which its pages are copied into the database."""

INSERT = (
    f"INSERT INTO events ({', '.join(COLUMNS)}) VALUES ({', '.join('?' for _ in COLUMNS)}) "  # noqa: S608
    "ON CONFLICT (dedup_key) DO NOTHING"
)
FIRST_COPIES = select(Event.dedup_key, Event.id)
COUNT_COPIES = (
    update(Event)
    .where(Event.dedup_key == bindparam("key"))
    .values(
        duplicates=Event.duplicates + bindparam("copies"),
        last_duplicate_at=func.coalesce(bindparam("last", type_=Event.last_duplicate_at.type), Event.last_duplicate_at),
    )
)


class SQLiteWriter:
    """The writer of one SQLite file.

    Checkpoints run on a second connection and thread: inside a commit they are what makes the slowest answers slow.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_sqlite(url)
        event.listen(self._engine, "connect", _checkpoint_by_hand)
        path = sqlite_path(url)
        self._log = path.with_name(path.name + "-wal")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._checkpointer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-checkpointer")
        self._copying: Future[None] | None = None

    def write(self, rows: Sequence[Row]) -> Awaitable[Mapping[bytes, UUID]]:
        """As `Writer.write` says."""
        return asyncio.get_running_loop().run_in_executor(self._writer, self._write, rows)

    def probe(self, *, thorough: bool) -> Awaitable[None]:
        """As `Writer.probe` says: takes the lock, and commits a page when it is thorough."""
        return asyncio.get_running_loop().run_in_executor(self._writer, self._probe, thorough)

    async def close(self) -> None:
        """Waits for a write that is under way, then closes; SQLite removes its log with the last connection."""
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._checkpointer.shutdown)
        self._engine.dispose()

    def _write(self, rows: Sequence[Row]) -> dict[bytes, UUID]:
        self._bound_log()
        try:
            with self._engine.begin() as connection:
                # The driver's own call: SQLAlchemy's costs a third more, with Python's lock held.
                if connection.exec_driver_sql(INSERT, [_bound(row) for row in rows]).rowcount == len(rows):
                    return {row.event.dedup_key: row.event.id for row in rows}
                return _count_copies(connection, rows)
        except OperationalError:
            raise
        except (StatementError, ValueError, OverflowError) as error:
            raise BadRow from error

    def _probe(self, thorough: bool) -> None:  # noqa: FBT001 - an executor passes by position
        names = ", ".join(COLUMNS)
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql(f"INSERT INTO events ({names}) SELECT {names} FROM events WHERE 0")  # noqa: S608
            if thorough:
                connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")
                connection.commit()

    def _bound_log(self) -> None:
        """Keeps the log near `CHECKPOINT_BYTES`: most of it is copied beside the writer, the rest between two commits.

        SQLite starts the log anew only once all of it is copied, which never happens while commits go on.
        """
        if not self._log.exists() or self._log.stat().st_size <= CHECKPOINT_BYTES:
            return
        if self._copying is None:
            self._copying = self._checkpointer.submit(self._copy_log)
        elif self._copying.done():
            self._copy_log()
            self._copying = None

    def _copy_log(self) -> None:
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
        except OperationalError:
            logger.warning("checkpoint_failed", exc_info=True)


def _bound(row: Row) -> tuple[Any, ...]:
    """The values as SQLAlchemy's types for SQLite store them."""
    return tuple(
        value.hex if isinstance(value, UUID) else sqlite_instant(value) if isinstance(value, datetime) else value
        for value in row.values()
    )


def _count_copies(connection: Connection, rows: Sequence[Row]) -> dict[bytes, UUID]:
    """The slower way, for a batch with copies of events that an earlier one stored."""
    keys = [row.event.dedup_key for row in rows]
    ids = dict(connection.execute(FIRST_COPIES.where(Event.dedup_key.in_(keys))).all())
    again = [
        {
            "key": row.event.dedup_key,
            "copies": row.duplicates + 1,
            "last": row.last_duplicate_at or row.event.received_at,
        }
        for row in rows
        if ids[row.event.dedup_key] != row.event.id
    ]
    connection.execute(COUNT_COPIES, again)
    return ids


def _checkpoint_by_hand(connection: Any, _: object) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 0").close()
    connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES}").close()

"""Writes events into PostgreSQL: one statement of constant text and one round trip for each batch."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from app.database import connect_postgres
from app.events.ids import new_id
from app.events.store import COLUMNS, BadRow, NewEvent, Row
from app.events.tables import Status

PROBE_BYTES = 64 * 1024

TYPES = {
    "id": "uuid",
    "received_at": "timestamptz",
    "headers": "bytea",
    "body": "bytea",
    "body_bytes": "int8",
    "dedup_key": "bytea",
    "order_version": "int8",
    "order_modified": "timestamptz",
    "duplicates": "int4",
    "last_duplicate_at": "timestamptz",
}
"""Of the columns that are not text."""

ARRAYS = ", ".join(f"${place}::{TYPES.get(name, 'text')}[]" for place, name in enumerate(COLUMNS, start=1))
INSERT = f"""
INSERT INTO events ({", ".join(COLUMNS)})
SELECT * FROM unnest({ARRAYS})
ON CONFLICT (dedup_key) DO UPDATE SET
    duplicates = events.duplicates + excluded.duplicates + 1,
    last_duplicate_at = coalesce(excluded.last_duplicate_at, excluded.received_at)
RETURNING dedup_key, id
"""  # noqa: S608

BAD_ROW = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,  # asyncpg's own, for what it cannot encode
    OverflowError,
)


class PostgresWriter:
    """The writer of one process: one connection, made when it is needed and thrown away after any trouble.

    Args:
        url: The database's.
        timeout: How long one statement may take.
    """

    def __init__(self, url: str, *, timeout: timedelta) -> None:
        self._url = url
        self._timeout = timeout.total_seconds()
        self._connection: asyncpg.Connection | None = None

    async def write(self, rows: Sequence[Row]) -> Mapping[bytes, UUID]:
        """As `Writer.write` says; the statement is a transaction of its own and commits before it answers."""
        columns = zip(*(row.values() for row in rows), strict=True)
        try:
            connection = await self._connected()
            stored = await connection.fetch(INSERT, *columns, timeout=self._timeout)
        except BAD_ROW as error:
            # Its kind only, and no cause: the driver's text quotes the value and PostgreSQL's DETAIL the row.
            raise BadRow(type(error).__name__) from None
        except BaseException:
            self._discard()
            raise
        return dict(stored)

    async def probe(self, *, thorough: bool) -> None:
        """As `Writer.probe` says: without rows the statement still needs the table, its rights and a host that writes.

        A thorough one writes a row and takes it back. Its body is as large as to need new pages, in the table and in
        the server's log.
        """
        rows = [Row(_random_event())] if thorough else []
        columns = list(zip(*(row.values() for row in rows), strict=True)) or [()] * len(COLUMNS)
        try:
            connection = await self._connected()
            transaction = connection.transaction()
            await transaction.start()
            await connection.fetch(INSERT, *columns, timeout=self._timeout)
            await transaction.rollback()
        except BaseException:
            self._discard()
            raise

    async def close(self) -> None:
        """Closes the connection."""
        self._discard()

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect_postgres(self._url)
        return self._connection

    def _discard(self) -> None:
        if self._connection is not None:
            self._connection.terminate()  # a polite end would wait for a server that may be stopped
            self._connection = None


def _random_event() -> NewEvent:
    body = os.urandom(PROBE_BYTES)
    return NewEvent(
        id=new_id(),
        received_at=datetime.now(UTC),
        client="priohook",
        headers=b"",
        body=body,
        body_bytes=len(body),
        dedup_key=os.urandom(16),
        status=Status.QUARANTINED.value,
    )

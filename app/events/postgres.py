"""Writes events into PostgreSQL: one statement of constant text and one round trip for each batch."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg

from app.database import connect_postgres
from app.events.store import BadRow, Row

COLUMNS = {
    "id": "uuid",
    "received_at": "timestamptz",
    "client": "text",
    "status": "text",
    "reason": "text",
    "type": "text",
    "reference": "text",
    "order_version": "int8",
    "order_modified": "timestamptz",
    "notification_id": "text",
    "api_version": "text",
    "shape": "text",
    "headers": "bytea",
    "body": "bytea",
    "body_bytes": "int8",
    "dedup_key": "bytea",
    "duplicates": "int4",
    "last_duplicate_at": "timestamptz",
}

INSERT = f"""
INSERT INTO events ({", ".join(COLUMNS)})
SELECT * FROM unnest({", ".join(f"${place}::{kind}[]" for place, kind in enumerate(COLUMNS.values(), start=1))})
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
        columns = zip(*(_values(row) for row in rows), strict=True)
        try:
            connection = await self._connected()
            stored = await connection.fetch(INSERT, *columns, timeout=self._timeout)
        except BAD_ROW as error:
            # The first line only, and no cause: PostgreSQL's DETAIL shows the row, and the log would have it.
            raise BadRow(f"{type(error).__name__}: {error}".partition("\n")[0]) from None
        except BaseException:
            self._discard()
            raise
        return dict(stored)

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


def _values(row: Row) -> tuple[object, ...]:
    columns = row.columns()
    return tuple(columns[name] for name in COLUMNS)

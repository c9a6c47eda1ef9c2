"""Writes events into PostgreSQL: one statement of constant text and one round trip for each batch.

A statement that does not return in time is left, as `app.database.commits` says. If it were cancelled, workers would
deliver an event that a fail-over would lose, and its sender, who got no 200, would send it again under another id.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from app.database.away import is_away, is_of_row, named
from app.database.commits import Connection, Left
from app.database.postgres import DURABLE, MARGIN, close, connect_postgres, not_durable
from app.database.problems import CommitsWait
from app.events.ids import new_id
from app.events.rows import COLUMNS, NewEvent, Row, outlived_keys
from app.events.store import BadRow
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
"""The types of the columns that are not text."""

ARRAYS = ", ".join(f"${place}::{TYPES.get(name, 'text')}[]" for place, name in enumerate(COLUMNS, start=1))
OLD_KEY = r"BETWEEN substr(new.dedup_key, 5) || '\x00000000'::bytea AND substr(new.dedup_key, 5) || '\xffffffff'::bytea"
"""As `old_keys`."""
SAME_KEY = "BETWEEN new.dedup_key AND new.dedup_key"
"""Equal. Only a look-up for each row can answer it: a plan for few rows that reads the whole table might be kept."""

INSERT = f"""
INSERT INTO events ({", ".join(COLUMNS)})
SELECT * FROM unnest({ARRAYS}) AS new ({", ".join(COLUMNS)})
WHERE NOT EXISTS (SELECT FROM events AS old WHERE old.dedup_key {OLD_KEY})
AND NOT EXISTS (SELECT FROM deleted_events AS gone WHERE gone.dedup_key {SAME_KEY})
ON CONFLICT (dedup_key) DO UPDATE SET
    duplicates = CASE WHEN events.id = excluded.id THEN greatest(events.duplicates, excluded.duplicates)
        ELSE events.duplicates + excluded.duplicates + 1 END,
    last_duplicate_at = CASE WHEN events.id = excluded.id
        THEN greatest(events.last_duplicate_at, excluded.last_duplicate_at)
        ELSE greatest(events.last_duplicate_at, excluded.last_duplicate_at, excluded.received_at) END,
    origin = CASE events.origin WHEN 'fetched' THEN 'both' ELSE events.origin END
RETURNING dedup_key, id, current_setting('synchronous_commit')
"""  # noqa: S608
"""A row with the same id is the same event, committed by an attempt whose outcome was unknown, and not a copy."""

WITH_LATER_KEY = """
SELECT dedup_key FROM events JOIN unnest($1::bytea[], $2::timestamptz[]) AS new (dedup_key, until) USING (dedup_key)
WHERE received_at > until
"""
TOUCH = "UPDATE events SET duplicates = duplicates WHERE id = $1 RETURNING current_setting('synchronous_commit')"

COUNT_OLD = f"""
UPDATE events SET duplicates = events.duplicates + old.copies, last_duplicate_at = old.last FROM (
    SELECT id, new.dedup_key, copies, last FROM events
    JOIN unnest($1::bytea[], $2::int4[], $3::timestamptz[]) AS new (dedup_key, copies, last)
    ON events.dedup_key {OLD_KEY} ORDER BY new.dedup_key FOR UPDATE OF events
) AS old WHERE events.id = old.id
RETURNING old.dedup_key, events.id, current_setting('synchronous_commit')
"""  # noqa: S608
"""The copies of events that have an old key."""

COUNT_DELETED = f"""
UPDATE deleted_events AS gone SET
    duplicates = gone.duplicates + CASE WHEN gone.event_id = known.id THEN 0 ELSE known.copies END,
    last_duplicate_at = CASE WHEN gone.event_id = known.id THEN gone.last_duplicate_at
        ELSE greatest(gone.last_duplicate_at, known.last) END
FROM (
    SELECT gone.dedup_key, new.id, copies, last FROM deleted_events AS gone
    JOIN unnest($1::bytea[], $2::int4[], $3::timestamptz[], $4::uuid[]) AS new (dedup_key, copies, last, id)
    ON gone.dedup_key {SAME_KEY} ORDER BY new.dedup_key FOR UPDATE OF gone
) AS known WHERE gone.dedup_key = known.dedup_key
RETURNING gone.dedup_key, gone.event_id, current_setting('synchronous_commit')
"""  # noqa: S608
"""The copies of events that were deleted. A row with the same id is not a copy: the spool moves it a second time."""

FREE_KEYS = f"""
UPDATE events SET dedup_key = uuid_send(events.id) FROM (
    SELECT id FROM events JOIN unnest($1::bytea[], $2::timestamptz[]) AS new (dedup_key, before)
    ON (events.dedup_key = new.dedup_key OR events.dedup_key {OLD_KEY}) AND received_at < before
    ORDER BY new.dedup_key FOR UPDATE OF events
) AS old WHERE events.id = old.id
"""  # noqa: S608


class PostgresWriter:
    """Writes the events of one process over one connection.

    Args:
        url: The database's URL.
        timeout: How long one statement may take.
    """

    def __init__(self, url: str, *, timeout: timedelta) -> None:
        self._url = url
        self._timeout = timeout
        self._connection: Connection | None = None
        self._left = Left(after=timeout)

    async def write(self, rows: Sequence[Row]) -> Mapping[bytes, UUID]:
        """Implements `Writer.write`. The INSERT is a transaction of its own and commits before it returns.

        Freeing keys is another transaction. If the INSERT fails after it, the freed keys do no harm: they had expired.
        So is counting copies of events with an old key, and of deleted ones, which the INSERT leaves out. If such a
        key was freed meanwhile, its event is inserted after all.
        """
        outlived = list(zip(*outlived_keys(rows), strict=True))
        ids: dict[bytes, UUID] = {}
        left = rows
        async with self._connected() as connection:
            if outlived:
                await self._fetch(connection, FREE_KEYS, *outlived)
            for _ in range(2):
                stored = await self._fetch(connection, INSERT, *zip(*(row.values() for row in left), strict=True))
                if len(stored) < len(left):
                    new = {row[0] for row in stored}
                    copies = [
                        (key, row.copies, row.last_copy_at) for row in left if (key := row.event.dedup_key) not in new
                    ]
                    counted = await self._fetch(connection, COUNT_OLD, *zip(*copies, strict=True))
                    found = {row[0] for row in counted}
                    known = [
                        (key, row.copies, row.last_copy_at, row.event.id)
                        for row in left
                        if (key := row.event.dedup_key) not in new | found
                    ]
                    gone = await self._fetch(connection, COUNT_DELETED, *zip(*known, strict=True)) if known else []
                else:
                    counted = gone = []
                for row in (*stored[:1], *counted[:1], *gone[:1]):
                    if row[2] not in DURABLE:
                        raise not_durable(row[2])
                ids |= {row[0]: row[1] for row in (*stored, *counted, *gone)}
                if len(ids) == len(rows):
                    break
                left = [row for row in left if row.event.dedup_key not in ids]
        return ids

    async def move(self, rows: Sequence[Row]) -> set[UUID]:
        """Writes rows of the spool. Some may be stored already, by an attempt whose outcome was unknown.

        A row may be older than a stored event that has its key, and that came too late to be a copy. The stored event
        keeps the key then, and the row gets its id as its key.

        Returns:
            The ids of events that a trigger left out.

        Raises:
            BadRow: one of the rows cannot be stored as it is, whatever the error says: the server takes others.
        """
        for again in (False, True):
            try:
                return await self._move(rows)
            except asyncpg.PostgresError as error:
                if is_away(error):
                    raise
                if again:
                    raise BadRow(named(error)) from None
                # The code is one of the server's, but a trigger may raise it for one event.
                await self.probe(thorough=True)
        raise AssertionError

    async def _move(self, rows: Sequence[Row]) -> set[UUID]:
        lasting = [
            (row.event.dedup_key, row.event.received_at + within)
            for row in rows
            if (within := row.event.copies_within) is not None
        ]
        if lasting:
            async with self._connected() as connection:
                found = await connection.fetch(WITH_LATER_KEY, *zip(*lasting, strict=True))
            taken = {key for (key,) in found}
            rows = [
                replace(row, event=row.event._replace(dedup_key=row.event.id.bytes))
                if row.event.dedup_key in taken
                else row
                for row in rows
            ]
        ids = await self.write(sorted(rows, key=lambda row: row.event.dedup_key))
        return {row.event.id for row in rows if row.event.dedup_key not in ids}

    async def holds(self, event_id: UUID) -> bool:
        """Whether the event is stored; if it is, it has been committed durably."""
        async with self._connected() as connection:
            touched = await self._fetch(connection, TOUCH, event_id)
            if touched and touched[0][0] not in DURABLE:
                raise not_durable(touched[0][0])
        return bool(touched)

    async def probe(self, *, thorough: bool) -> None:
        """Implements `Writer.probe`. Even without rows, the INSERT needs the table, rights on it and a writable server.

        A thorough probe inserts a row and rolls back. The row's body is large enough to need new pages in the table and
        in the write-ahead log. If a trigger refuses this row, the server works.
        """
        rows = [Row(_random_event())] if thorough else []
        columns = list(zip(*(row.values() for row in rows), strict=True)) or [()] * len(COLUMNS)
        with suppress(BadRow):
            await self._try(columns)

    async def _try(self, columns: Sequence[Sequence[object]]) -> None:
        async with self._connected() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.fetch(INSERT, *columns)
            finally:
                await transaction.rollback()

    async def close(self) -> None:
        """Closes the connection."""
        await self._discard()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """The connection, opened when it is needed. After an error that leaves its state in doubt, it is closed."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect_postgres(self._url, within=self._timeout, left=self._left)
            # What is planned while few events are stored is kept while they become millions.
            await self._connection.execute("SET enable_seqscan = off")
            try:
                await self._connection.check_standby()
            except CommitsWait:
                await self._discard()
                raise
        try:
            yield self._connection
        except (ValueError, OverflowError) as error:  # from asyncpg, for a value that it cannot encode
            raise BadRow(type(error).__name__) from None  # no cause: its message quotes the value
        except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError):
            raise  # the server ended the statement only, so the connection is still good
        except BaseException as error:
            if isinstance(error, asyncpg.PostgresError) and is_of_row(error):
                raise BadRow(named(error)) from None  # no cause: PostgreSQL's DETAIL quotes the row
            await self._discard()
            raise

    async def _fetch(self, connection: Connection, query: str, *values: object) -> list[asyncpg.Record]:
        """The rows of a statement that commits."""
        within = self._timeout + MARGIN  # the server cancels a statement earlier, but not a commit
        with connection.committing():
            rows: list[asyncpg.Record] = await connection.fetch(query, *values, timeout=within.total_seconds())
        return rows

    async def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)


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

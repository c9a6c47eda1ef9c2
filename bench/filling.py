"""Millions of stored events, without sending any."""

import asyncio
import shutil
from contextlib import closing
from os import urandom
from pathlib import Path
from time import time
from uuid import UUID

import asyncpg

from app.database import engines
from bench.databases import opened

BYTES_PER_ROW = 800
"""What a filled row takes on disk with its indexes, rounded up."""

ROWS_AT_ONCE = 250_000
SPAN_MS = 400 * 24 * 3600 * 1000
"""The age of the oldest filled event."""

EVENTS_PER_ORDER = 3

SQLITE_FILL = """
WITH RECURSIVE numbers(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
INSERT INTO events (id, received_at, client, status, type, reference, notification_id, api_version, shape,
    headers, body, body_bytes, dedup_key)
SELECT id_at(:start + n * :step),
    strftime('%Y-%m-%d %H:%M:%f000', (:start + n * :step) / 1000.0, 'unixepoch'), 'prioticket', 'accepted',
    'ORDER_CREATE', printf('PRI%016d', abs(random()) % :orders), lower(hex(randomblob(18))), '3.8.0', 'notification',
    CAST('host: priohook' AS BLOB), CAST('{"api_version": "3.8.0", "data": {"kind": "notification"}}' AS BLOB), 58,
    key_at(:start + n * :step)
FROM numbers
"""
POSTGRES_FILL = """
INSERT INTO events (id, received_at, client, status, type, reference, notification_id, api_version, shape,
    headers, body, body_bytes, dedup_key)
SELECT (lpad(to_hex($3::bigint + n * $4::bigint), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0') || '8'
        || substr(md5(random()::text), 1, 15))::uuid,
    to_timestamp(($3::bigint + n * $4::bigint) / 1000.0), 'prioticket', 'accepted', 'ORDER_CREATE',
    'PRI' || lpad(((random() * $5::bigint)::bigint)::text, 16, '0'), gen_random_uuid()::text, '3.8.0', 'notification',
    'host: priohook'::bytea, '{"api_version": "3.8.0", "data": {"kind": "notification"}}'::bytea, 58,
    int4send((($3::bigint + n * $4::bigint) / 1000)::int4) || substr(uuid_send(gen_random_uuid()), 1, 12)
FROM generate_series($1::bigint, $2::bigint) AS n
"""


class NotEnoughDisk(Exception):
    """The rows would not fit; the text says how much they need."""


def require_disk(folder: Path, rows: int) -> None:
    """Returns when the rows fit twice over.

    Raises:
        NotEnoughDisk: they do not.
    """
    needed, free = 2 * rows * BYTES_PER_ROW, shutil.disk_usage(folder).free
    if free < needed:
        raise NotEnoughDisk(f"{rows:,} rows need {needed / 1e9:.0f} GB free, and {folder} has {free / 1e9:.0f} GB.")


def fill(url: str, rows: int) -> None:
    """Stores that many events by SQL, with small bodies; ids, references and keys are like the receiver's."""
    start, step = int(time() * 1000) - SPAN_MS, SPAN_MS // max(rows, 1)
    chunks = [(first, min(first + ROWS_AT_ONCE - 1, rows)) for first in range(1, rows + 1, ROWS_AT_ONCE)]
    if engines.is_sqlite(url):
        _fill_sqlite(url, chunks, start=start, step=step, orders=orders(rows))
    else:
        asyncio.run(_fill_postgres(url, chunks, start, step, orders(rows)))


def orders(rows: int) -> int:
    """Of how many orders so many events are: `PRI` and a number of 16 digits, from 0."""
    return max(1, rows // EVENTS_PER_ORDER)


def _fill_sqlite(url: str, chunks: list[tuple[int, int]], **values: int) -> None:
    with closing(opened(url)) as connection:
        connection.create_function("id_at", 1, lambda at: _id(at).bytes)
        connection.create_function("key_at", 1, lambda at: (at // 1000).to_bytes(4) + urandom(12))
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -500000")  # kB; the keys are random, so their index should fit
        for first, last in chunks:
            connection.execute(SQLITE_FILL, {"first": first, "last": last, **values})
            connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def _fill_postgres(url: str, chunks: list[tuple[int, int]], start: int, step: int, orders: int) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("SET synchronous_commit = off")
    for first, last in chunks:
        await connection.execute(POSTGRES_FILL, first, last, start, step, orders)
    await connection.execute("VACUUM ANALYZE events")
    await connection.execute("CHECKPOINT")
    await connection.close()


def _id(milliseconds: int) -> UUID:
    """A UUIDv7 of that time."""
    random = int.from_bytes(urandom(10)) & 0x0FFF_3FFF_FFFF_FFFF_FFFF
    return UUID(int=milliseconds << 80 | random | 0x7000_8000_0000_0000_0000)

"""The PostgreSQL database that is filled, over one connection.

Until it is complete it has a table that says how far it is, which also keeps everybody else from using it, and its
triggers are off: they would note each copied event as one to deliver.
"""

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import MetaData

from app.database import leaving
from app.database.engines import engine_for
from app.database.migrations import migrate
from app.database.postgres import close, connect_postgres
from app.database.schema import known_revisions, newer
from app.transfer.columns import Moving, Values

AT_ONCE = 1000  # rows in one statement
PLANNING = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
"""Keys are looked up by an index from the first row on, when the server knows nothing of the tables yet."""

TOKEN = f"SELECT token FROM {leaving.TABLE} LIMIT 1"  # noqa: S608

T = TypeVar("T")


class TransferProblem(Exception):
    """The move cannot go on; the text says why and what to do. The SQLite file is whole, and counts."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection whose transactions may wait for as long as SQLite needs."""
    connection = await connect_postgres(url)
    try:
        await connection.execute(f"SET idle_in_transaction_session_timeout = 0; {PLANNING}")
        yield connection
    finally:
        await close(connection)


async def token_of(connection: asyncpg.Connection) -> str | None:
    """The token of the move that has begun to fill the database; None if none has."""
    if not await connection.fetchval(f"SELECT to_regclass('{leaving.TABLE}') IS NOT NULL"):
        return None
    return str(await connection.fetchval(TOKEN))


async def require_empty(connection: asyncpg.Connection, metadata: MetaData) -> None:
    """Returns if no table of priohook has a row.

    Raises:
        TransferProblem: one has.
    """
    for name in sorted(metadata.tables):
        there = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name)
        if there and await connection.fetchval(f'SELECT EXISTS (SELECT FROM "{name}")'):  # noqa: S608
            raise TransferProblem(
                f"The table {name} of the PostgreSQL database is not empty, and not by a move of this SQLite file. "
                "Nothing was changed. Name an empty database."
            )


async def begin(connection: asyncpg.Connection, url: str, tables: Sequence[Moving], token: str) -> None:
    """Migrates the database, and notes that it is filled. A move may go on with a newer release than it began with.

    Raises:
        TransferProblem: a newer release has migrated it, or another move has begun to fill it.
    """
    async with engine_for(url) as engine:
        await migrate(engine)
    revision = await connection.fetchval("SELECT version_num FROM alembic_version")
    if revision != known_revisions()[-1]:
        raise TransferProblem(newer(revision))
    async with connection.transaction():
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {leaving.TABLE} "
            "(name text PRIMARY KEY, token text NOT NULL, key text, copied bool NOT NULL DEFAULT false)"
        )
        await connection.executemany(
            f"INSERT INTO {leaving.TABLE} (name, token) VALUES ($1, $2) ON CONFLICT DO NOTHING",  # noqa: S608
            [(table.name, token) for table in tables],
        )
    if await token_of(connection) != token:
        raise TransferProblem("A move of another SQLite file fills this database. Name an empty database.")


async def set_triggers(connection: asyncpg.Connection, tables: Sequence[Moving], *, on: bool) -> None:
    """Turns the triggers of all tables on or off."""
    found = await connection.fetch(
        "SELECT DISTINCT tgrelid::regclass::text AS name FROM pg_trigger WHERE NOT tgisinternal "
        "AND tgrelid = ANY ($1::text[]::regclass[]) ORDER BY 1",
        [table.name for table in tables],
    )
    for row in found:
        await connection.execute(f"ALTER TABLE {row['name']} {'ENABLE' if on else 'DISABLE'} TRIGGER USER")


async def number_on(connection: asyncpg.Connection) -> None:
    """Lets the next event get a position after all that were copied."""
    await connection.execute(
        "SELECT setval('events_position', greatest((SELECT coalesce(max(position), 0) FROM events), 1))"
    )


async def place_of(connection: asyncpg.Connection, table: Moving) -> tuple[Values | None, bool]:
    """The key of the last row that was copied, and whether all were."""
    row = await connection.fetchrow(f"SELECT key, copied FROM {leaving.TABLE} WHERE name = $1", table.name)  # noqa: S608
    return (None if row["key"] is None else _key_from(row["key"])), bool(row["copied"])


async def set_place(connection: asyncpg.Connection, table: Moving, key: Values | None, *, copied: bool) -> None:
    """Notes how far it is."""
    await connection.execute(
        f"UPDATE {leaving.TABLE} SET key = $2, copied = $3 WHERE name = $1",  # noqa: S608
        table.name,
        None if key is None else _key_text(key),
        copied,
    )


async def insert(connection: asyncpg.Connection, table: Moving, rows: Iterable[Values]) -> None:
    """Copies rows, read one after the other."""
    await connection.copy_records_to_table(table.name, records=rows, columns=table.columns)


async def delete(connection: asyncpg.Connection, table: Moving, keys: Iterable[Values]) -> None:
    """Deletes the rows of these keys."""
    statement = f'DELETE FROM "{table.name}" AS t USING {_given(table)} WHERE {_same(table)}'  # noqa: S608
    for some in batches(keys, AT_ONCE):
        await connection.execute(statement, *zip(*some, strict=True))


async def find(connection: asyncpg.Connection, table: Moving, keys: Sequence[Values]) -> dict[Values, Values]:
    """The rows of these keys as they are compared, by key."""
    columns, names = ", ".join(table.compared), ", ".join(f't."{name}"' for name in table.key)
    query = f'SELECT {names}, {columns} FROM {_given(table)} JOIN "{table.name}" AS t ON {_same(table)}'  # noqa: S608
    found = await connection.fetch(query, *zip(*keys, strict=True))
    size = len(table.key)
    rows = [tuple(map(_aware, row)) for row in found]
    return {row[:size]: row[size:] for row in rows}


async def count(connection: asyncpg.Connection, table: Moving) -> int:
    """How many rows a table has."""
    return int(await connection.fetchval(f'SELECT count(*) FROM "{table.name}"'))  # noqa: S608


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items, so many at once."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some


def _aware(value: Any) -> Any:
    """The first and the last time that Python has come back without a zone: the driver stores them as infinity."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _given(table: Moving) -> str:
    arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(table.key_types, start=1))
    return f"unnest({arrays}) AS k ({', '.join(table.key)})"


def _same(table: Moving) -> str:
    return " AND ".join(f't."{name}" = k."{name}"' for name in table.key)


def _key_text(key: Values) -> str:
    return json.dumps([{"hex": value.hex()} if isinstance(value, bytes) else value for value in key])


def _key_from(text: str) -> tuple[Any, ...]:
    return tuple(bytes.fromhex(value["hex"]) if isinstance(value, dict) else value for value in json.loads(text))

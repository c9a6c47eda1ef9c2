"""Transactions that write."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

from sqlalchemy import func, select, text, true
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from app.database.bell import ring
from app.database.columns import Base
from app.database.pace import Pace

Columns: TypeAlias = ReadOnlyColumnCollection[str, Any]

COMMIT_LATER = func.set_config("synchronous_commit", "off", true())
"""Selected on PostgreSQL: this transaction's COMMIT waits for no disk and no standby. Others stay as they are.

Only for work that a worker repeats if it is lost. See docs/durability.md.
"""


async def commit_later(connection: AsyncConnection) -> None:
    """Lets the transaction's COMMIT return at once on PostgreSQL; see `COMMIT_LATER`."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(COMMIT_LATER))


@asynccontextmanager
async def writing(engine: AsyncEngine, *, pace: Pace | None = None) -> AsyncIterator[AsyncConnection]:
    """A transaction that can write from its first statement on: on SQLite another one could otherwise write first.

    Args:
        engine: The database's.
        pace: A worker's own. Without it, the worker of a SQLite file is told of the commit.
    """
    async with pace.turn() if pace else nullcontext():
        began = monotonic()
        async with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                await connection.execute(text("BEGIN IMMEDIATE"))
                began = monotonic()  # waiting for another process's transaction does not count
            yield connection
        if pace:
            pace.held(monotonic() - began)
        elif engine.dialect.name == "sqlite":
            ring(Path(engine.url.database or ""))


async def insert_new(connection: AsyncConnection, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts the rows that are not there yet."""
    if rows:
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        await connection.execute(insert(table).on_conflict_do_nothing(), rows)


async def upsert(
    connection: AsyncConnection,
    table: type[Base],
    rows: Sequence[Mapping[str, Any]],
    *,
    key: Sequence[str],
    changes: Callable[[Columns], Mapping[str, Any]],
) -> None:
    """Inserts the rows. One whose key is there already changes that row.

    Args:
        key: The columns of the key.
        changes: The new values of the row that is there, from the columns of the one that was to be inserted.
    """
    if rows:
        insert = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(table)
        changed = insert.on_conflict_do_update(index_elements=key, set_=changes(insert.excluded))
        await connection.execute(changed, rows)

"""Transactions that write."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from time import monotonic
from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.backlog import Backlog
from app.database.columns import Base
from app.database.engines import is_sqlite, sqlite_path

COURTESY = 12


class Courtesy:
    """Lets the receiver write to a SQLite file first: this process's writers take turns, with a rest after each.

    While events of the receiver wait, a writer leaves the file to it for `COURTESY` times as long as it held the file.
    """

    def __init__(self, url: str) -> None:
        self._backlog = Backlog(sqlite_path(url)) if is_sqlite(url) else None
        self._lock = asyncio.Lock()
        self._rests_until = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["Courtesy"]:
        """Waits for the turn, and for the rest after the previous one."""
        async with self._lock:
            await asyncio.sleep(self._rests_until - monotonic())
            yield self

    def held(self, seconds: float) -> None:
        """Notes how long the file was held."""
        if self._backlog is not None and self._backlog.is_told():
            self._rests_until = monotonic() + COURTESY * seconds


@asynccontextmanager
async def writing(engine: AsyncEngine, *, courtesy: Courtesy | None = None) -> AsyncIterator[AsyncConnection]:
    """A transaction that can write from its first statement on: on SQLite another one could otherwise write first."""
    if engine.dialect.name != "sqlite":
        async with engine.begin() as connection:
            yield connection
        return
    async with courtesy.turn() if courtesy else nullcontext():
        async with engine.begin() as connection:
            await connection.execute(text("BEGIN IMMEDIATE"))
            locked = monotonic()
            yield connection
        if courtesy:
            courtesy.held(monotonic() - locked)


async def insert_new(connection: AsyncConnection, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts the rows that are not there yet."""
    if rows:
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        await connection.execute(insert(table).on_conflict_do_nothing(), rows)

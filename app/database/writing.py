"""Transactions that write."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from time import monotonic
from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.columns import Base

CONTENDED = 0.003
"""Seconds to begin from which the receiver is taken to be busy; a free lock on an idle machine takes a tenth. Waiting
for a processor counts on purpose: looking at the lock alone left the receiver half of its rate, not 0.8."""

COURTESY = 12


class Courtesy:
    """Lets the receiver write a SQLite file first: this process's writers take turns, and rest between two of them.

    One that found the file locked leaves it to the receiver for `COURTESY` times as long as it then held it itself.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._rests_until = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["Courtesy"]:
        """Waits for the turn, and for the rest after the one before."""
        async with self._lock:
            await asyncio.sleep(self._rests_until - monotonic())
            yield self

    def held(self, seconds: float) -> None:
        """Notes how long a file was held that somebody else wanted too."""
        self._rests_until = monotonic() + COURTESY * seconds


@asynccontextmanager
async def writing(engine: AsyncEngine, *, courtesy: Courtesy | None = None) -> AsyncIterator[AsyncConnection]:
    """A transaction that may write from its first statement on; SQLite would let another one write before it does."""
    if engine.dialect.name != "sqlite":
        async with engine.begin() as connection:
            yield connection
        return
    async with courtesy.turn() if courtesy else nullcontext():
        began = monotonic()
        async with engine.begin() as connection:
            await connection.execute(text("BEGIN IMMEDIATE"))
            locked = monotonic()
            yield connection
        if courtesy and locked - began > CONTENDED:
            courtesy.held(monotonic() - locked)


async def insert_new(connection: AsyncConnection, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts the rows that are not there yet."""
    if rows:
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        await connection.execute(insert(table).on_conflict_do_nothing(), rows)

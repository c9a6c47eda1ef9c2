"""Which worker looks for alarms: one at a time, and the same one for as long as it lives."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.writing import commit_later, writing

LEADS = 7_092_717_269
"""An arbitrary number, the same in all processes."""


class Lead:
    """The right to look. On PostgreSQL it is a lock that ends with its connection, and all is read and written there.

    So a worker that has lost the lock cannot write. A SQLite file has one worker, which always leads.
    """

    def __init__(self, engine: AsyncEngine, connection: AsyncConnection | None) -> None:
        self._engine = engine
        self._connection = connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that reads."""
        if self._connection is None:
            async with self._engine.connect() as connection:
                yield connection
        else:
            async with self._connection.begin():
                yield self._connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes. It waits for no standby: what fires while one is missing must be told."""
        async with writing(self._engine) if self._connection is None else self.reading() as connection:
            await commit_later(connection)
            yield connection


@asynccontextmanager
async def leading(engine: AsyncEngine) -> AsyncIterator[Lead | None]:
    """The lead until the end; None if another worker has it."""
    if engine.dialect.name == "sqlite":
        yield Lead(engine, None)
        return
    async with engine.connect() as connection:
        locked = bool(await connection.scalar(select(func.pg_try_advisory_lock(LEADS))))
        await connection.commit()  # the lock is the session's
        try:
            yield Lead(engine, connection) if locked else None
        finally:
            if locked:
                with suppress(SQLAlchemyError, asyncpg.PostgresError, OSError):
                    await connection.scalar(select(func.pg_advisory_unlock(LEADS)))
                    await connection.commit()

"""One run of `reconcile` at a time, whatever process it is in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.locks import locked_file

RUNNING = 7_092_717_266
"""An arbitrary number, the same in all processes."""


@asynccontextmanager
async def alone(engine: AsyncEngine) -> AsyncIterator[bool]:
    """Whether no other process reconciles now; if so, none begins to until the end.

    On PostgreSQL the lock ends with its connection. Should that break, another run may begin: it would store nothing
    twice.
    """
    if engine.dialect.name == "sqlite":
        with locked_file(_beside(engine)) as locked:
            yield locked
        return
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        locked = bool(await connection.scalar(select(func.pg_try_advisory_lock(RUNNING))))
        try:
            yield locked
        finally:
            if locked:
                with suppress(SQLAlchemyError, asyncpg.PostgresError, OSError):
                    await connection.scalar(select(func.pg_advisory_unlock(RUNNING)))


def _beside(engine: AsyncEngine) -> Path:
    return Path(f"{Path(engine.url.database or '').resolve()}-reconcile")

"""Transactions of requests: bounded in time; a failure of the database is answered 503."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.problems import CommitsWait, DatabaseProblem
from app.database.standbys import refuse_while_commits_wait
from app.database.writing import writing
from app.web.problems import Unavailable

logger = logging.getLogger(__name__)

DEADLINE = timedelta(seconds=5)
"""For all statements of a request, and for the wait before the first."""

MARGIN = timedelta(seconds=1)
"""How much later than the database this process gives up: a statement that the database ends costs no connection."""

NOTHING_CHANGED = "Nothing was changed: ask again."

BUGS = (ProgrammingError, DataError, IntegrityError)
TROUBLE = (DBAPIError, NoConnection, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class DatabaseAway(Unavailable):
    """The database is away, or did not answer in time."""

    reason = "database"


@asynccontextmanager
async def reading(engine: AsyncEngine, *, within: timedelta = DEADLINE) -> AsyncIterator[AsyncConnection]:
    """A connection to read with.

    Raises:
        DatabaseAway: 503.
    """
    with _trouble_is_503(NOTHING_CHANGED):
        async with (
            asyncio.timeout((within + MARGIN).total_seconds()),
            engine.connect() as connection,
            _ended_after(connection, within),
        ):
            yield connection


@asynccontextmanager
async def changing(engine: AsyncEngine, *, within: timedelta = DEADLINE) -> AsyncIterator[AsyncConnection]:
    """A transaction that commits at the end.

    Raises:
        DatabaseAway: 503; the change may have been made or not, or is made later.
    """
    with _trouble_is_503("The change may have been made, or may be made later: look before you ask again."):
        async with (
            asyncio.timeout((within + MARGIN).total_seconds()),
            writing(engine) as connection,
            _ended_after(connection, within),
        ):
            await refuse_while_commits_wait(connection)
            yield connection


@asynccontextmanager
async def _ended_after(connection: AsyncConnection, within: timedelta) -> AsyncIterator[None]:
    """Cancels a slow statement in the database, so that it does not run on after its client has been answered."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text(f"SET LOCAL statement_timeout = {int(within.total_seconds() * 1000)}"))
        yield
        return
    driver = (await connection.get_raw_connection()).driver_connection
    loop = asyncio.get_running_loop()
    timer = loop.call_later(within.total_seconds(), lambda: loop.create_task(driver.interrupt()))  # type: ignore[union-attr] # aiosqlite's
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _trouble_is_503(what_now: str) -> Iterator[None]:
    try:
        yield
    except BUGS:
        raise
    except TROUBLE as error:
        # Not a warning: `database_lost` was logged once, and until the database is back every request comes here.
        logger.info("database_away", extra={"fields": {"error": type(error).__name__}})
        what = str(error) if isinstance(error, DatabaseProblem) else "The database does not answer."
        raise DatabaseAway(what, NOTHING_CHANGED if isinstance(error, CommitsWait) else what_now) from error

"""Removes the bytes of erased rows from the database's files, as far as that stops nobody else."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engines import sqlite_path
from app.database.health import first_line
from app.database.sqlite import busy_timeout

logger = logging.getLogger(__name__)

SMALL = 64 * 1024 * 1024
"""Bytes of a SQLite file that is vacuumed in about a second. While a larger one is, senders would get 503."""

TRIES = 10
WAIT = timedelta(milliseconds=200)
"""How long each attempt to empty the log waits for readers; events wait as long."""

TABLES = "events, deliveries, attempts"


async def empty_log(engine: AsyncEngine) -> bool:
    """Copies SQLite's log into the file and empties it; False if others kept it in use all the time."""
    if engine.dialect.name != "sqlite":
        return True
    for _ in range(TRIES):
        async with engine.connect() as connection:
            await connection.execute(text(busy_timeout(WAIT)))
            (busy, _, _) = (await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))).one()
            await connection.invalidate()  # other uses of it wait longer
        if not busy:
            return True
        await asyncio.sleep(WAIT.total_seconds())
    return False


async def vacuum(engine: AsyncEngine, *, any_size: bool = False) -> bool:
    """Vacuums what was erased from; False if that was not done, as the SQLite file is large or in use.

    On PostgreSQL the space can be used again afterwards, but until then it keeps its bytes.
    """
    on_sqlite = engine.dialect.name == "sqlite"
    if on_sqlite and not any_size and _size(engine) > SMALL:
        return False
    async with engine.connect() as connection:
        plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            await plain.execute(text("VACUUM" if on_sqlite else f"VACUUM {TABLES}"))
        except DBAPIError as error:  # locked, or a full disk: what was erased stays so, and its receipt must be given
            logger.warning("vacuum_failed", extra={"fields": {"error": first_line(error)}})
            return False
    return True


def _size(engine: AsyncEngine) -> int:
    return Path(sqlite_path(engine.url.render_as_string(hide_password=False))).stat().st_size


def left(engine: AsyncEngine, *, emptied: bool, vacuumed: bool) -> list[str]:
    """Where bytes of what was erased may still be, a sentence for each place."""
    places = ["Backups that were made before keep it until they are deleted."]
    if engine.dialect.name != "sqlite":
        return [
            "PostgreSQL's data files keep bytes of it until their space is used again, or until VACUUM FULL.",
            "PostgreSQL's write-ahead log keeps it until that is recycled, and archives of it until they are deleted.",
            *places,
        ]
    if not vacuumed:
        places.insert(0, "Free space in the database's file may hold older copies of it until the next VACUUM.")
    if not emptied:
        places.insert(0, "The database's log was in use and keeps it until it is emptied, as it is when serve stops.")
    return places

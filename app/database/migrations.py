"""Migrations: Alembic, on a connection of ours."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from time import monotonic

from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database import schema
from app.database.problems import DatabaseProblem

LOCK_TIMEOUT = timedelta(seconds=1)
"""While a migration waits for a lock, everybody else waits for the migration: a receiver answers 503 after five."""

REST = timedelta(seconds=2)
"""Before a migration tries again to get its lock: those who waited go on meanwhile."""

PATIENCE = timedelta(minutes=1)
"""How long it tries."""

LOCK_NOT_AVAILABLE = "55P03"

MIGRATION_LOCK = 7_092_717_263
"""An arbitrary number, the same everywhere: two `priohook migrate` at once take turns."""

LOOK_EVERY = 0.2  # seconds


class MigrationStopped(DatabaseProblem):
    """A migration could not be finished; what it had not begun is as before."""


async def migrate(engine: AsyncEngine, *, revision: str = "head") -> None:
    """Brings the schema to a revision, newer or older.

    Each migration to a newer one commits by itself: otherwise events, which one migration locks for a moment, would
    wait while the next one reads all deliveries.

    Raises:
        MigrationStopped: others used a table all the time, for example a backup; or the connection was lost.
    """
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS).replace("%", "%%"))  # % begins an interpolation
    move = partial(_move, config=config, scripts=ScriptDirectory.from_config(config), revision=revision)
    if engine.dialect.name == "sqlite":
        while await _move_sqlite(engine, move):
            pass
        return
    async with engine.connect() as connection, _alone(connection):
        while await _move_patiently(connection, move):
            pass


async def _move_sqlite(engine: AsyncEngine, move: Callable[[Connection], bool]) -> bool:
    async with engine.begin() as connection:
        await connection.execute(text("BEGIN IMMEDIATE"))  # the driver begins no transaction before CREATE TABLE
        return await connection.run_sync(move)


@asynccontextmanager
async def _alone(connection: AsyncConnection) -> AsyncIterator[None]:
    """Lets no other process migrate meanwhile.

    The lock is the session's, since CREATE INDEX CONCURRENTLY must not be in a transaction. Others ask for it again and
    again: that index would wait for a statement that waits for the lock.
    """
    lock = {"lock": MIGRATION_LOCK}
    while not await connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), lock):
        await connection.commit()
        await asyncio.sleep(LOOK_EVERY)
    await connection.commit()
    try:
        yield
    except BaseException:
        await connection.invalidate()  # whatever state it is in; the lock ends with it
        raise
    await connection.execute(text("SELECT pg_advisory_unlock(:lock)"), lock)
    await connection.commit()


async def _move_patiently(connection: AsyncConnection, move: Callable[[Connection], bool]) -> bool:
    """Tries again if a lock was not to be had."""
    gives_up = monotonic() + PATIENCE.total_seconds()
    while True:
        try:
            return await connection.run_sync(move)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            if monotonic() > gives_up:
                raise MigrationStopped(
                    "A migration needs a table for a moment, and others, such as a backup, used it for "
                    f"{PATIENCE.total_seconds():.0f} seconds. pg_stat_activity shows their transactions. Run "
                    "`priohook migrate` again when they have ended."
                ) from error
        except PendingRollbackError as error:  # Alembic's, when it goes on after an index that was not finished
            raise MigrationStopped(
                "The connection was lost during a migration. Run `priohook migrate` again: it goes on where it was."
            ) from error
        await asyncio.sleep(REST.total_seconds())


def _move(connection: Connection, *, config: Config, scripts: ScriptDirectory, revision: str) -> bool:
    """Takes one step; whether there may be more to do."""
    config.attributes["connection"] = connection
    current = MigrationContext.configure(connection).get_current_revision()
    if connection.dialect.name == "postgresql":
        connection.rollback()  # the read's transaction: a migration begins its own
    if revision == "head" and current is not None and current not in schema.known_revisions():
        return False  # a newer release's schema, which this one can use
    earlier = (
        {script.revision for script in scripts.iterate_revisions(current, "base")} - {current} if current else set()
    )
    if revision == "base" or revision in earlier:
        command.downgrade(config, revision)
        return False
    target = scripts.get_revision(revision).revision
    missing = list(scripts.iterate_revisions(target, current or "base"))
    if missing:
        step = MigrationStep.upgrade_from_script(scripts.revision_map, missing[-1])
        # As `command.upgrade` does, which would read all migrations again for each.
        with EnvironmentContext(config, scripts, fn=lambda *_: [step]):
            scripts.run_env()
    return bool(missing)

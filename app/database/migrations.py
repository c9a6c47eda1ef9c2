"""Migrations: Alembic, on a connection of ours."""

from datetime import timedelta

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database import schema

LOCK_TIMEOUT = timedelta(seconds=5)
MIGRATION_LOCK = 7_092_717_263
"""An arbitrary number, the same everywhere: two `priohook migrate` at once take turns."""


async def migrate(engine: AsyncEngine, *, revision: str = "head") -> None:
    """Brings the schema to a revision, newer or older.

    Each migration to a newer one commits by itself: otherwise events, which one migration locks for a moment, would
    wait while the next one reads all deliveries.
    """
    while await _migrate(engine, revision):
        pass


async def _migrate(engine: AsyncEngine, revision: str) -> bool:
    """Returns whether there may be more to do."""
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            # While a migration waits for a lock, everybody else waits for the migration: better that it gives up.
            await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT.total_seconds():.0f}s'"))
        else:
            await connection.execute(text("BEGIN IMMEDIATE"))  # the driver begins no transaction before CREATE TABLE
        return await connection.run_sync(lambda each: _move(each, revision))


def _move(connection: Connection, revision: str) -> bool:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS).replace("%", "%%"))  # % begins an interpolation
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if revision == "head" and current is not None and current not in schema.known_revisions():
        return False  # a newer release's schema, which this one can use
    earlier = (
        {script.revision for script in scripts.iterate_revisions(current, "base")} - {current} if current else set()
    )
    if revision == "base" or revision in earlier:
        command.downgrade(config, revision)
        return False
    target = scripts.get_revision(revision).revision
    steps = [script.revision for script in scripts.iterate_revisions(target, current or "base")]
    if steps:
        command.upgrade(config, steps[-1])
    return bool(steps)

"""Migrations, and the check that they ran."""

from datetime import timedelta
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

PACKAGE = Path(__file__).parents[1]
INSTALLED = PACKAGE / "migrations"
MIGRATIONS = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "migrations"
"""In the package once it is installed; beside the package in a checkout."""

LOCK_TIMEOUT = timedelta(seconds=5)
MIGRATION_LOCK = 7_092_717_263
"""An arbitrary number, the same everywhere: two `priohook migrate` at once take turns."""


class SchemaNotCurrent(Exception):
    """The database lacks migrations that this release needs; the text says what to run."""


async def migrate(engine: AsyncEngine, *, revision: str = "head") -> None:
    """Brings the schema to a revision, newer or older."""
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            # A migration that waits for a lock makes all others wait behind it: better that it gives up for now.
            await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT.total_seconds():.0f}s'"))
        else:
            await connection.execute(text("BEGIN IMMEDIATE"))  # the driver begins none before CREATE TABLE
        await connection.run_sync(lambda each: _move(each, revision))


async def check_schema(engine: AsyncEngine) -> None:
    """Returns when the schema is one that this release can use.

    A revision that this release does not know is a newer release's: its migrations run beside this one, so it passes.

    Raises:
        SchemaNotCurrent: migrations are missing.
    """
    known, head = _revisions(MIGRATIONS)
    async with engine.connect() as connection:
        current = await connection.run_sync(lambda each: MigrationContext.configure(each).get_current_revision())
    if current is None or (current in known and current != head):
        has = f"is at {current}" if current else "has no tables yet"
        raise SchemaNotCurrent(f"The database {has}, this release needs {head}: run `priohook migrate`.")


def _move(connection: Connection, revision: str) -> None:
    config = _config(MIGRATIONS)
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if revision == "head" and current is not None and current not in _known(scripts):
        return  # a newer release's schema, which this one can use
    behind = (
        {script.revision for script in scripts.iterate_revisions(current, "base")} - {current} if current else set()
    )
    if revision == "base" or revision in behind:
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


@cache
def _revisions(folder: Path) -> tuple[frozenset[str], str | None]:
    """The revisions that this release knows, and its own; reading the scripts takes milliseconds."""
    scripts = ScriptDirectory.from_config(_config(folder))
    return _known(scripts), scripts.get_current_head()


def _known(scripts: ScriptDirectory) -> frozenset[str]:
    return frozenset(script.revision for script in scripts.walk_revisions())


def _config(folder: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))  # % begins an interpolation
    return config

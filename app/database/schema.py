"""The check that all migrations ran. It reads only the names of their files: importing Alembic would slow commands."""

from functools import cache
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.leaving import check_not_leaving

PACKAGE = Path(__file__).parents[1]
INSTALLED = PACKAGE / "migrations"
MIGRATIONS = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "migrations"
"""In the package once it is installed; beside the package in a checkout."""


class SchemaNotCurrent(Exception):
    """The database lacks migrations that this release needs; the text says what to run."""


class NoDatabase(SchemaNotCurrent):
    """There is no SQLite file."""


class SchemaTooNew(SchemaNotCurrent):
    """The database is of a newer release, which changed what this one reads."""


async def check_schema(engine: AsyncEngine) -> None:
    """Returns if this release can use the schema.

    A revision that this release does not know belongs to a newer one, whose schema this release can use.

    Raises:
        SchemaNotCurrent: migrations are missing.
        DatabaseProblem: what is in the database has moved, or has not arrived yet.
    """
    async with engine.connect() as connection:
        await check_revision(connection)


async def check_revision(connection: AsyncConnection) -> str:
    """`check_schema` on a connection; returns the revision."""
    await check_not_leaving(connection)
    revisions = known_revisions()
    current = await connection.run_sync(_current)
    if current is None or current in revisions[:-1]:
        has = f"is at {current}" if current else "has no tables yet"
        raise SchemaNotCurrent(f"The database {has}, but this release needs {revisions[-1]}: run `priohook migrate`.")
    return current


def newer(revision: str) -> str:
    """What is said of a database that is of a newer release than this one."""
    known = known_revisions()[-1]
    return (
        f"The database is at {revision}, but this release knows only {known}: use the newer release that migrated it."
    )


def known_revisions() -> tuple[str, ...]:
    """The revisions that this release knows, the newest last."""
    return _revisions(MIGRATIONS)


@cache
def _revisions(folder: Path) -> tuple[str, ...]:
    """Read once: an upgrade may put the next release's files there while this release still runs."""
    return tuple(sorted(path.name.partition("_")[0] for path in folder.glob("versions/*_*.py")))


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision

"""The configured database, opened for one command."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Concatenate, ParamSpec, TypeVar

import click
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.audit.actors import at_shell
from app.audit.chain import Act, record
from app.cli.output import first_line
from app.database import engines, schema
from app.database.problems import CommitsWait, DatabaseProblem
from app.database.standbys import refuse_while_commits_wait
from app.database.writing import writing
from app.settings.model import Settings

SETTINGS = "app.cli.opened.settings"
"""The key under which click's context keeps the settings of a command."""


class Unconfirmed(DatabaseProblem):
    """The database did not confirm a commit."""

    def __init__(self, why: BaseException) -> None:
        reason = first_line(why) if isinstance(why, Exception) else "interrupted"
        super().__init__(
            f"The database did not confirm what this command did ({reason}). It may have been done, or may be done "
            "later: look before you repeat it."
        )


Given = ParamSpec("Given")
Result = TypeVar("Result")


def load_settings() -> Settings:
    """The settings, read once for each command."""
    kept = click.get_current_context().meta
    if SETTINGS not in kept:
        kept[SETTINGS] = Settings.load()
    settings: Settings = kept[SETTINGS]
    return settings


@asynccontextmanager
async def opened(
    settings: Settings, *, within: timedelta | None = None, writes: bool = True, of_worker: bool = False
) -> AsyncIterator[AsyncEngine]:
    """The database, after a check of its schema; `within`, `writes` and `of_worker` are those of `engine_for`.

    Raises:
        SchemaNotCurrent: it lacks migrations, or its SQLite file does not exist.
    """
    url = settings.database_url
    if engines.is_sqlite(url) and not engines.sqlite_path(url).exists():
        raise schema.NoDatabase(f"There is no database {engines.sqlite_path(url)}: `priohook serve` creates it.")
    async with engines.engine_for(url, within=within, writes=writes, of_worker=of_worker) as engine:
        await schema.check_schema(engine)
        yield engine


def read(
    query: Callable[Concatenate[AsyncConnection, Given], Awaitable[Result]], *given: Given.args, **named: Given.kwargs
) -> Result:
    """The result of a query, run on a connection of its own."""

    async def result() -> Result:
        async with opened(load_settings(), writes=False) as engine, engine.connect() as connection:
            return await query(connection, *given, **named)

    return asyncio.run(result())


@asynccontextmanager
async def acting(engine: AsyncEngine, act: Act) -> AsyncIterator[AsyncConnection]:
    """A transaction at whose end the action is recorded. If anything is raised in it, nothing was done or recorded.

    Raises:
        CommitsWait: commits wait for a standby that is not there; nothing was done.
        Unconfirmed: it may have been done or not, or is done later.
    """
    commits = False
    try:
        async with writing(engine) as connection:
            await refuse_while_commits_wait(connection)
            yield connection
            await record(connection, at_shell(), act, now=datetime.now(UTC))
            commits = True
    except (Exception, asyncio.CancelledError) as error:  # the latter after Ctrl-C, while it waits for a standby
        if not commits or isinstance(error, CommitsWait):
            raise
        raise Unconfirmed(error) from error


def change(
    act: Act,
    operation: Callable[Concatenate[AsyncConnection, Given], Awaitable[Result]],
    *given: Given.args,
    **named: Given.kwargs,
) -> Result:
    """The result of an operation, run in a transaction of its own that records the action."""

    async def result() -> Result:
        async with opened(load_settings()) as engine, acting(engine, act) as connection:
            return await operation(connection, *given, **named)

    return asyncio.run(result())

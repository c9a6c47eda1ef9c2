import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg
import pytest

from app.database.columns import Base
from app.database.engines import engine_for, sqlite_path
from app.transfer import target
from app.transfer.columns import moving_tables
from app.transfer.moving import Transfer
from app.transfer.source import Source
from tests.transfer.rows import fill

TOKEN = "a-move"
TABLES = moving_tables(Base.metadata)


@pytest.fixture
async def filled_url(sqlite_url: str) -> str:
    """A SQLite file with rows in every table."""
    async with engine_for(sqlite_url) as engine, engine.begin() as connection:
        await fill(connection)
    return sqlite_url


@pytest.fixture
def began(filled_url: str, postgres_url: str) -> Callable[..., Any]:
    """`async with began() as transfer`: a move that begins, or goes on."""

    @asynccontextmanager
    async def began() -> AsyncIterator[Transfer]:
        async with target.connected(postgres_url) as connection:
            with closing(Source(filled_url, TABLES)) as source:
                source.begin(TOKEN, target="postgresql://***", url=postgres_url)
                if await target.token_of(connection) is None:
                    await target.begin(connection, postgres_url, TABLES, TOKEN)
                await target.set_triggers(connection, TABLES, on=False)
                yield Transfer(source, connection, TABLES)

    return began


@pytest.fixture(autouse=True)
async def as_it_was(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Leaves the database of all tests with its triggers, and without the table of a move."""
    yield
    if "postgres_url" in request.fixturenames:
        connection = await asyncpg.connect(request.getfixturevalue("migrated_postgres"))
        await target.set_triggers(connection, TABLES, on=True)
        await connection.execute("DROP TABLE IF EXISTS priohook_move")
        await connection.close()


@pytest.fixture
def change(filled_url: str) -> Callable[..., None]:
    """`change("DELETE FROM …")` changes the SQLite file, as another process does."""

    def change(statement: str, *values: Any) -> None:
        with closing(sqlite3.connect(sqlite_path(filled_url))) as connection, connection:
            connection.execute(statement, values)

    return change


@pytest.fixture
def tamper(postgres_url: str) -> Callable[..., Any]:
    """`await tamper("DELETE FROM …")` changes what was copied."""

    async def tamper(statement: str, *values: Any) -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(statement, *values)
        await connection.close()

    return tamper

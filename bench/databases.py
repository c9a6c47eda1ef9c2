"""The databases that are measured: made, filled, locked and counted. Durable ones, as in production."""

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from app.database import engines, migrations
from tests import postgres


class Databases(Protocol):
    """Makes databases of one kind.

    Attributes:
        name: `sqlite` or `postgresql`.
        pid: Of the database's own server, if it has one.
    """

    name: str

    @property
    def pid(self) -> int | None: ...

    def create(self, label: str) -> str:
        """The URL of a new, migrated database."""


class SQLite:
    """Files in one folder."""

    name = "sqlite"
    pid = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, label: str) -> str:
        url = f"sqlite+aiosqlite:///{self._folder / label}.db"
        asyncio.run(_migrate(url))
        return url


class PostgreSQL:
    """Databases of one server."""

    name = "postgresql"

    def __init__(self, server: postgres.Server) -> None:
        self._server = server
        self.pid: int | None = server.pid

    def create(self, label: str) -> str:
        asyncio.run(_execute(self._server.url(), f"CREATE DATABASE {label}"))
        url = self._server.url(label)
        asyncio.run(_migrate(url))
        return url

    def version(self) -> str:
        """The server's."""
        return str(asyncio.run(_value(self._server.url(), "SHOW server_version")))


@contextmanager
def started() -> Iterator[tuple[Path, SQLite, PostgreSQL]]:
    """A folder, and both kinds of databases in it or beside it; all is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="priohook-bench-") as folder, postgres.server(durable=True) as server:
        yield Path(folder), SQLite(Path(folder)), PostgreSQL(server)


def count(url: str) -> int:
    """How many events are stored."""
    if engines.is_sqlite(url):
        with closing(opened(url)) as connection:
            return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])
    return int(asyncio.run(_value(url, "SELECT count(*) FROM events")))


def opened(url: str) -> sqlite3.Connection:
    """A connection to a SQLite file."""
    return sqlite3.connect(engines.sqlite_path(url), timeout=30)


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Holds a lock that no commit of an event gets past."""
    if engines.is_sqlite(url):
        with closing(opened(url)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.rollback()
        return
    loop = asyncio.new_event_loop()
    try:
        connection = loop.run_until_complete(asyncpg.connect(url))
        loop.run_until_complete(connection.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
        yield
        loop.run_until_complete(connection.close())
    finally:
        loop.close()


async def _migrate(url: str) -> None:
    async with engines.engine_for(url) as engine:
        await migrations.migrate(engine)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def _value(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    value = await connection.fetchval(query)
    await connection.close()
    return value

"""The databases that are measured: made, counted, weighed and locked. Durable ones, as in production."""

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from app.database import engines, migrations
from bench.processes import cpu_seconds
from tests import postgres

COSTS = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS "WAL bytes",
    sum(n_tup_ins)::float8 AS "rows inserted", sum(n_tup_upd)::float8 AS "rows updated",
    sum(n_tup_hot_upd)::float8 AS "of them HOT", sum(n_tup_del)::float8 AS "rows deleted",
    (SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = current_database()) AS "transactions",
    sum(autovacuum_count)::float8 AS "autovacuums",
    (SELECT (num_timed + num_requested)::float8 FROM pg_stat_checkpointer) AS "checkpoints"
FROM pg_stat_user_tables
"""
LOGGED = ("LOG:  execute ", "LOG:  statement: ")
SIZE = "SELECT sum(pg_total_relation_size(relid))::int8 FROM pg_stat_user_tables"
TOAST = """
SELECT CASE WHEN attstorage IN ('e', 'p') THEN 'external' WHEN attcompression = 'l' THEN 'lz4'
    WHEN attcompression = 'p' THEN 'pglz' ELSE current_setting('default_toast_compression') END
FROM pg_attribute WHERE attrelid = 'events'::regclass AND attname = 'body'
"""


class Databases(Protocol):
    """Makes databases of one kind, whose name is `sqlite` or `postgresql`."""

    name: str

    def create(self, label: str) -> str:
        """The URL of a new, migrated database."""

    def costs(self, url: str) -> dict[str, float]:
        """What the database has done since it was made, as far as it counts that."""

    def cpu(self) -> float:
        """Seconds of the processors that the database's own server has taken, if it has one."""


class SQLite:
    """Files in one folder."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, label: str) -> str:
        url = f"sqlite+aiosqlite:///{self._folder / label}.db"
        asyncio.run(_migrate(url))
        return url

    def costs(self, url: str) -> dict[str, float]:
        """Nothing."""
        del url
        return {}

    def cpu(self) -> float:
        """None: it has no server."""
        return 0.0


class PostgreSQL:
    """Databases of one server."""

    name = "postgresql"

    def __init__(self, server: postgres.Server) -> None:
        self._server = server

    def create(self, label: str) -> str:
        execute(self._server.url(), f"CREATE DATABASE {label}")
        url = self._server.url(label)
        asyncio.run(_migrate(url))
        return url

    def log_statements(self, label: str) -> None:
        """Has new connections to a database log each statement, which `costs` counts."""
        execute(self._server.url(), f"ALTER DATABASE {label} SET log_statement = 'all'")

    def costs(self, url: str) -> dict[str, float]:
        found = dict(asyncio.run(_row(url, COSTS)))
        log = self._server.log()
        return {"statements": float(sum(log.count(words) for words in LOGGED)), **found}

    def cpu(self) -> float:
        return cpu_seconds(self._server.pid)

    def version(self) -> str:
        """The server's."""
        return str(asyncio.run(_row(self._server.url(), "SHOW server_version"))[0])

    def toast(self) -> str:
        """How bodies are stored: `external` (not compressed), or compressed by `lz4` or `pglz`."""
        return str(asyncio.run(_row(self.create("toast"), TOAST))[0])


@contextmanager
def started() -> Iterator[tuple[Path, SQLite, PostgreSQL]]:
    """A folder, and both kinds of databases in it or beside it; all is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="priohook-bench-") as folder, postgres.server(durable=True) as server:
        yield Path(folder), SQLite(Path(folder)), PostgreSQL(server)


def count(url: str, rows: str = "events") -> int:
    """How many events are stored, or rows of a table, of which a WHERE clause may leave out some."""
    query = f"SELECT count(*) FROM {rows}"  # noqa: S608 - names of ours
    if engines.is_sqlite(url):
        with closing(opened(url)) as connection:
            return int(connection.execute(query).fetchone()[0])
    return int(asyncio.run(_row(url, query))[0])


def execute(url: str, *statements: str) -> None:
    """Executes them."""
    if engines.is_sqlite(url):
        with closing(opened(url)) as connection, connection:
            for statement in statements:
                connection.execute(statement)
    else:
        asyncio.run(_execute(url, statements))


def stored_bytes(url: str) -> int:
    """What all tables and indexes take on disk; of a SQLite file that no process has open."""
    if engines.is_sqlite(url):
        with closing(opened(url)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return engines.sqlite_path(url).stat().st_size
    return int(asyncio.run(_row(url, SIZE))[0])


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
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        runner.run(connection.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
        yield
        runner.run(connection.close())


async def _migrate(url: str) -> None:
    async with engines.engine_for(url) as engine:
        await migrations.migrate(engine)


async def _execute(url: str, statements: Sequence[str]) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def _row(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    row = await connection.fetchrow(query)
    await connection.close()
    return row

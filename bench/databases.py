"""The databases that are measured: made, filled, counted, weighed and locked. Durable ones, as in production."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from os import urandom
from pathlib import Path
from random import getrandbits, randrange
from typing import Any
from uuid import UUID, uuid4

from app.database import engines, migrations
from app.events.ids import id_floor
from app.events.postgres import PostgresWriter
from app.events.rows import NewEvent, Row
from app.events.sqlite import SQLiteWriter
from bench.processes import cpu_seconds
from tests import postgres

KINDS = ("sqlite", "postgresql")
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

BODY = b'{"api_version": "3.8.0", "data": {"kind": "notification"}}'
SPAN = timedelta(days=400)
"""The age of the oldest event that a database is filled with."""

EVENTS_PER_ORDER = 3
ROWS_AT_ONCE = 5000
STATEMENT = timedelta(minutes=1)


class Database:
    """A new database with all tables.

    Args:
        kind: One of `KINDS`.
        label: Its name.
        folder: Where SQLite's file is made.
        server: PostgreSQL's.
    """

    def __init__(self, kind: str, label: str, *, folder: Path, server: postgres.Server | None = None) -> None:
        self.kind = kind
        self._server = server if kind == "postgresql" else None
        if self._server:
            self.url = self._server.url()
            self.execute(f"CREATE DATABASE {label}")
            self.url = self._server.url(label)
        else:
            self.url = f"sqlite+aiosqlite:///{folder / label}.db"
        asyncio.run(_migrate(self.url))

    def execute(self, *statements: str) -> Any:
        """Executes the statements, each in a transaction of its own; gives the first row of the last one."""
        return asyncio.run(_execute(self.url, statements))

    def count(self, rows: str = "events") -> int:
        """How many events are stored, or rows of a table, of which a WHERE clause may leave out some."""
        return int(self.execute(f"SELECT count(*) FROM {rows}")[0])  # noqa: S608 - names of ours

    def stored_bytes(self) -> int:
        """What all tables and indexes take on disk; of a SQLite file that no process has open."""
        if self._server:
            return int(self.execute(SIZE)[0])
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return engines.sqlite_path(self.url).stat().st_size

    def cpu(self) -> float:
        """Seconds of the processors that the database's own server has taken, if it has one."""
        return cpu_seconds(self._server.pid) if self._server else 0.0

    def log_statements(self) -> None:
        """Has new connections log each statement, which `costs` counts, if there is a server."""
        if self._server:
            self.execute(f"ALTER DATABASE {self.url.rpartition('/')[2]} SET log_statement = 'all'")

    def costs(self) -> dict[str, float]:
        """What the database has done since it was made; nothing of SQLite, which does not count it."""
        if not self._server:
            return {}
        log = self._server.log()
        return {"statements": float(sum(map(log.count, LOGGED))), **self.execute(COSTS)._asdict()}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds a lock that no commit of an event gets past."""
        lock = "LOCK TABLE events IN ACCESS EXCLUSIVE MODE" if self._server else "BEGIN IMMEDIATE"
        engine = engines.open_engine(self.url)
        with asyncio.Runner() as runner:
            connection = runner.run(engine.connect().start())
            runner.run(connection.exec_driver_sql(lock))
            yield
            runner.run(connection.close())
            runner.run(engine.dispose())

    def fill(self, rows: int) -> None:
        """As the function, and leaves nothing that the database would do about them later."""
        asyncio.run(fill(self.url, rows))
        self.execute(*(("VACUUM ANALYZE", "CHECKPOINT") if self._server else ("PRAGMA wal_checkpoint(TRUNCATE)",)))


def orders(rows: int) -> int:
    """Of how many orders so many filled events are: `PRI` and a number of 16 digits, from 0."""
    return max(1, rows // EVENTS_PER_ORDER)


async def fill(url: str, rows: int) -> None:
    """Stores that many events as a receiver would have done in the last 400 days, with small bodies."""
    writer = SQLiteWriter(url) if engines.is_sqlite(url) else PostgresWriter(url, timeout=STATEMENT)
    start = datetime.now(UTC) - SPAN
    for first in range(0, rows, ROWS_AT_ONCE):
        numbers = range(first, min(first + ROWS_AT_ONCE, rows))
        new = [Row(_event(start + number / rows * SPAN, orders(rows))) for number in numbers]
        await writer.write(sorted(new, key=lambda row: row.event.dedup_key))
    await writer.close()


def _event(at: datetime, orders: int) -> NewEvent:
    return NewEvent(
        id=UUID(int=id_floor(at).int | getrandbits(62)),
        received_at=at,
        client="prioticket",
        headers=b"host: priohook",
        body=BODY,
        body_bytes=len(BODY),
        dedup_key=int(at.timestamp()).to_bytes(4) + urandom(12),
        type="ORDER_CREATE",
        reference=f"PRI{randrange(orders):016}",  # noqa: S311 - no secret
        notification_id=str(uuid4()),
        api_version="3.8.0",
        shape="notification",
    )


async def _migrate(url: str) -> None:
    async with engines.engine_for(url) as engine:
        await migrations.migrate(engine)


async def _execute(url: str, statements: tuple[str, ...]) -> Any:
    async with engines.engine_for(url) as engine, engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            found = await connection.exec_driver_sql(statement)
        return found.first() if found.returns_rows else None

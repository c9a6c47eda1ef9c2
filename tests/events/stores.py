"""Event stores like the application's, and events to store."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.engines import engine_for, is_sqlite
from app.database.writing import commit_later
from app.events.ids import id_floor, new_id
from app.events.postgres import PostgresWriter
from app.events.rows import NewEvent
from app.events.sqlite import SQLiteWriter
from app.events.store import EventStore, Writer

TIMEOUT = timedelta(seconds=5)
RECEIVED = {"origin": "received", "cause": None, "fetched_for": None, "erased_at": None, "body_sha256": None}
"""The columns that the receiver does not write, as they are of an event that was received and not erased."""


def new_event(key: str, **columns: Any) -> NewEvent:
    """An event. Two with the same key are copies. If `received_at` is given, the id is of that time."""
    body = columns.pop("body", json.dumps({"key": key}).encode())
    if "received_at" in columns:
        floor = id_floor(columns["received_at"])
        columns.setdefault("id", type(floor)(int=floor.int | int.from_bytes(sha256(key.encode()).digest()[:7])))
    values = {
        "id": new_id(),
        "received_at": datetime.now(UTC),
        "client": "prioticket",
        "headers": b"accept: */*",
        "body": body,
        "body_bytes": len(body),
        "dedup_key": sha256(key.encode()).digest()[:16],
    }
    return NewEvent(**values | columns)


def writer_for(url: str, *, timeout: timedelta = TIMEOUT) -> Writer:
    return SQLiteWriter(url) if is_sqlite(url) else PostgresWriter(url, timeout=timeout)


@asynccontextmanager
async def running(
    url: str,
    *,
    max_batch: int = 256,
    max_waiting: int = 4096,
    max_waiting_bytes: int = 32 * 1024 * 1024,
    timeout: timedelta = TIMEOUT,
) -> AsyncIterator[EventStore]:
    store = EventStore(
        writer_for(url, timeout=timeout),
        max_batch=max_batch,
        max_waiting=max_waiting,
        max_waiting_bytes=max_waiting_bytes,
        timeout=timeout,
    )
    async with store.running():
        yield store


@asynccontextmanager
async def locked(url: str) -> AsyncIterator[None]:
    """Holds a lock as another writer would, so that nobody else can write events."""
    async with engine_for(url) as engine, engine.connect() as connection:
        await connection.execute(text("BEGIN IMMEDIATE" if is_sqlite(url) else "LOCK TABLE events IN EXCLUSIVE MODE"))
        yield
        await connection.rollback()


async def allow_changes(connection: AsyncConnection) -> None:
    """Lets a test change what arrived with events, which a trigger refuses."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
    else:
        await connection.execute(text("DROP TRIGGER IF EXISTS events_kept"))  # from the file of this test


async def commits_wait(engine: AsyncEngine) -> None:
    """Lets the engine's first connection believe that another transaction waits for a standby."""
    waits = "SELECT 'SyncRep' AS wait_event, current_user AS usename, now() - interval '6 seconds' AS query_start"
    async with engine.begin() as connection:
        await commit_later(connection)
        await connection.execute(text(f"CREATE TEMP VIEW pg_stat_activity AS {waits}"))  # found before the real one

"""Migrations on PostgreSQL beside receivers that store events, and beside others that hold what they need."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database import migrations, schema
from app.database.engines import engine_for
from app.database.migrations import MigrationStopped, migrate
from tests.e2e.conftest import empty_database
from tests.events.stores import new_event, running

pytestmark = pytest.mark.slow

BEFORE_INDEX = "0021"  # 0022 makes an index on `events`
ABRUPT = "0015"
"""Up to here migrations make indexes while events wait, as each of them says. No later one may."""

LARGE = ["events", "undispatched", "deliveries", "attempts"]
READ_WHILE_LOCKED = text("""
SELECT pg_locks.mode || ' of ' || relname FROM pg_locks JOIN pg_stat_xact_user_tables ON relid = relation
WHERE pid = pg_backend_pid() AND relname = ANY(:large) AND seq_scan > 0
    AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
""")
"""The large tables that this transaction has read as a whole and keeps writers from; PostgreSQL reads a table to make
an index, to rewrite it and to check a constraint."""

MAKES_INDEX = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event = 'virtualxid')
"""
WAITS_FOR_EVENTS = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'events'::regclass AND NOT granted)"
STATE = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_events_position')"


@pytest.fixture
def url(postgres_server_url: str) -> Iterator[str]:
    """An empty database."""
    with empty_database(postgres_server_url) as url:
        yield url


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    """Of a database that lacks the newest index of `events`."""
    async with engine_for(url) as engine:
        await migrate(engine, revision=BEFORE_INDEX)
        yield engine


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def older_transaction(url: str) -> AsyncIterator[None]:
    """Someone has read something, as a backup does, and may read more as it was then."""
    async with connected(url) as connection, connection.transaction(isolation="repeatable_read"):
        await connection.execute("SELECT 1")
        yield


async def until(url: str, query: str) -> None:
    async with connected(url) as connection, asyncio.timeout(60):
        while not await connection.fetchval(query):  # noqa: ASYNC110 - the server's doing
            await asyncio.sleep(0.02)


def audited(engine: AsyncEngine) -> list[str]:
    """Fills with what a migration does, however many rows there are, while writers wait."""
    found: list[str] = []
    looking = False

    def look(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        nonlocal looking
        if looking:
            return
        looking = True
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            found.extend(connection.scalars(READ_WHILE_LOCKED, {"large": LARGE}))
        elif "CONCURRENTLY" not in statement:
            found.append(statement)
        looking = False

    event.listen(engine.sync_engine, "after_cursor_execute", look)
    return found


async def test_no_later_migration_reads_a_large_table_while_its_writers_wait(url):
    revisions = schema.known_revisions()
    async with engine_for(url) as engine:
        await migrate(engine, revision=ABRUPT)
    found = {}
    for revision in revisions[revisions.index(ABRUPT) + 1 :]:
        async with engine_for(url) as engine:  # each has a session of its own, whose counts begin at zero
            found[revision] = audited(engine)
            await migrate(engine, revision=revision)
    assert {revision: what for revision, what in found.items() if what} == {}


async def test_the_audit_notices_an_index_that_is_made_while_writers_wait(url):
    async with engine_for(url) as engine:
        found = audited(engine)
        await migrate(engine, revision="0012")
    assert "ShareLock of events" in found


async def test_events_are_stored_and_another_migration_waits_while_an_index_is_made(url, engine):
    async with engine_for(url) as another:
        async with older_transaction(url):
            first, second = (asyncio.create_task(migrate(each)) for each in (engine, another))
            await until(url, MAKES_INDEX)
            async with running(url) as store, asyncio.timeout(60):
                await store.append(new_event("meanwhile"))
            assert not first.done()
            assert not second.done()
        await asyncio.gather(first, second)
        async with connected(url) as connection:
            assert await connection.fetchval(STATE) is True
            assert await connection.fetchval("SELECT position FROM events") == 1


async def test_a_migration_that_was_interrupted_while_it_made_an_index_is_finished_by_the_next(url, engine):
    async with older_transaction(url):
        interrupted = asyncio.create_task(migrate(engine))
        await until(url, MAKES_INDEX)
        async with connected(url) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'virtualxid'"
            )
            with pytest.raises(MigrationStopped, match="Run `priohook migrate` again"):
                await interrupted
            assert await connection.fetchval(STATE) is False
    async with engine_for(url) as again, connected(url) as connection:
        await migrate(again)
        assert await connection.fetchval(STATE) is True
        await schema.check_schema(again)


async def test_events_are_stored_again_and_again_while_a_migration_waits_for_who_reads_them(url, engine, monkeypatch):
    monkeypatch.setattr(migrations, "REST", timedelta(seconds=0.5))
    async with running(url) as store, connected(url) as backup:
        async with backup.transaction():
            await backup.execute("LOCK TABLE events IN ACCESS SHARE MODE")
            migrating = asyncio.create_task(migrate(engine))
            for number in range(2):
                await until(url, WAITS_FOR_EVENTS)
                async with asyncio.timeout(60):
                    await store.append(new_event(str(number)))
            assert not migrating.done()
        await migrating
    await schema.check_schema(engine)

"""A worker's own commits may be lost in a crash, and nobody else's."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.clock import SharedClock
from app.database.engines import engine_for
from app.database.sqlite import SQLiteFile
from app.database.writing import writing
from app.deliveries.dispatch import dispatch
from app.deliveries.queue import lock, lock_for_turn
from tests.deliveries.workers import ALL, NOON, Workers

FULL, NORMAL = 2, 1
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


async def setting(connection: AsyncConnection) -> Any:
    postgresql = connection.dialect.name == "postgresql"
    return await connection.scalar(text("SHOW synchronous_commit" if postgresql else "PRAGMA synchronous"))


@ON_POSTGRESQL
async def test_on_postgresql_only_a_turn_and_dispatch_may_be_lost_and_their_connection_keeps_nothing(database_url):
    async with engine_for(database_url, of_worker=True) as engine:
        await Workers(engine).register()
        async with engine.connect() as connection:
            for work, expected in [
                (lock_for_turn(connection, "erp", SharedClock()), "off"),
                (dispatch(connection, ALL, most=9, now=NOON), "off"),
                (lock(connection, "erp"), "on"),
            ]:
                await work
                assert await setting(connection) == expected
                await connection.commit()
                assert await setting(connection) == "on"
                await connection.commit()


@ON_SQLITE
async def test_on_sqlite_a_worker_leaves_fsync_to_the_next_commit_of_another_process(database_url, engine, tmp_path):
    async with engine_for(database_url, of_worker=True) as of_worker:
        await work_off(of_worker)
        async with of_worker.connect() as connection:
            assert await setting(connection) == NORMAL
        async with engine.connect() as connection:
            assert await setting(connection) == FULL
        file = SQLiteFile(tmp_path / "priohook.db")
        receivers = file.connect()
        assert receivers.execute("PRAGMA synchronous").fetchone() == (FULL,)
        file.close(receivers)


async def work_off(engine: AsyncEngine) -> None:
    workers = Workers(engine)
    await workers.register()
    await workers.store()
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim))


@ON_POSTGRESQL
async def test_a_worker_takes_another_connection_if_the_server_has_closed_one(database_url, engine):
    async with engine_for(database_url, of_worker=True) as of_worker:
        async with of_worker.connect() as connection:
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            driver: Any = (await connection.get_raw_connection()).driver_connection
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(:pid, 20000)"), {"pid": pid})
        while not driver.is_closed():
            async with engine.connect() as connection:  # lets the event loop read what the server sent
                await connection.execute(text("SELECT 1"))
        async with writing(of_worker) as connection:
            assert await connection.scalar(text("SELECT pg_backend_pid()")) != pid

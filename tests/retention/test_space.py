import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from sqlalchemy import insert

from app.database.engines import engine_for, sqlite_path
from app.database.migrations import migrate
from app.database.writing import writing
from app.events.tables import Event
from app.retention import space
from app.retention.space import database_bytes, growth, pages, shrink, table_spaces
from tests.deliveries.workers import Workers
from tests.events.stores import new_event
from tests.retention.ages import prune

DAY = timedelta(days=1)


async def fill(workers: Workers, events: int, *, key: str = "fill", body: bytes = b"x" * 6500) -> None:
    """Stores dispatched events, one a minute."""
    rows = []
    for number in range(events):
        workers.wait(60)
        event = new_event(f"{key}-{number}", body=body, received_at=workers.now)._asdict()
        rows.append({name: value for name, value in event.items() if value is not None})
    async with writing(workers.engine) as connection:
        await connection.execute(insert(Event), rows)
    while await workers.dispatch({}):
        pass


async def test_a_new_sqlite_file_shrinks_after_events_were_deleted(sqlite_url):
    async with engine_for(sqlite_url) as engine:
        workers = Workers(engine)
        await fill(workers, 1200)
        async with engine.connect() as connection:
            before = await pages(connection)
        assert before.shrinks
        await prune(engine, workers.now + 2 * DAY, accepted="1d")
        given = await shrink(engine, rests=0.0)
        async with engine.connect() as connection:
            after = await pages(connection)
        assert after.free <= space.SLACK_PAGES
        assert before.all - after.all >= given > 1000
    assert sqlite_path(sqlite_url).stat().st_size == after.all * after.bytes
    with closing(sqlite3.connect(sqlite_path(sqlite_url))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_file_of_an_earlier_release_keeps_its_size_until_it_is_written_anew(tmp_path):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE made_without_auto_vacuum (id INTEGER)")
    async with engine_for(f"sqlite+aiosqlite:///{path}") as engine:
        await migrate(engine)
        assert await shrink(engine, rests=0.0) == 0
        async with engine.connect() as connection:
            assert not (await pages(connection)).shrinks


async def test_the_space_of_each_table_is_told_on_postgresql(postgres_url):
    async with engine_for(postgres_url) as engine:
        await fill(Workers(engine), 10)
        async with engine.connect() as connection:
            tables = {table.name: table for table in await table_spaces(connection)}
            assert set(tables) == {"events", "deliveries", "attempts", "deleted_events"}
            assert tables["events"].bytes <= await database_bytes(connection)
        assert await shrink(engine, rests=0.0) == 0


@pytest.mark.parametrize(("sampled", "per_day"), [(50, 24 * 60), (1000, 101)])
async def test_growth_is_that_of_the_newest_events_or_of_a_day_at_least(workers, engine, monkeypatch, sampled, per_day):
    monkeypatch.setattr(space, "ENOUGH", 100)
    monkeypatch.setattr(space, "SAMPLED", sampled)
    await fill(workers, 101)
    if engine.dialect.name == "postgresql":
        async with engine.connect() as connection:
            await connection.exec_driver_sql("ANALYZE events")
            await connection.commit()
    async with engine.connect() as connection:
        found = await growth(connection, now=workers.now + timedelta(minutes=1))
    assert found is not None
    assert round(found.events_per_day) == per_day
    assert 100 < found.bytes_per_event < 20_000
    assert found.bytes_per_day == found.events_per_day * found.bytes_per_event


async def test_growth_is_that_of_the_last_week(workers, engine, monkeypatch):
    monkeypatch.setattr(space, "ENOUGH", 10)
    await fill(workers, 10)
    workers.wait(timedelta(days=30).total_seconds())
    await fill(workers, 7, key="later")
    if engine.dialect.name == "postgresql":
        async with engine.connect() as connection:
            await connection.exec_driver_sql("ANALYZE events")
            await connection.commit()
    async with engine.connect() as connection:
        found = await growth(connection, now=workers.now)
    assert found is not None
    assert found.events_per_day == 1


async def test_a_database_with_few_events_has_no_growth(workers, engine):
    await fill(workers, 11)
    async with engine.connect() as connection:
        assert await growth(connection, now=workers.now) is None

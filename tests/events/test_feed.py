import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest

from app.database.engines import engine_for
from app.events import feed
from app.events.feed import Feed, FeedNotReady

PATIENCE = 30.0  # seconds; a bound for a slow machine, never waited for


async def test_the_reader_stops_when_the_only_one_who_waited_for_its_begin_has_left(postgres_url, monkeypatch):
    monkeypatch.setattr(feed, "READY_WITHIN", 0.2)
    began, stopped = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def waking(_):
        began.set()
        try:
            yield
        finally:
            stopped.set()

    writer = await asyncpg.connect(postgres_url.replace("postgresql+asyncpg", "postgresql"))
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("UPDATE events SET duplicates = 0 WHERE false")
    async with engine_for(postgres_url) as engine, Feed(engine, waking=waking).running() as reading:
        with pytest.raises(FeedNotReady):
            await reading.admit("reader")
        assert began.is_set()
        assert not stopped.is_set()
        await transaction.rollback()
        async with asyncio.timeout(PATIENCE):
            await stopped.wait()
    await writer.close()

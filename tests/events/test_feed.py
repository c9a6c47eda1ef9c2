import asyncio
from contextlib import asynccontextmanager, nullcontext

import asyncpg
import pytest

from app.database.engines import engine_for
from app.events import feed
from app.events.feed import Feed, FeedNotReady
from tests.e2e.proxy import GARBAGE, through_proxy
from tests.events.stores import new_event, running

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


async def test_the_reader_goes_on_after_answers_that_are_not_postgresqls(postgres_url, caplog):
    async with (
        asyncio.timeout(PATIENCE),
        running(postgres_url) as store,
        through_proxy(postgres_url) as (url, proxy),
        engine_for(url) as engine,
        Feed(engine, waking=lambda _: nullcontext()).running() as reading,
    ):
        listener = await reading.admit("reader")
        listener.begin(reading.head.position)
        proxy.garbling = GARBAGE
        while "stream_waits" not in caplog.messages:  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.05)
        proxy.garbling = b""
        stored = await store.append(new_event("a"))
        (placed,) = await listener.take(PATIENCE)
    assert placed.event.id == stored.id

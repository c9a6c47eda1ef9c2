import asyncio
from functools import partial

import pytest
from sqlalchemy import text

from app.database.writing import writing
from app.deliveries import operations, wake
from app.deliveries.tables import ReplayStatus
from app.deliveries.wake import EVENTS, Notifier, waking
from tests.e2e.proxy import GARBAGE, through_proxy

PATIENCE = 60  # seconds; a busy machine may need some of them


async def test_whatever_makes_work_for_workers_tells_them_by_itself(workers, database_url):
    woken = asyncio.Event()

    async def wakes(change):
        async with asyncio.timeout(PATIENCE):
            await woken.wait()  # from the change before, or because it listens now
            woken.clear()
            result = await change
            await woken.wait()
            return result

    async def operate(operation, *arguments, **more):
        async with writing(workers.engine) as connection:
            await operation(connection, *arguments, now=workers.now, **more)

    await workers.store("A")
    async with waking(database_url, events=lambda _: None, deliveries=woken.set):
        await wakes(workers.dispatch())
        await workers.turn()
        await wakes(workers.leave())  # what it claimed and has not sent
        (delivery,) = await workers.deliveries()
        for change in (
            partial(operations.pause, name="erp", reason="By hand."),
            partial(operations.resume, name="erp"),
            partial(operations.retry, delivery_id=delivery.id),
            partial(operations.drop, delivery_id=delivery.id),
        ):
            await wakes(operate(change))
        replay_id = await wakes(workers.start())
        await wakes(workers.advance())
        for status in (ReplayStatus.PAUSED, ReplayStatus.RUNNING, ReplayStatus.CANCELLED):
            await wakes(workers.set_replay(replay_id, status))


async def test_workers_are_told_of_events_and_of_how_many_more_wait(database_url):
    heard: asyncio.Queue[int] = asyncio.Queue()
    listens = asyncio.Event()
    async with (
        asyncio.timeout(PATIENCE),
        Notifier(database_url).running() as notifier,
        waking(database_url, events=heard.put_nowait, deliveries=listens.set),
    ):
        await listens.wait()
        notifier.stored(37)
        assert await heard.get() == 37
        for waiting in (1, 2, 0):  # while it waits before it tells again
            notifier.stored(waiting)
        assert await heard.get() == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_bell_that_was_removed_is_made_again(database_url, tmp_path, monkeypatch):
    monkeypatch.setattr(wake, "LISTEN_CHECK", 0.01)
    listens = asyncio.Event()
    async with asyncio.timeout(PATIENCE), waking(database_url, events=lambda _: None, deliveries=listens.set):
        for _ in range(2):
            await listens.wait()
            listens.clear()
            (tmp_path / "priohook.db-bell").unlink()
        await listens.wait()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_receiver_of_the_previous_release_which_tells_no_number_wakes_workers_too(database_url, engine):
    heard: asyncio.Queue[int] = asyncio.Queue()
    listens = asyncio.Event()
    async with asyncio.timeout(PATIENCE), waking(database_url, events=heard.put_nowait, deliveries=listens.set):
        await listens.wait()
        async with engine.begin() as connection:
            await connection.execute(text(f"NOTIFY {EVENTS}"))
        assert await heard.get() == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_workers_are_told_again_after_answers_that_are_not_postgresqls(database_url, caplog):
    heard: asyncio.Queue[int] = asyncio.Queue()
    listens = asyncio.Event()
    async with (
        asyncio.timeout(PATIENCE),
        through_proxy(database_url) as (url, proxy),
        Notifier(url).running() as notifier,
        waking(url, events=heard.put_nowait, deliveries=listens.set),
    ):
        await listens.wait()
        listens.clear()
        notifier.stored(1)
        assert await heard.get() == 1
        proxy.garbling = GARBAGE
        while "listen_failed" not in caplog.messages:
            notifier.stored(2)
            await asyncio.sleep(0.05)
        proxy.garbling = b""
        await listens.wait()
        notifier.stored(3)
        while await heard.get() != 3:
            pass

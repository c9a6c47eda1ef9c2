import asyncio

import pytest
from sqlalchemy import insert, update

from app.database.engines import engine_for
from app.database.migrations import migrate
from app.database.schema import check_schema
from app.database.writing import writing
from app.events.tables import Event, Status
from tests.database.test_engines import empty_url
from tests.deliveries.workers import Workers
from tests.events.stores import new_event, running

__all__ = ["empty_url"]
REFUSED = {"status": Status.QUARANTINED.value, "reason": "400: Not JSON."}


async def test_the_migration_goes_up_down_and_up_again_beside_stored_events(empty_url):
    async with engine_for(empty_url) as engine:
        workers = Workers(engine)
        await migrate(engine, revision="0001")
        await workers.store()
        await migrate(engine, revision="0002")
        later = await workers.store()
        assert await workers.undispatched() == [later]
        await migrate(engine, revision="0001")
        await workers.store()
        await migrate(engine)
        await check_schema(engine)
        assert await workers.undispatched() == []
        last = await workers.store()
        assert await workers.undispatched() == [last]


async def test_an_event_stored_by_the_previous_releases_statement_waits_for_its_deliveries(workers):
    event_id = await workers.store()
    assert await workers.undispatched() == [event_id]


async def test_several_events_of_one_statement_all_wait(workers):
    events = [new_event(key) for key in "abc"]
    async with writing(workers.engine) as connection:
        await connection.execute(insert(Event).values([each._asdict() for each in events]))
    assert await workers.undispatched() == [each.id for each in events]


async def test_each_event_of_the_store_waits_once_and_its_copies_do_not(database_url, workers):
    async with running(database_url) as store:
        one, _ = await asyncio.gather(store.append(new_event("one")), store.append(new_event("one")))
        other = await store.append(new_event("other"))
        assert (await store.append(new_event("one"))).duplicate
    assert await workers.undispatched() == sorted([one.id, other.id])


async def test_a_copy_of_what_was_dispatched_does_not_wait_again(database_url, workers):
    async with running(database_url) as store:
        await store.append(new_event("one"))
        await workers.dispatch()
        assert (await store.append(new_event("one"))).duplicate
    assert await workers.undispatched() == []


async def test_a_quarantined_event_does_not_wait(database_url, workers):
    async with running(database_url) as store:
        for _ in range(2):
            await store.append(new_event("one", **REFUSED))
    assert await workers.undispatched() == []


async def test_a_released_event_waits_once(workers):
    event_id = await workers.store(**REFUSED)
    for _ in range(2):
        async with writing(workers.engine) as connection:
            await connection.execute(update(Event).values(status=Status.ACCEPTED.value))
        assert await workers.undispatched() == [event_id]
    await workers.dispatch()
    async with writing(workers.engine) as connection:
        await connection.execute(update(Event).values(status=Status.ACCEPTED.value))
    assert await workers.undispatched() == []


async def test_an_event_that_is_not_committed_does_not_wait(workers):
    async with workers.engine.connect() as connection:
        await connection.execute(insert(Event), new_event("one")._asdict())
        await connection.rollback()
    assert await workers.undispatched() == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_an_event_that_commits_late_is_not_overlooked(workers):
    async with workers.engine.connect() as slow:
        event = new_event("slow")
        await slow.execute(insert(Event), event._asdict())
        await workers.store()
        assert await workers.dispatch() == 1
        await slow.commit()
    assert await workers.undispatched() == [event.id]

"""After a clock that was ahead is set right, nothing waits for a time that only the wrong clock could set."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from app.database.clock import SharedClock, shared_time
from app.database.writing import writing
from app.deliveries.clocks import LONGEST_CLAIM, Watch
from app.deliveries.queue import lock_for_turn
from app.deliveries.retry import FAILURES_TO_OPEN, LONGEST_DELAY
from tests.deliveries.workers import NOON, Workers

DAY = 86_400.0


async def test_what_failed_while_the_clock_was_ahead_is_due_once_it_is_right(workers):
    await workers.store("A")
    await workers.dispatch()
    workers.wait(DAY)
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 500))
    workers.wait(-DAY)
    assert await workers.look() == 1
    assert await workers.has_work()
    assert [claim.attempt for claim in (await workers.turn()).claims] == [2]
    assert await workers.look() == 0


async def test_what_was_dispatched_while_the_clock_was_ahead_is_due_once_it_is_right(workers):
    await workers.store("A")
    await workers.start()
    workers.wait(DAY)
    await workers.dispatch()
    await workers.store("B")
    await workers.advance()
    workers.wait(-DAY)
    assert await workers.look() == 1
    assert len((await workers.turn()).claims) == 1


async def test_a_delay_that_may_be_is_left_alone(workers):
    await workers.store("A")
    await workers.dispatch()
    workers.wait(LONGEST_DELAY.total_seconds())
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 500, retry_after=timedelta(hours=1)))
    before = await workers.deliveries()
    workers.wait(-6 * 3600)
    assert await workers.look() == 0
    assert await workers.deliveries() == before


async def test_a_claim_of_a_clock_that_was_ahead_ends_no_later_than_the_longest_claim(workers):
    await workers.store("A")
    await workers.dispatch()
    workers.wait(DAY)
    (lost,) = (await workers.turn(worker="one")).claims
    workers.wait(-DAY)
    assert await workers.look() == 1
    assert (await workers.turn(worker="two")).claims == []
    workers.wait(LONGEST_CLAIM.total_seconds())
    await workers.turn(worker="two")
    workers.wait(60)
    (again,) = (await workers.turn(worker="two")).claims
    assert (again.delivery_id, again.attempt) == (lost.delivery_id, 2)


async def test_a_circuit_that_opened_while_the_clock_was_ahead_gets_its_probe_once_it_is_right(workers):
    for _ in range(FAILURES_TO_OPEN + 1):
        await workers.store()
    await workers.dispatch()
    workers.wait(DAY)
    all_at_once = workers.limits._replace(max_in_flight=100)
    for claim in (await workers.turn(limits=all_at_once)).claims:
        await workers.turn(workers.ended(claim, 503), limits=workers.limits._replace(max_in_flight=0))
        workers.wait(5)
    assert (await workers.destination()).probe_at
    workers.wait(-DAY)
    await workers.look()
    assert await workers.has_work()
    assert len((await workers.turn()).claims) == 1


async def test_a_rate_that_was_used_while_the_clock_was_ahead_holds_nothing_back_once_it_is_right(engine):
    workers = Workers(engine, rate=1)
    await workers.register()
    for _ in range(2):
        await workers.store()
    await workers.dispatch()
    workers.wait(DAY)
    assert len((await workers.turn()).claims) == 1
    workers.wait(-DAY)
    assert await workers.has_work()
    assert len((await workers.turn()).claims) == 1


async def test_a_replay_that_went_on_while_the_clock_was_ahead_goes_on_once_it_is_right(workers):
    for _ in range(3):
        await workers.store()
    await workers.start(rate=1)
    workers.wait(DAY)
    made = (await workers.advance()).made
    await workers.turn(*(workers.ended(claim) for claim in (await workers.turn()).claims))
    workers.wait(-DAY)
    assert (made, (await workers.advance()).made) == (1, 1)


async def test_the_circuit_opens_although_its_failures_began_in_the_future(workers):
    for _ in range(FAILURES_TO_OPEN + 1):
        await workers.store()
    await workers.dispatch()
    first, *others = (await workers.turn(limits=workers.limits._replace(max_in_flight=100))).claims
    workers.wait(DAY)
    await workers.turn(workers.ended(first, 503))
    workers.wait(-DAY)
    await workers.look()
    for claim in others:
        await workers.turn(workers.ended(claim, 503), limits=workers.limits._replace(max_in_flight=0))
        workers.wait(10)
    assert (await workers.destination()).probe_at


@pytest.mark.parametrize(("ahead", "noticed"), [(-3600, True), (-90, True), (-30, False), (0, False), (3600, False)])
def test_a_clock_that_is_set_back_is_noticed_once(ahead, noticed):
    watch = Watch()
    seen = [
        watch.set_back(NOON + timedelta(seconds=seconds + error), elapsed=timedelta(seconds=seconds))
        for seconds, error in [(0, 0), (500, 0), (1000, ahead), (1500, ahead)]
    ]
    assert seen == [False, False, noticed, False]


async def test_after_the_clock_was_set_back_nothing_waits_for_the_time_that_was(workers):
    await workers.store("A")
    await workers.dispatch()
    workers.wait(3600)
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 500))
    workers.wait(-3600)
    assert await workers.look() == 0
    assert await workers.look(longest=timedelta(0)) == 1
    assert [claim.attempt for claim in (await workers.turn()).claims] == [2]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_all_workers_go_by_the_clock_of_the_database_as_it_is_when_they_have_its_lock(workers):
    clock = SharedClock()
    clock.hear(NOON)
    async with writing(workers.engine) as other:

        async def turn():
            async with writing(workers.engine) as connection:
                await lock_for_turn(connection, "erp", clock)

        await lock_for_turn(other, "erp", SharedClock())
        waiting = asyncio.create_task(turn())
        async with workers.engine.connect() as connection:
            while not await connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        released = await shared_time(other)
    await waiting
    async with workers.engine.connect() as connection:
        assert released <= clock.now() <= await shared_time(connection)


async def test_until_it_is_heard_the_shared_time_is_that_of_this_host(engine):
    clock = SharedClock()
    before = datetime.now(UTC)
    assert before <= clock.now() <= datetime.now(UTC)
    async with engine.connect() as connection:
        await clock.look(connection)
        assert abs(clock.now() - await shared_time(connection)) < timedelta(seconds=1)

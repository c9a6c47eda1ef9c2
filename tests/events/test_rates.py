from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, insert

from app.database import counting
from app.database.writing import writing
from app.events.rates import STEP, STEPS, WEEK, Rates, count_steps
from app.events.tables import Event
from tests.events.stores import new_event
from tests.events.test_indexes import plan

NOW = datetime(2026, 8, 12, 12, 7, tzinfo=UTC)
STEP_NOW = datetime(2026, 8, 12, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def store(engine):
    """`await store(at, at)` stores events that arrived then."""
    stored = 0

    async def store(*times):
        nonlocal stored
        rows = []
        for at in times:
            stored += 1
            rows.append(new_event(f"event {stored}", received_at=at)._asdict())
        async with writing(engine) as connection:
            await connection.execute(insert(Event), rows)

    return store


@pytest.fixture
def look(engine):
    """`await look(rates, now)` reads the steps."""

    async def look(rates, now=NOW):
        async with engine.connect() as connection:
            return await rates.read(connection, now=now)

    return look


async def test_a_day_has_the_events_of_each_ten_minutes_and_those_of_the_week_before(store, look):
    await store(NOW, STEP_NOW, STEP_NOW - MINUTE, NOW - WEEK, NOW - WEEK, NOW - 2 * DAY, NOW - WEEK - 2 * DAY)
    steps = await look(Rates())
    assert len(steps) == STEPS
    assert [step.at for step in steps] == [STEP_NOW - number * STEP for number in reversed(range(STEPS))]
    assert (steps[-1].events, steps[-1].week_before) == (2, 2)
    assert (steps[-2].events, steps[-2].week_before) == (1, 0)
    assert sum(step.events + step.week_before for step in steps) == 5


async def test_only_what_may_have_changed_is_counted_again(store, look, engine):
    rates = Rates()
    await store(NOW, NOW - 3 * STEP)
    await look(rates)
    await store(NOW, NOW - 3 * STEP + MINUTE)
    steps = await look(rates, NOW + MINUTE)
    assert (steps[-1].events, steps[-4].events) == (2, 1)
    steps = await look(rates, NOW + timedelta(hours=1))
    assert [step.events for step in steps if step.events] == [2, 2]


async def test_a_step_is_counted_to_its_end(store, look):
    rates = Rates()
    await store(NOW)
    await look(rates)
    await store(STEP_NOW + 9 * MINUTE)
    steps = await look(rates, NOW + STEP)
    assert steps[-2].events == 2


async def test_what_is_kept_does_not_grow(look):
    rates = Rates()
    for days in range(3):
        await look(rates, NOW + days * DAY)
    assert len(rates.kept) == 2 * STEPS


async def test_events_that_are_deleted_are_not_counted_for_ever(store, look, engine):
    rates = Rates()
    await store(NOW - WEEK)
    assert (await look(rates))[-1].week_before == 1
    async with writing(engine) as connection:
        await connection.execute(delete(Event))
    assert (await look(rates, NOW + timedelta(hours=1)))[-7].week_before == 0


async def test_a_count_stops_at_its_bound(store, engine, monkeypatch):
    monkeypatch.setattr(counting, "MOST_COUNTED", 2)
    await store(*[STEP_NOW] * 5)
    async with engine.connect() as connection:
        assert await count_steps(connection, [STEP_NOW]) == [3]


async def test_counting_reads_the_index_of_ids_alone(engine):
    found = await plan(engine, count_steps, [STEP_NOW, STEP_NOW - STEP])
    assert "Seq Scan on events" not in found
    assert not [line for line in found.splitlines() if "SCAN events" in line]
    assert "SEARCH events USING" in found or "Index" in found

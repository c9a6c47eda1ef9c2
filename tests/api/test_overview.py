import asyncio

import pytest

from app.api.overview import REST, TOO_OLD, Overviews
from app.database.engines import engine_for
from app.settings.model import Settings

PATIENCE = 30.0  # seconds; a bound for a slow machine, never waited for


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def overviews(database_url, engine, clock):
    async with Overviews(engine, Settings(database_url=database_url), clock=clock).running() as overviews:
        yield overviews


async def next_after(overviews, last):
    """What is shown once the reading in the background has come to its end."""
    async with asyncio.timeout(PATIENCE):
        while (shown := await overviews.latest()) is last:  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.01)
    return shown


async def test_it_is_the_judgement_with_the_rates(overviews):
    overview = await overviews.latest()
    assert overview.status.well
    assert overview.status.readings is not None
    assert len(overview.steps) == 144


async def test_however_many_ask_it_is_read_once(overviews, clock):
    first, *others = await asyncio.gather(*(overviews.latest() for _ in range(10)))
    assert all(other is first for other in others)
    clock.seconds += REST.total_seconds() - 0.1
    assert await overviews.latest() is first


async def test_what_is_not_fresh_any_more_is_shown_while_the_next_is_read(overviews, clock):
    first = await overviews.latest()
    clock.seconds += REST.total_seconds() + 1
    assert await overviews.latest() is first
    assert (await next_after(overviews, first)).status.well


async def test_what_is_too_old_is_not_shown(overviews, clock):
    first = await overviews.latest()
    clock.seconds += TOO_OLD.total_seconds() + 1
    assert await overviews.latest() is not first


async def test_a_reading_that_takes_long_is_followed_by_a_long_rest(database_url, engine):
    times = [1000.0, 1000.0, 1001.0]  # it asks, the reading begins, the reading ends

    def clock():
        return times.pop(0) if len(times) > 1 else times[0]

    async with Overviews(engine, Settings(database_url=database_url), clock=clock).running() as overviews:
        first = await overviews.latest()
        times[0] = 1001.0 + 18
        assert await overviews.latest() is first
        times[0] = 1001.0 + 20
        assert (await next_after(overviews, first)).status.well


async def test_without_its_database_it_says_so(tmp_path, clock):
    url = f"sqlite+aiosqlite:///{tmp_path}/empty.db"
    async with (
        engine_for(url) as engine,
        Overviews(engine, Settings(database_url=url), clock=clock).running() as overviews,
    ):
        overview = await overviews.latest()
    assert [finding.name for finding in overview.status.findings] == ["schema"]
    assert (overview.status.readings, overview.steps) == (None, [])


async def test_however_long_a_reading_takes_what_is_too_old_is_not_shown(database_url, engine):
    times = [1000.0, 1000.0, 1006.0]  # it asks, the reading begins, the reading ends

    def clock():
        return times.pop(0) if len(times) > 1 else times[0]

    async with Overviews(engine, Settings(database_url=database_url), clock=clock).running() as overviews:
        first = await overviews.latest()
        times[0] = 1006.0 + TOO_OLD.total_seconds() + 1
        assert await overviews.latest() is not first

import asyncio
from time import monotonic

import pytest

from app.database.pace import FEW, LONGEST, MANY, MOST, Pace, rest

PATIENCE = 60  # seconds; a busy machine may need some of them


@pytest.mark.parametrize(
    ("held", "waiting", "rests"),
    [
        (5.0, 0, 0),
        (5.0, FEW, 0),
        (0.01, (FEW + MANY) / 2, 0.01 * MOST / 2),
        (0.01, MANY, 0.01 * MOST),
        (0.01, 100 * MANY, 0.01 * MOST),
        (5.0, MANY, LONGEST),
    ],
)
def test_the_more_events_wait_the_longer_a_worker_rests_within_bounds(held, waiting, rests):
    assert rest(held, waiting) == pytest.approx(rests)


@pytest.mark.parametrize("one_writer", [False, True])
async def test_a_worker_does_not_rest_after_slow_transactions_while_no_events_come(one_writer):
    pace = Pace(one_writer=one_writer)
    pace.held(3600)
    began = monotonic()
    async with pace.turn():
        assert monotonic() - began < LONGEST


async def test_a_worker_rests_no_longer_when_it_is_told_twice_that_few_events_wait(monkeypatch):
    monkeypatch.setattr("app.database.pace.LONGEST", 3600)
    monkeypatch.setattr("app.database.pace.FRESH", 3600)
    pace = Pace(one_writer=False)
    pace.tell(MANY)
    pace.held(3600)

    async def turn():
        async with pace.turn():
            pass

    resting = asyncio.create_task(turn())
    for waiting in (MANY, FEW, MANY, FEW):
        pace.tell(waiting)
        await asyncio.sleep(0.001)
        assert not resting.done()
    pace.tell(FEW)
    async with asyncio.timeout(PATIENCE):
        await resting


async def test_a_worker_does_not_rest_for_a_receiver_that_has_ended(monkeypatch):
    monkeypatch.setattr("app.database.pace.FRESH", 0)
    pace = Pace(one_writer=True)
    pace.tell(MANY)
    pace.held(3600)
    began = monotonic()
    async with pace.turn():
        assert monotonic() - began < LONGEST


@pytest.mark.parametrize("one_writer", [False, True])
async def test_while_events_wait_transactions_go_one_after_the_other(one_writer):
    pace = Pace(one_writer=one_writer)
    running = most = 0

    async def transaction():
        nonlocal running, most
        pace.tell(1000)
        async with pace.turn():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(transaction() for _ in range(5)))
    assert most == 1


@pytest.mark.parametrize("one_writer", [False, True])
async def test_of_many_transactions_that_come_together_none_waits_for_the_rests_of_all(one_writer):
    pace = Pace(one_writer=one_writer)

    async def transaction():
        async with pace.turn():
            pace.tell(100_000)
            pace.held(3600)

    pace.tell(100_000)
    began = monotonic()
    await asyncio.gather(*(transaction() for _ in range(20)))
    assert monotonic() - began < 5 * LONGEST

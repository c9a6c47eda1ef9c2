import asyncio
from time import monotonic

import pytest

from app.database.pace import FEW, LATELY, LONGEST, MANY, MOST, Backlog, Pace, rest


@pytest.mark.parametrize(
    ("held", "waiting", "rests"),
    [
        (0.01, 0, 0),
        (5.0, FEW, 0),
        (0.01, (FEW + MANY) / 2, 0.01 * MOST / 2),
        (0.01, MANY, 0.01 * MOST),
        (0.01, 100 * MANY, 0.01 * MOST),
        (5.0, MANY, LONGEST),
    ],
)
def test_the_more_events_wait_the_longer_a_worker_rests_within_bounds(held, waiting, rests):
    assert rest(held, waiting) == pytest.approx(rests)


def told(*waiting: int) -> float:
    backlog = Backlog()
    for number, each in enumerate(waiting):
        backlog.tell(each, now=1000 + number * LATELY / 10)
    return backlog.at(1000 + len(waiting) * LATELY / 10)


def test_a_single_moment_in_which_many_events_wait_is_no_backlog():
    assert told(*[0] * 30, 64) < FEW


def test_a_receiver_at_its_limit_has_a_backlog_though_each_commit_empties_it():
    assert told(*[0, 63] * 30) > 0.8 * MANY


def test_the_backlog_of_a_receiver_that_has_ended_is_forgotten():
    backlog = Backlog()
    backlog.tell(1000, now=1000)
    assert backlog.at(1000 + 10 * LATELY) < 1


@pytest.mark.parametrize("one_writer", [False, True])
async def test_a_worker_does_not_rest_after_slow_transactions_while_no_events_wait(one_writer):
    pace = Pace(one_writer=one_writer)
    pace.tell(FEW)
    pace.held(3600)
    async with asyncio.timeout(60), pace.turn():
        pass


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

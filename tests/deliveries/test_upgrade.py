"""Beside workers of the release before migration 0011, whose claims are in the deliveries themselves."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from app.database.migrations import migrate
from app.database.writing import writing
from app.deliveries import operations, turns
from app.deliveries.clocks import LONGEST_CLAIM
from app.deliveries.losses import LOST
from app.deliveries.operations import NotDone
from app.deliveries.queries import DeliveryFilter, list_attempts, list_deliveries
from app.deliveries.retry import FIRST_DELAY
from app.deliveries.tables import Attempt, Delivery
from tests.deliveries.workers import Workers

TIMEOUT = timedelta(seconds=15)


@pytest.fixture
async def old(workers: Workers) -> Workers:
    """A delivery that a worker of the previous release has claimed, as that one does."""
    await workers.store("A")
    await workers.dispatch()
    claimed = {"claimed_by": "old", "claimed_at": workers.now, "due_at": workers.now + TIMEOUT}
    async with writing(workers.engine) as connection:
        await connection.execute(update(Delivery).values(**claimed, attempts=Delivery.attempts + 1))
    return workers


async def tries(workers: Workers) -> list[tuple[Any, ...]]:
    (row,) = await workers.deliveries()
    async with workers.engine.connect() as connection:
        attempts = await list_attempts(connection, row.id)
    return [(each.number, each.result, each.status, each.error) for each in attempts]


async def listed(workers: Workers) -> Sequence[Any]:
    async with workers.engine.connect() as connection:
        return await list_deliveries(connection, DeliveryFilter(), limit=9)


async def test_what_the_previous_release_has_claimed_is_left_until_the_claim_ends(old):
    turn = await old.turn()
    assert (turn.claims, turn.next_at) == ([], old.now + TIMEOUT)
    (row,) = await old.deliveries()
    for operation in (operations.retry, operations.drop):
        async with writing(old.engine) as connection:
            with pytest.raises(NotDone, match="is being sent now"):
                await operation(connection, row.id, now=old.now)
    (shown,) = await listed(old)
    assert (shown.claimed_by, shown.attempts, shown.last_result) == ("old", 1, None)


async def test_a_claim_of_the_previous_release_that_has_run_out_is_lost_as_any_other(old):
    old.wait(TIMEOUT.total_seconds())
    assert (await old.turn()).claims == []
    assert await tries(old) == [(1, "lost", None, LOST)]
    old.wait(FIRST_DELAY.total_seconds())
    (claim,) = (await old.turn()).claims
    assert (claim.attempt, claim.tries, claim.lost) == (2, 1, 1)
    await old.turn(old.ended(claim))
    (row,) = await old.deliveries()
    assert (row.status, row.attempts, row.claimed_by) == ("delivered", 2, None)


async def test_a_late_success_ends_a_claim_of_the_previous_release(workers):
    await workers.store("A")
    await workers.dispatch()
    (late,) = (await workers.turn()).claims
    workers.wait(60)
    await workers.turn(worker="two")
    async with writing(workers.engine) as connection:
        await connection.execute(update(Delivery).values(claimed_by="old", claimed_at=workers.now, attempts=2))
    await workers.turn(workers.ended(late))
    (row,) = await workers.deliveries()
    assert (row.status, row.claimed_by, row.claimed_at) == ("delivered", None, None)


async def test_the_only_worker_of_a_file_takes_back_what_the_previous_release_has_claimed(old):
    async with writing(old.engine) as connection:
        await turns.take_back(connection, now=old.now)
    await old.turn()
    assert await tries(old) == [(1, "lost", None, LOST)]


async def test_what_a_worker_of_the_previous_release_delivers_is_shown_as_ever(old):
    ends = {"status": "delivered", "due_at": None, "claimed_by": None, "claimed_at": None, "finished_at": old.now}
    (row,) = await old.deliveries()
    attempt = {"delivery_id": row.id, "number": 1, "started_at": old.now, "duration_ms": 5, "status": 200}
    async with writing(old.engine) as connection:
        await connection.execute(update(Delivery).values(ends))
        await connection.execute(insert(Attempt).values(attempt))
    assert await tries(old) == [(1, "delivered", 200, None)]
    (shown,) = await listed(old)
    assert (shown.status, shown.attempts, shown.last_status, shown.last_result) == ("delivered", 1, 200, "delivered")


async def test_a_claim_of_the_previous_release_whose_clock_was_ahead_is_lost_in_time(old):
    old.wait(-86_400)
    assert await old.look() == 1
    assert (await old.turn()).claims == []
    old.wait(LONGEST_CLAIM.total_seconds())
    await old.turn()
    assert await tries(old) == [(1, "lost", None, LOST)]


async def test_going_back_to_the_previous_release_keeps_the_attempts(workers):
    await workers.store("A")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    ended = workers.ended(claim, answer=b"thanks")
    await workers.turn(ended)
    await workers.turn(ended)  # as after a commit in doubt
    before = await tries(workers)
    await migrate(workers.engine, revision="0010")
    try:
        async with workers.engine.connect() as connection:
            kept = (await connection.execute(select(*Attempt.__table__.columns))).all()
    finally:
        await migrate(workers.engine)
    assert [(each.number, each.result, each.status, each.error) for each in kept] == before
    assert kept[0].answer == b"thanks"

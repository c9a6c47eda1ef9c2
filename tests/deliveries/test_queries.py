from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.database.writing import writing
from app.deliveries.destination_queries import count_undispatched, list_destinations
from app.deliveries.losses import LOST
from app.deliveries.queries import DeliveryFilter, get_delivery, list_attempts, list_deliveries
from app.deliveries.replay_queries import get_replay, list_replays
from app.deliveries.tables import Attempt
from app.events.ids import made_at, new_id
from tests.deliveries.test_indexes import assert_uses, full  # noqa: F401
from tests.deliveries.workers import Workers


async def read(workers: Workers, query: Any, *arguments: Any, **more: Any) -> Any:
    async with workers.engine.connect() as connection:
        return await query(connection, *arguments, **more)


async def listed(workers: Workers, *, limit: int = 100, before: Any = None, **narrowing: Any) -> list[Any]:
    rows = await read(workers, list_deliveries, DeliveryFilter(**narrowing), limit=limit, before=before)
    return [row.event_id for row in rows]


async def replayed(workers: Workers) -> Any:
    """The id of a replay that has made its deliveries."""
    replay_id = await workers.start()
    while (await workers.advance()).made:
        workers.wait(0.1)
    return replay_id


@pytest.fixture
async def five(workers: Workers) -> list[Any]:
    """Events with these deliveries: delivered, waiting for a retry, waiting for that, being sent, without reference."""
    first = await workers.store("A", type="ORDER_CREATE")
    second = await workers.store("B")
    await workers.dispatch()
    turn = await workers.turn()
    good, bad = sorted(turn.claims, key=lambda claim: str(claim.reference))
    await workers.turn(workers.ended(good), workers.ended(bad, 500, retry_after=timedelta(hours=1)))
    third, fourth = await workers.store("B"), await workers.store("C")
    await workers.dispatch()
    await workers.turn()
    fifth = await workers.store()
    await workers.dispatch()
    return [first, second, third, fourth, fifth]


@pytest.mark.parametrize(
    ("narrowing", "places"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"status": "pending"}, [4, 3, 2, 1]),
        ({"status": "pending", "destination": "erp"}, [4, 3, 2, 1]),
        ({"status": "delivered"}, [0]),
        ({"status": "dead"}, []),
        ({"destination": "other"}, []),
        ({"status": "pending", "destination": "other"}, []),
        ({"reference": "B"}, [2, 1]),
        ({"reference": "A", "status": "pending"}, []),
    ],
)
async def test_a_list_narrows_to_what_is_asked_for(workers, five, narrowing, places):
    assert await listed(workers, **narrowing) == [five[place] for place in places]


async def test_a_list_narrows_to_one_event(workers, five):
    assert await listed(workers, event_id=five[2]) == [five[2]]
    assert await listed(workers, event_id=five[2], status="pending") == [five[2]]


@pytest.mark.parametrize("narrowing", [{}, {"status": "pending"}, {"reference": "B"}])
async def test_the_last_id_of_a_list_continues_it(workers, five, narrowing):
    whole = await read(workers, list_deliveries, DeliveryFilter(**narrowing), limit=100)
    found, before = [], None
    while rows := await read(workers, list_deliveries, DeliveryFilter(**narrowing), limit=1, before=before):
        found += rows
        before = rows[-1].id
    assert [row.id for row in found] == [row.id for row in whole]


async def test_what_a_replay_made_is_listed_and_continued_newest_first(workers, five):
    replay_id = await replayed(workers)
    assert await listed(workers, replay_id=replay_id) == five[::-1]
    assert await listed(workers, replay_id=replay_id, status="pending") == five[::-1]
    first = await read(workers, list_deliveries, DeliveryFilter(replay_id=replay_id), limit=2)
    assert await listed(workers, replay_id=replay_id, before=first[-1].id) == five[2::-1]


async def test_a_row_has_the_type_and_the_outcome_of_the_last_attempt(workers, five):
    rows = await read(workers, list_deliveries, DeliveryFilter(), limit=100)
    assert [(row.type, row.attempts, row.last_status) for row in rows[::-1]] == [
        ("ORDER_CREATE", 1, 200),
        ("ORDER_UPDATE", 1, 500),
        ("ORDER_UPDATE", 0, None),
        ("ORDER_UPDATE", 1, None),
        ("ORDER_UPDATE", 0, None),
    ]


async def test_while_it_is_sent_again_a_row_has_the_outcome_of_the_attempt_before(workers, five):
    workers.wait(2 * 3600)
    await workers.turn()
    rows = await read(workers, list_deliveries, DeliveryFilter(event_id=five[1]), limit=1)
    assert [(row.attempts, row.last_status) for row in rows] == [(2, 500)]


async def test_attempts_come_in_their_order(workers, five):
    workers.wait(2 * 3600)
    turn = await workers.turn()
    await workers.turn(*(workers.ended(each, 502, answer=b"no") for each in turn.claims if each.event_id == five[1]))
    (row,) = await read(workers, list_deliveries, DeliveryFilter(event_id=five[1]), limit=1)
    attempts = await read(workers, list_attempts, row.id)
    assert [(each.number, each.status, each.answer) for each in attempts] == [(1, 500, None), (2, 502, b"no")]


async def test_one_that_nobody_has_is_none(workers):
    assert await read(workers, get_delivery, new_id()) is None
    assert await read(workers, get_replay, new_id()) is None


async def test_destinations_are_counted_by_what_becomes_of_their_deliveries(workers, five):
    await workers.register("unused")
    erp, unused = await read(workers, list_destinations, now=workers.now)
    assert (erp.name, erp.pending, erp.due, erp.in_flight, erp.dead) == ("erp", 4, 1, 1, 0)
    assert (unused.name, unused.pending, unused.due, unused.in_flight, unused.dead) == ("unused", 0, 0, 0, 0)
    assert unused.oldest is None


async def test_the_oldest_pending_delivery_is_as_old_as_its_event(workers, five):
    (erp,) = await read(workers, list_destinations, now=workers.now)
    pending = [row.event_id for row in await workers.deliveries() if row.status == "pending"]
    assert erp.oldest_pending_at == made_at(min(pending))


async def test_a_pending_delivery_of_a_replay_is_as_old_as_itself(workers):
    await workers.store()
    await workers.dispatch()
    (live,) = (await workers.turn()).claims
    await workers.turn(workers.ended(live))
    workers.wait(3600)
    await replayed(workers)
    (erp,) = await read(workers, list_destinations, now=workers.now)
    assert [erp.oldest] == [row.id for row in await workers.deliveries() if row.status == "pending"]


async def test_events_without_deliveries_are_counted(workers):
    await workers.store()
    await workers.store()
    assert await read(workers, count_undispatched) == 2
    await workers.dispatch(most=1)
    assert await read(workers, count_undispatched) == 1


async def test_a_replay_has_its_counts(workers, five):
    replay_id = await replayed(workers)
    row = await read(workers, get_replay, replay_id)
    assert (row.events, row.made, row.pending, row.dead, row.status) == (5, 5, 5, 0, "running")
    assert await read(workers, list_replays, limit=5) == [row]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("narrowing", "index"),
    [
        ({}, "deliveries"),
        ({"status": "dead"}, "deliveries"),
        ({"status": "dead", "destination": "erp"}, "ix_deliveries_dead"),
        ({"reference": "R7"}, "ix_events_reference_id"),
        ({"event_id": new_id()}, "ix_deliveries_event"),
        ({"replay_id": new_id()}, "uq_deliveries_replay"),
        ({"replay_id": new_id(), "status": "pending"}, "ix_deliveries_replay"),
    ],
)
async def test_a_list_is_found_by_an_index(full, narrowing, index):  # noqa: F811
    await assert_uses(full, read(full, list_deliveries, DeliveryFilter(**narrowing), limit=50), index)


async def test_destinations_are_counted_by_indexes(full):  # noqa: F811
    await assert_uses(full, read(full, list_destinations, now=full.now), "ix_deliveries_due", "ix_deliveries_dead")


async def test_a_replay_is_counted_by_indexes(full):  # noqa: F811
    await assert_uses(full, read(full, list_replays, limit=5), "ix_deliveries_replay", "ix_deliveries_dead")


@pytest.mark.parametrize(
    ("old", "result"),
    [
        ({"status": 204}, "delivered"),
        ({"status": 410}, "gone"),
        ({"status": 302}, "refused"),
        ({"error": "ValueError: no", "answer": b"Traceback"}, "refused"),
        ({"error": "ConnectionRefusedError: [Errno 111]"}, "unreachable"),
        ({"error": "It could not be connected to within 5 seconds."}, "timed_out"),
        ({"error": "It did not answer within 10 seconds."}, "timed_out"),
        ({"error": "The function's process ended with status 1."}, "lost"),
        ({"error": LOST, "duration_ms": None}, "lost"),
    ],
)
async def test_an_attempt_of_the_previous_release_says_what_it_was(workers, old, result):
    await workers.store()
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 500))
    (attempt,) = await read(workers, list_attempts, claim.delivery_id)
    assert attempt.result == "refused"
    async with writing(workers.engine) as connection:
        empty = {"result": None, "status": None, "error": None, "answer": None}
        await connection.execute(update(Attempt).values(empty | old))
    (attempt,) = await read(workers, list_attempts, claim.delivery_id)
    delivery = await read(workers, get_delivery, claim.delivery_id)
    assert (attempt.result, delivery.last_result) == (result, result)


async def test_a_delivery_without_an_attempt_has_no_result(workers):
    await workers.store()
    await workers.dispatch()
    (row,) = await read(workers, list_deliveries, DeliveryFilter(), limit=1)
    assert row.last_result is None

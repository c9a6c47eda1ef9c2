"""Of many events, only those that the senders need next become deliveries."""

from datetime import timedelta

import pytest
from sqlalchemy import insert, select, update

from app.database.writing import writing
from app.deliveries.dispatch import ENOUGH, Dispatcher
from app.deliveries.registering import register, register_in_parts
from app.deliveries.tables import Delivery, Destination, PassedOver
from app.events.ids import id_floor
from tests.deliveries.workers import Workers

MOST = 2
NEEDED = ENOUGH * MOST
MANY = 5 * NEEDED
BOTH = {"crm": ["*"], "erp": ["ORDER_*"]}


@pytest.fixture
async def dispatcher(workers: Workers) -> Dispatcher:
    return await begun(workers, {"erp": ["*"]})


async def begun(workers: Workers, types: dict[str, list[str]]) -> Dispatcher:
    dispatcher = Dispatcher(types, most=MOST)
    async with writing(workers.engine) as connection:
        await dispatcher.begin(connection, now=workers.now)
    return dispatcher


async def store(workers: Workers, count: int = MANY, **columns: str) -> None:
    for number in range(count):
        await workers.store(columns.get("reference", f"R{number}"), type=columns.get("type", "ORDER_UPDATE"))


async def change(workers: Workers, name: str, **values: object) -> None:
    async with writing(workers.engine) as connection:
        await connection.execute(update(Destination).where(Destination.name == name).values(values))


async def deliver(workers: Workers, count: int, name: str) -> None:
    """Ends the first deliveries of a destination."""
    first = select(Delivery.id).where(Delivery.destination == name, Delivery.status == "pending")
    ids = first.order_by(Delivery.event_id).limit(count).scalar_subquery()
    ended = {"status": "delivered", "due_at": None, "finished_at": workers.now}
    async with writing(workers.engine) as connection:
        await connection.execute(update(Delivery).where(Delivery.id.in_(ids)).values(ended))


async def test_no_more_is_dispatched_than_a_destination_needs_next(workers, dispatcher):
    await store(workers)
    assert await workers.dispatch_needed(dispatcher) == NEEDED
    assert dispatcher.held
    assert len(await workers.undispatched()) == MANY - NEEDED


async def test_dispatch_goes_on_as_deliveries_end_until_nothing_is_left(workers, dispatcher):
    await store(workers)
    done = 0
    while await workers.undispatched():
        done += await workers.dispatch_needed(dispatcher)
        await deliver(workers, 3, "erp")
    assert done == MANY
    assert not dispatcher.held


async def test_a_slow_destination_does_not_hold_up_a_fast_one(workers):
    dispatcher = await begun(workers, BOTH)
    await store(workers)
    done = 0
    for _ in range(MANY):
        done += await workers.dispatch_needed(dispatcher)
        await deliver(workers, NEEDED, "erp")
    assert done == MANY


@pytest.mark.parametrize("stopped", ["paused_at", "probe_at"], ids=["paused", "with an open circuit"])
async def test_one_that_may_not_send_neither_holds_up_dispatch_nor_asks_for_more(workers, stopped):
    dispatcher = await begun(workers, BOTH)
    await change(workers, "crm", **{stopped: workers.now})
    await store(workers)
    assert await workers.dispatch_needed(dispatcher) == NEEDED
    await deliver(workers, NEEDED, "erp")
    assert await workers.dispatch_needed(dispatcher) == NEEDED


@pytest.mark.parametrize("stopped", ["paused_at", "probe_at"], ids=["paused", "with an open circuit"])
async def test_while_no_destination_may_send_all_events_become_deliveries(workers, dispatcher, stopped):
    await change(workers, "erp", **{stopped: workers.now})
    await store(workers)
    assert await workers.dispatch_needed(dispatcher) == MANY


async def test_events_are_dispatched_as_long_as_none_is_found_for_a_destination_that_needs_some(workers):
    dispatcher = await begun(workers, BOTH)
    await store(workers, type="REDEMPTION")
    assert await workers.dispatch_needed(dispatcher) == MANY


async def test_deliveries_that_wait_for_others_of_their_reference_are_not_enough(workers, dispatcher):
    await store(workers, reference="A")
    await store(workers, NEEDED)
    assert await workers.dispatch_needed(dispatcher) == MANY + NEEDED


async def test_deliveries_that_wait_for_their_next_attempt_are_not_enough(workers, dispatcher):
    await store(workers)
    assert await workers.dispatch_needed(dispatcher) == NEEDED
    async with writing(workers.engine) as connection:
        await connection.execute(update(Delivery).values(due_at=workers.now + timedelta(minutes=5)))
    assert await workers.dispatch_needed(dispatcher) == NEEDED


async def test_deliveries_of_a_replay_are_not_enough(workers, dispatcher):
    await store(workers)
    await workers.start()
    workers.wait(1)
    await workers.advance()
    assert await workers.dispatch_needed(dispatcher) == NEEDED


async def test_a_new_destination_gets_nothing_of_the_events_that_wait(workers, dispatcher):
    await store(workers)
    await workers.dispatch_needed(dispatcher)
    async with writing(workers.engine) as connection:
        await register(connection, ["crm"], now=workers.now)
    later = await workers.store("A")
    assert await workers.dispatch_needed(await begun(workers, BOTH)) == MANY - NEEDED + 1
    assert [row.event_id for row in await workers.deliveries() if row.destination == "crm"] == [later]


async def test_two_workers_together_dispatch_what_is_needed_each_event_once(workers, dispatcher):
    other = await begun(workers, {"erp": ["*"]})
    await store(workers)
    assert await workers.dispatch_needed(dispatcher) == NEEDED
    assert await workers.dispatch_needed(other) == MOST  # it looks how many are due after its first transaction
    assert await workers.dispatch_needed(dispatcher) == 0
    done = NEEDED + MOST
    while done < MANY:
        await deliver(workers, NEEDED, "erp")
        done += await workers.dispatch_needed(other) + await workers.dispatch_needed(dispatcher)
    assert len({row.event_id for row in await workers.deliveries()}) == len(await workers.deliveries()) == MANY


async def test_a_new_destination_is_registered_in_parts_and_gets_nothing_of_the_events_that_wait(workers, dispatcher):
    await store(workers)
    late = await workers.store("late")
    async with writing(workers.engine) as connection:  # a part was noted before an interruption
        await connection.execute(insert(PassedOver), [{"event_id": late, "destination": "crm"}])
    earlier = workers.now - timedelta(hours=1)
    await workers.store("early", id=id_floor(earlier))
    await register_in_parts(workers.engine, ["crm", "erp"], now=workers.now, most=MOST)
    later = await workers.store("A")
    assert await workers.dispatch_needed(await begun(workers, {"crm": ["*"]})) == MANY + 3
    assert [row.event_id for row in await workers.deliveries()] == [later]
    async with workers.engine.connect() as connection:
        assert (await connection.scalars(select(PassedOver.event_id))).all() == []


async def test_a_destination_that_is_registered_in_parts_gets_what_arrives_after_that(workers):
    await store(workers, count=3 * MOST)
    await register_in_parts(workers.engine, ["crm"], now=workers.now, most=MOST)
    await register_in_parts(workers.engine, ["crm"], now=workers.now, most=MOST)
    async with workers.engine.connect() as connection:
        noted = (await connection.scalars(select(PassedOver.event_id).order_by(PassedOver.event_id))).all()
    assert noted == await workers.undispatched()

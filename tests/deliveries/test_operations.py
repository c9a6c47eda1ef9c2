from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app.database.writing import writing
from app.deliveries import operations
from app.deliveries.operations import NotDone, WaitsBehind, WasDelivered
from app.events.ids import new_id
from tests.deliveries.workers import Workers


async def change(workers: Workers, operation: Callable[..., Awaitable[Any]], *arguments: Any, **more: Any) -> Any:
    async with writing(workers.engine) as connection:
        return await operation(connection, *arguments, now=workers.now, **more)


async def made(workers: Workers, *references: str | None) -> list[UUID]:
    """Makes deliveries in this order and returns their ids."""
    events = [await workers.store(reference) for reference in references]
    await workers.dispatch()
    ids = {row.event_id: row.id for row in await workers.deliveries()}
    return [ids[event] for event in events]


async def fail(workers: Workers, *, times: int = 1) -> None:
    """Sends what is due and lets it fail, this many times."""
    for _ in range(times):
        turn = await workers.turn()
        await workers.turn(
            *(workers.ended(claim, 500) for claim in turn.claims), limits=workers.limits._replace(max_in_flight=0)
        )
        workers.wait(9 * 3600)


async def kill(workers: Workers) -> None:
    """Lets all attempts fail until nothing is pending."""
    while "pending" in await statuses(workers):
        await fail(workers)


async def statuses(workers: Workers) -> list[str]:
    return [row.status for row in await workers.deliveries()]


async def due(workers: Workers) -> list[bool]:
    return [row.due_at is not None and row.due_at <= workers.now for row in await workers.deliveries()]


async def test_a_dead_delivery_is_pending_again_with_all_its_retries(workers):
    (only,) = await made(workers, "A")
    await fail(workers, times=20)
    assert await statuses(workers) == ["dead"]
    await change(workers, operations.retry, only)
    (row,) = await workers.deliveries()
    assert (row.status, row.due_at, row.attempts, row.attempts_before) == ("pending", workers.now, 20, 20)
    await fail(workers, times=19)
    assert await statuses(workers) == ["pending"]
    await fail(workers)
    assert await statuses(workers) == ["dead"]


async def test_a_dead_delivery_that_is_tried_again_waits_behind_what_is_due(workers):
    (old,) = await made(workers, "A")
    await fail(workers, times=20)
    await made(workers, "A")
    await change(workers, operations.retry, old)
    assert [row.due_at is None for row in await workers.deliveries()] == [True, False]
    turn = await workers.turn()
    await workers.turn(*map(workers.ended, turn.claims))
    assert await statuses(workers) == ["pending", "delivered"]
    assert [row.due_at is None for row in await workers.deliveries()] == [False, True]


async def test_of_dead_deliveries_of_one_reference_the_first_is_due(workers):
    await made(workers, "A", "A", None)
    await kill(workers)
    assert await change(workers, operations.retry_dead, "erp") == 3
    assert await due(workers) == [True, False, True]
    assert await change(workers, operations.retry_dead, "erp") == 0


async def test_a_delivery_in_back_off_is_due_now(workers):
    (only,) = await made(workers, "A")
    turn = await workers.turn()
    await workers.turn(workers.ended(turn.claims[0], 503, retry_after=timedelta(hours=1)))
    assert await due(workers) == [False]
    await change(workers, operations.retry, only)
    assert await due(workers) == [True]


@pytest.mark.parametrize("operation", [operations.retry, operations.drop])
async def test_a_delivery_that_is_being_sent_is_left(workers, operation):
    (only,) = await made(workers, "A")
    await workers.turn()
    before = await workers.deliveries()
    with pytest.raises(NotDone, match="is being sent now"):
        await change(workers, operation, only)
    assert await workers.deliveries() == before


async def test_a_delivery_behind_another_one_is_left(workers):
    _, second = await made(workers, "A", "A")
    with pytest.raises(WaitsBehind, match=r"waits for another one of A\.$"):
        await change(workers, operations.retry, second)


async def test_a_delivered_one_is_refused_with_the_hint_to_replay(workers):
    (only,) = await made(workers, "A")
    turn = await workers.turn()
    await workers.turn(workers.ended(turn.claims[0]))
    with pytest.raises(WasDelivered):
        await change(workers, operations.retry, only)
    with pytest.raises(NotDone, match="is delivered: there is nothing to drop"):
        await change(workers, operations.drop, only)


@pytest.mark.parametrize("operation", [operations.retry, operations.drop])
async def test_an_unknown_delivery_is_refused(workers, operation):
    with pytest.raises(NotDone, match="There is no delivery"):
        await change(workers, operation, new_id())


async def test_what_waits_behind_a_dropped_delivery_goes_on(workers):
    first, *_ = await made(workers, "A", "A", "A")
    await change(workers, operations.drop, first)
    assert await statuses(workers) == ["dropped", "pending", "pending"]
    assert await due(workers) == [False, True, False]


async def test_dropping_one_that_waits_leaves_the_one_before_it(workers):
    _, second, _ = await made(workers, "A", "A", "A")
    await change(workers, operations.drop, second)
    assert await statuses(workers) == ["pending", "dropped", "pending"]
    assert await due(workers) == [True, False, False]


async def drop_all(workers: Workers, operation: Callable[..., Awaitable[int]]) -> int:
    total = 0
    while number := await change(workers, operation, "erp"):
        total += number
    return total


async def test_all_that_is_pending_is_dropped_but_what_is_being_sent(workers):
    await made(workers, "A", "A", "B", None)
    await workers.turn(limits=workers.limits._replace(max_in_flight=1))
    await made(workers, "A", "C")
    await workers.start()
    await workers.advance()
    await drop_all(workers, operations.drop_pending)
    rows = await workers.deliveries()
    assert [row.claimed_by for row in rows if row.status == "pending"] == ["one"]
    assert {row.status for row in rows if row.claimed_by is None} == {"dropped"}


async def test_all_dead_ones_are_dropped_and_nothing_else(workers):
    await made(workers, "A", "B")
    await kill(workers)
    await made(workers, "A")
    assert await drop_all(workers, operations.drop_dead) == 2
    assert await statuses(workers) == ["dropped", "dropped", "pending"]


async def test_more_than_one_batch_is_dropped_in_several_transactions(workers, monkeypatch):
    monkeypatch.setattr(operations, "BATCH", 2)
    await made(workers, "A", "A", "A", "B", None)
    assert await change(workers, operations.drop_pending, "erp") == 2
    assert await drop_all(workers, operations.drop_pending) == 3
    assert await statuses(workers) == ["dropped"] * 5


async def test_a_paused_destination_is_sent_nothing_until_it_is_resumed(workers):
    await made(workers, "A")
    await change(workers, operations.pause, "erp", reason="Migration.")
    assert (await workers.turn()).claims == []
    assert (await workers.destination()).paused_reason == "Migration."
    await change(workers, operations.resume, "erp")
    assert len((await workers.turn()).claims) == 1


async def test_resuming_closes_the_circuit_and_ends_back_offs(workers):
    await made(workers, *map(str, range(8)), None)
    for _ in range(4):
        await fail(workers)
    assert (await workers.destination()).probe_at is not None
    await change(workers, operations.resume, "erp")
    state = await workers.destination()
    assert (state.failures, state.failing_since, state.probe_at) == (0, None, None)
    assert all(await due(workers))


async def test_resuming_ends_the_back_offs_of_a_replay_too(workers):
    await workers.store("A")
    workers.wait(1)
    await workers.start()
    await workers.advance()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 503, retry_after=timedelta(hours=1)))
    assert await due(workers) == [False]
    await change(workers, operations.resume, "erp")
    assert await due(workers) == [True]


async def test_resuming_leaves_what_is_being_sent_and_what_waits_behind_it(workers):
    await made(workers, "A", "A")
    await workers.turn()
    before = await workers.deliveries()
    await change(workers, operations.resume, "erp")
    assert await workers.deliveries() == before


@pytest.mark.parametrize(("operation", "more"), [(operations.pause, {"reason": "x"}), (operations.resume, {})])
async def test_an_unknown_destination_is_refused_with_the_hint_to_list_them(workers, operation, more):
    with pytest.raises(NotDone, match="There is no destination nobody"):
        await change(workers, operation, "nobody", **more)


async def remove(workers, name):
    async with writing(workers.engine) as connection:
        await operations.remove(connection, name)


async def test_a_destination_is_forgotten_once_nothing_is_pending(workers):
    (only,) = await made(workers, "A")
    with pytest.raises(NotDone, match="Destination erp still has pending deliveries: 1"):
        await remove(workers, "erp")
    await change(workers, operations.drop, only)
    await remove(workers, "erp")
    assert (await workers.turn())[:2] == ([], None)
    with pytest.raises(NotDone, match="There is no destination erp"):
        await remove(workers, "erp")
    assert [row.status for row in await workers.deliveries()] == ["dropped"]
    with pytest.raises(NotDone, match="Destination erp was removed"):
        await change(workers, operations.retry, only)


async def test_a_destination_to_which_a_replay_goes_on_is_not_forgotten(workers):
    await workers.store("A")
    await workers.start()
    with pytest.raises(NotDone, match="to erp has not ended"):
        await remove(workers, "erp")


async def test_a_destination_that_is_forgotten_holds_no_event_up(workers):
    await workers.store("A")
    await workers.register("crm")
    await remove(workers, "crm")
    assert await workers.dispatch({"erp": ["*"], "crm": ["*"]}) == 1
    assert [row.destination for row in await workers.deliveries()] == ["erp"]

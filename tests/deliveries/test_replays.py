import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.deliveries import replays
from app.deliveries.plans import InQuarantine, NotReplayable, Plan, plan
from app.deliveries.queue import lock
from app.deliveries.replays import ReplayHasEnded, advance
from app.deliveries.tables import ReplayStatus
from app.events.ids import new_id
from app.events.queries import EventFilter
from app.events.tables import Status
from tests.deliveries.workers import Workers

REFUSED = {"status": Status.QUARANTINED.value, "reason": "400: Not JSON."}


async def planned(workers: Workers, narrowed: EventFilter | None = None, ids: list[UUID] | None = None) -> Plan:
    async with workers.engine.connect() as connection:
        return await plan(connection, narrowed or EventFilter(), ids)


async def work(workers: Workers, *, seconds: int, status: int = 200) -> list[UUID]:
    """Advances and delivers every tenth of a second. Returns the events in the order in which they were sent."""
    sent = []
    ended: list[Any] = []
    for _ in range(seconds * 10):
        await workers.advance()
        turn = await workers.turn(*ended)
        sent += [claim.event_id for claim in turn.claims]
        ended = [workers.ended(claim, status) for claim in turn.claims]
        workers.wait(0.1)
    await workers.turn(*ended)
    return sent


async def status(workers: Workers) -> str:
    (replay,) = await workers.replays()
    return str(replay.status)


async def test_a_plan_counts_what_would_be_delivered(workers):
    first = workers.now + timedelta(milliseconds=1)
    for event_type in ("ORDER_CREATE", "ORDER_UPDATE", "ORDER_UPDATE", None):
        await workers.store("A", type=event_type)
    last = workers.now
    await workers.store(**REFUSED)
    assert await planned(workers) == Plan(
        events=4,
        types={"ORDER_CREATE": 1, "ORDER_UPDATE": 2, "-": 1},
        oldest=first,
        newest=last,
        quarantined=1,
        erased=0,
    )


async def test_a_plan_of_nothing_is_a_plan(workers):
    assert await planned(workers, EventFilter(type="NOTHING")) == Plan(0, {}, None, None, 0, 0)


async def test_a_plan_is_narrowed_like_a_list_of_events(workers):
    await workers.store("A")
    await workers.store("B")
    assert (await planned(workers, EventFilter(reference="B"))).events == 1
    assert (await planned(workers, EventFilter(since=workers.now))).events == 1


async def test_a_replay_of_a_type_finds_types_and_event_names_in_the_order_of_arrival(workers):
    await workers.register()
    kinds = [("X", None), ("Y", "X"), ("Y", None), ("X", "Y"), ("Y", "X")]
    ids = [await workers.store("A", type=event_type, event_name=name) for event_type, name in kinds]
    await workers.dispatch({"erp": ["NOTHING"]})
    narrowed = EventFilter(type="X")
    assert (await planned(workers, narrowed)).types == {"X": 2, "Y": 2}
    await workers.start(narrowed)
    for _ in range(2):
        await workers.advance()
        workers.wait(0.1)
    assert [row.event_id for row in await workers.deliveries()] == [ids[0], ids[1], ids[3], ids[4]]


async def test_ids_can_be_given_instead(workers):
    ids = [await workers.store() for _ in range(3)]
    assert (await planned(workers, ids=[*ids[:2], ids[0]])).events == 2


async def test_quarantined_events_are_refused_with_the_hint_to_release_them(workers):
    refused = await workers.store(**REFUSED)
    with pytest.raises(InQuarantine):
        await planned(workers, EventFilter(status="quarantined"))
    with pytest.raises(InQuarantine, match="1 of these events are quarantined"):
        await planned(workers, ids=[refused])


async def test_an_id_of_no_event_is_refused(workers):
    with pytest.raises(NotReplayable, match="Unknown event id: "):
        await planned(workers, ids=[await workers.store(), new_id()])


async def test_a_replay_delivers_each_event_once_more_in_the_order_of_arrival_and_is_done(workers):
    ids = [await workers.store("A") for _ in range(5)]
    await workers.store(**REFUSED)
    await workers.start()
    assert await work(workers, seconds=2) == ids
    rows = await workers.deliveries()
    assert {(row.replay_id is None, row.status) for row in rows} == {(False, "delivered")}
    (replay,) = await workers.replays()
    assert (replay.status, replay.events, replay.made, replay.last_event_id) == ("done", 5, 5, ids[-1])
    assert replay.finished_at


async def test_a_replay_of_ids_delivers_those(workers):
    ids = [await workers.store("A") for _ in range(5)]
    await workers.start(ids=[ids[4], ids[1]])
    assert await work(workers, seconds=2) == [ids[1], ids[4]]
    assert await status(workers) == "done"


async def test_events_that_arrive_after_its_start_are_not_a_replays(workers):
    before = await workers.store("A")
    await workers.start()
    workers.wait(1)
    await workers.store("A")
    assert await work(workers, seconds=2) == [before]


async def test_a_replay_makes_no_more_deliveries_than_its_rate(workers):
    for _ in range(60):
        await workers.store()
    await workers.start(rate=10)
    started, made = workers.now, 0
    while (workers.now - started) < timedelta(seconds=4):
        made += (await workers.advance()).made
        await workers.turn(*(workers.ended(claim) for claim in (await workers.turn()).claims))
        assert made <= (workers.now - started).total_seconds() * 10 + 1
        workers.wait(0.05)
    assert made >= 35


async def test_a_replay_slower_than_one_a_second_keeps_its_rate(workers):
    for _ in range(5):
        await workers.store()
    await workers.start(rate=0.1)
    assert len(await work(workers, seconds=25)) == 3


async def test_a_replay_keeps_no_more_open_than_its_rate_gives_in_a_second(workers):
    for _ in range(30):
        await workers.store()
    await workers.start(rate=5)
    await workers.pause(paused=True)
    for _ in range(20):
        await workers.advance()
        workers.wait(1)
    assert len(await workers.deliveries()) == 5
    assert await status(workers) == "running"


async def test_an_advance_that_was_not_committed_is_made_again_and_nothing_twice(workers):
    ids = [await workers.store("A") for _ in range(4)]
    await workers.start(rate=2)
    sent = await work(workers, seconds=1)
    async with workers.engine.connect() as connection:
        assert (await advance(connection, now=workers.now)).made == 1
        await connection.rollback()
    workers.wait(1)
    sent += await work(workers, seconds=5)
    assert sent == ids
    assert await status(workers) == "done"


async def test_a_replay_is_done_only_when_nothing_of_it_is_pending(workers):
    await workers.store("A")
    await workers.start()
    await work(workers, seconds=1, status=500)
    assert await status(workers) == "running"
    for _ in range(2):  # the second time if the last turn above claimed it once more, an attempt that nobody made
        workers.wait(3600)
        await work(workers, seconds=2)
    assert await status(workers) == "done"


async def test_the_beginning_and_the_end_of_a_replay_are_told_of_once_each(workers):
    for _ in range(2):
        await workers.store()
    replay_id = str(await workers.start(rate=1))
    told = []
    for _ in range(6):
        told += (await workers.advance()).news
        claims = (await workers.turn()).claims
        await workers.turn(*(workers.ended(claim) for claim in claims))
        workers.wait(1)
    of_replay = {"replay_id": replay_id, "destination": "erp"}
    assert told == [("replay_started", of_replay | {"rate": 1}), ("replay_ended", of_replay | {"events": 2})]


async def test_a_paused_replay_makes_nothing_until_it_is_resumed(workers):
    ids = [await workers.store() for _ in range(3)]
    replay_id = await workers.start(rate=1)
    await workers.advance()
    await workers.set_replay(replay_id, ReplayStatus.PAUSED)
    workers.wait(10)
    assert await work(workers, seconds=3) == ids[:1]
    await workers.set_replay(replay_id, ReplayStatus.RUNNING)
    assert await work(workers, seconds=5) == ids[1:]
    assert await status(workers) == "done"


async def test_a_cancelled_replay_drops_what_is_not_under_way_and_live_deliveries_go_on(workers):
    for reference in "AAABC":
        await workers.store(reference)
    replay_id = await workers.start()
    await workers.advance()
    (under_way,) = (await workers.turn()).claims
    workers.wait(1)
    await workers.advance()
    await workers.dispatch()
    await workers.set_replay(replay_id, ReplayStatus.CANCELLED)
    assert await status(workers) == "cancelled"
    assert [row.status for row in await workers.deliveries() if row.replay_id] == ["pending"] + ["dropped"] * 4
    claims = (await workers.turn(workers.ended(under_way))).claims
    await workers.leave(*(workers.ended(claim) for claim in claims))
    await work(workers, seconds=1)
    assert [row.status for row in await workers.deliveries()] == ["delivered"] * 6 + ["dropped"] * 4


@pytest.mark.parametrize("ended", [ReplayStatus.PAUSED, ReplayStatus.RUNNING, ReplayStatus.CANCELLED])
async def test_a_replay_that_has_ended_stays_so(workers, ended):
    replay_id = await workers.start()
    await workers.advance()
    assert await status(workers) == "done"
    with pytest.raises(ReplayHasEnded, match=rf"Replay {replay_id} is done\.$"):
        await workers.set_replay(replay_id, ended)


async def test_a_replay_that_is_not_there_is_named(workers):
    with pytest.raises(NotReplayable, match="There is no replay"):
        await workers.set_replay(new_id(), ReplayStatus.PAUSED)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_replays_take_the_locks_of_their_destinations_in_the_order_that_dispatch_does(workers):
    await workers.register("crm")
    await workers.store()
    for destination in ("erp", "crm"):
        await workers.start(destination=destination)
    workers.wait(1)
    async with workers.engine.connect() as dispatching, asyncio.timeout(60):
        await lock(dispatching, "crm")
        advancing = asyncio.create_task(workers.advance())
        await waits_for_lock(dispatching)
        await dispatching.execute(text("SET LOCAL lock_timeout = '1s'"))
        await lock(dispatching, "erp")
        await dispatching.commit()
        assert (await advancing).made == 2


async def waits_for_lock(connection: AsyncConnection) -> None:
    """Waits until a transaction waits for another one."""
    while not await connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_live_event_passes_a_replay_of_its_reference_that_waits_for_its_next_attempt(workers):
    await workers.store("A")
    await workers.dispatch()
    (live,) = (await workers.turn()).claims
    await workers.turn(workers.ended(live))
    await workers.start()
    await workers.advance()
    (replayed,) = (await workers.turn()).claims
    await workers.turn(workers.ended(replayed, 500))
    newer = await workers.store("A")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    assert claim.event_id == newer
    (again,) = (await workers.turn(workers.ended(claim))).claims
    assert again.delivery_id == replayed.delivery_id


async def test_a_live_event_that_came_during_a_replays_attempt_goes_when_that_fails(workers):
    await workers.store("A")
    await workers.dispatch()
    (live,) = (await workers.turn()).claims
    await workers.turn(workers.ended(live))
    await workers.start()
    await workers.advance()
    (replayed,) = (await workers.turn()).claims
    newer = await workers.store("A")
    await workers.dispatch()
    assert (await workers.turn()).claims == []
    (claim,) = (await workers.turn(workers.ended(replayed, 500))).claims
    assert claim.event_id == newer


async def test_a_replay_can_begin_and_end_at_any_time_of_any_zone(workers):
    event_id = await workers.store("A")
    east, west = (timezone(timedelta(hours=hours)) for hours in (14, -14))
    always = EventFilter(since=datetime.min.replace(tzinfo=east), until=datetime.max.replace(tzinfo=west))
    await workers.start(always)
    assert await work(workers, seconds=1) == [event_id]


async def test_a_replay_is_of_what_is_stored_when_it_is_asked_for_whatever_its_clock_says(workers):
    stored = [await workers.store(received_at=workers.now + timedelta(hours=hours)) for hours in (-1, 0, 1)]
    await workers.start()
    await workers.store(received_at=workers.now + timedelta(hours=2))
    for _ in range(2):
        await workers.advance()
        workers.wait(1)
    assert [row.event_id for row in await workers.deliveries()] == stored


async def test_a_replay_leaves_out_what_is_stored_later_although_its_clock_is_ahead(workers):
    stored = await workers.store()
    workers.wait(3600)
    await workers.start()
    workers.wait(-1800)
    await workers.store()
    for _ in range(2):
        await workers.advance()
        workers.wait(1)
    assert [row.event_id for row in await workers.deliveries()] == [stored]


async def test_a_replay_whose_filter_ends_later_leaves_out_what_arrives_after_its_start(workers):
    before = await workers.store("A")
    await workers.start(EventFilter(until=workers.now + timedelta(hours=1)))
    workers.wait(1)
    await workers.store("A")
    assert await work(workers, seconds=2) == [before]


async def test_a_replay_does_not_catch_up_on_more_than_a_second_in_which_nothing_was_made(workers):
    for _ in range(50):
        await workers.store()
    await workers.start(rate=10)
    await work(workers, seconds=1)
    workers.wait(60)
    assert len(await work(workers, seconds=1)) <= 21


async def test_however_fast_a_replay_is_one_transaction_makes_no_more_than_a_batch(workers, monkeypatch):
    monkeypatch.setattr(replays, "BATCH", 5)
    for _ in range(12):
        await workers.store()
    await workers.start(rate=1000)
    made = []
    for _ in range(4):
        made.append((await workers.advance()).made)
        workers.wait(1)
    assert made == [1, 5, 5, 1]

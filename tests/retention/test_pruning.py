"""What is deleted, and what must stay whatever its age."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from app.audit.actors import at_shell
from app.audit.chain import Act, record, verify
from app.audit.tables import Action
from app.audit.tables import Kind as Kinds
from app.database.writing import writing
from app.deliveries import operations
from app.deliveries.operations import NotDone
from app.deliveries.replays import DELETING_LOCK, hold_off_deleting
from app.deliveries.tables import (
    Attempt,
    Delivery,
    DeliveryStatus,
    ReplayEvent,
    ReplayStatus,
)
from app.events.fetches import Fetch, FetchCause, FetchStatus
from app.events.ids import id_floor, made_at, new_id
from app.events.queries import EventFilter
from app.events.tables import DeletedEvent, Event, Status, Undispatched
from app.receiver.release import NotReleased, release
from app.retention import batches
from app.retention.batches import delete_some, is_alone
from app.retention.cutoffs import Kind
from app.retention.kept import kept
from app.retention.plans import plan
from app.retention.pruning import (
    FEWEST,
    HOLDS,
    JUMP,
    MOST,
    TRUSTED_AFTER,
    OtherDeletes,
    Trust,
    differs,
    next_size,
    pruning,
)
from app.settings.retention import RetentionSettings
from tests.deliveries.workers import NOON, Workers
from tests.events.stores import new_event, running
from tests.retention.ages import deleted, prune

DAY = timedelta(days=1)


async def ids(engine, column):
    async with engine.connect() as connection:
        return set(await connection.scalars(select(column)))


async def rows(engine, table):
    async with engine.connect() as connection:
        return int(await connection.scalar(select(func.count()).select_from(table)) or 0)


async def deliver(workers: Workers, *, status: int = 200) -> None:
    """Makes one attempt of all that is due."""
    turn = await workers.turn()
    await workers.turn(
        *(workers.ended(claim, status, answer=b"no" if status >= 300 else None) for claim in turn.claims),
        limits=workers.limits._replace(max_in_flight=0),
    )


@pytest.fixture
async def delivered(workers: Workers):
    """Three events, ten days apart, each delivered at its second attempt."""
    events = []
    for _ in range(3):
        events.append(await workers.store())
        await workers.dispatch()
        async with writing(workers.engine) as connection:  # the id is of the real time otherwise
            this = Delivery.event_id == events[-1]
            await connection.execute(update(Delivery).where(this).values(id=id_floor(workers.now)))
        await deliver(workers, status=500)
        workers.wait(60)
        await deliver(workers)
        workers.wait(10 * 86400 - 60)
    return events


async def test_an_old_event_goes_with_its_deliveries_and_attempts_and_a_younger_one_stays(workers, delivered, engine):
    assert deleted(await prune(engine, workers.now, accepted="15d")) == {"accepted": 2}
    assert await ids(engine, Event.id) == {delivered[2]}
    assert await ids(engine, Delivery.event_id) == {delivered[2]}
    assert await rows(engine, Attempt) == 2


async def test_without_an_age_everything_is_kept(workers, delivered, engine):
    assert deleted(await prune(engine, workers.now + 3650 * DAY)) == {}
    assert await ids(engine, Event.id) == set(delivered)


async def test_deliveries_can_go_before_their_event(workers, delivered, engine):
    assert deleted(await prune(engine, workers.now, deliveries="15d")) == {"deliveries": 2}
    assert await ids(engine, Event.id) == set(delivered)
    assert await ids(engine, Delivery.event_id) == {delivered[2]}
    assert await rows(engine, Attempt) == 2
    assert await workers.dispatch() == 0, "an event whose deliveries were deleted is not delivered again"


async def test_failed_attempts_can_go_before_their_delivery(workers, delivered, engine):
    assert deleted(await prune(engine, workers.now, attempts="15d")) == {"attempts": 4}
    assert await rows(engine, Delivery) == 3
    assert await rows(engine, Attempt) == 2


async def test_an_event_that_is_not_dispatched_stays(workers, engine):
    event = await workers.store()
    assert deleted(await prune(engine, workers.now + 365 * DAY, accepted="1d", deliveries="1d")) == {}
    assert await ids(engine, Undispatched.event_id) == {event}
    assert await ids(engine, Event.id) == {event}


async def test_an_event_with_a_pending_delivery_stays_with_all_its_deliveries(workers, engine):
    await workers.register("crm")
    event = await workers.store()
    await workers.dispatch({"erp": ["*"], "crm": ["*"]})
    await deliver(workers)
    later = workers.now + 365 * DAY
    assert deleted(await prune(engine, later, accepted="1d")) == {}
    assert {row.status for row in await workers.deliveries()} == {"delivered", "pending"}
    assert deleted(await prune(engine, later, accepted="1d", deliveries="1d")) == {"deliveries": 1}
    assert await ids(engine, Event.id) == {event}


async def test_a_dead_delivery_keeps_its_event_until_a_person_drops_it(workers, engine):
    event = await workers.store()
    await workers.dispatch()
    async with writing(engine) as connection:
        dead = {"status": DeliveryStatus.DEAD.value, "due_at": None, "finished_at": workers.now}
        await connection.execute(update(Delivery).values(dead))
    for replay_id in (new_id(), None):
        async with writing(engine) as connection:
            await connection.execute(update(Delivery).values(replay_id=replay_id))
            assert await kept(connection, [event]) == {event}
    later = workers.now + 365 * DAY
    assert deleted(await prune(engine, later, accepted="1d", deliveries="1d", attempts="1d")) == {}
    assert await ids(engine, Event.id) == {event}
    (delivery,) = await workers.deliveries()
    async with writing(engine) as connection:
        await operations.drop(connection, delivery.id, now=workers.now)
    assert deleted(await prune(engine, later, accepted="1d")) == {"accepted": 1}
    assert await rows(engine, Delivery) == 0


@pytest.mark.parametrize("status", [ReplayStatus.RUNNING, ReplayStatus.PAUSED])
async def test_what_a_replay_has_still_ahead_stays(workers, delivered, engine, status):
    of_filter = await workers.start(EventFilter(until=workers.now - 25 * DAY))
    of_ids = await workers.start(ids=[delivered[1]])
    for replay_id in (of_filter, of_ids):
        if status is ReplayStatus.PAUSED:
            await workers.set_replay(replay_id, status)
    later = workers.now + 365 * DAY
    assert deleted(await prune(engine, later, accepted="1d")) == {"accepted": 1}
    assert await ids(engine, Event.id) == set(delivered[:2])


async def test_a_replay_that_has_ended_goes_with_its_deliveries(workers, delivered, engine):
    await workers.start(ids=delivered)
    while (await workers.replays())[0].status != ReplayStatus.DONE.value:
        await workers.advance()
        await deliver(workers)
        workers.wait(1)
    later = workers.now + 365 * DAY
    assert deleted(await prune(engine, later, deliveries="1d")) == {"deliveries": 6, "replays": 1}
    assert await rows(engine, ReplayEvent) == 0
    assert await ids(engine, Event.id) == set(delivered)


async def test_a_notification_stays_until_its_order_is_fetched(workers, delivered, engine):
    one, two = new_id(), new_id()
    async with writing(engine) as connection:
        fetches = [
            {"id": one, "reference": "A", "due_at": workers.now},
            {"id": two, "reference": "B", "due_at": workers.now},
        ]
        await connection.execute(insert(Fetch), fetches)
        causes = [{"event_id": delivered[0], "fetch_id": one}, {"event_id": delivered[1], "fetch_id": two}]
        await connection.execute(insert(FetchCause), causes)
        await connection.execute(update(Fetch).where(Fetch.id == two).values(status=FetchStatus.DONE.value))
    assert deleted(await prune(engine, workers.now + 365 * DAY, accepted="1d")) == {"accepted": 2}
    assert await ids(engine, Event.id) == {delivered[0]}
    assert await ids(engine, Fetch.id) == {one}


async def test_quarantined_events_have_an_age_of_their_own(workers, engine):
    refused = await workers.store(status=Status.QUARANTINED.value, reason="415")
    accepted = await workers.store()
    later = workers.now + 30 * DAY
    assert deleted(await prune(engine, later, quarantined="20d", accepted="40d")) == {"quarantined": 1}
    assert await ids(engine, Event.id) == {accepted}
    assert await ids(engine, DeletedEvent.event_id) == {refused}


async def test_a_copy_of_a_deleted_event_is_counted_and_not_stored(workers, database_url, engine):
    event = new_event("again", received_at=workers.now)
    async with running(database_url) as store:
        await store.append(event)
    await workers.dispatch()
    await deliver(workers)
    later = workers.now + 100 * DAY
    assert deleted(await prune(engine, later, accepted="90d")) == {"accepted": 1}
    async with running(database_url) as store:
        copies = [new_event("again", received_at=later + n * DAY) for n in range(3)]
        answers = [await store.append(copies[0]), *await asyncio.gather(*map(store.append, copies[1:]))]
        other = await store.append(new_event("other"))
    assert {(each.id, each.duplicate) for each in answers} == {(event.id, True)}
    assert await ids(engine, Event.id) == {other.id}
    async with engine.connect() as connection:
        (row,) = (await connection.execute(select(*DeletedEvent.__table__.columns))).all()
    assert (row.event_id, row.deleted_at, row.duplicates) == (event.id, later, 3)
    assert row.last_duplicate_at == later + 2 * DAY


async def test_the_key_of_a_deleted_event_goes_after_its_own_age(workers, delivered, database_url, engine):
    later = workers.now + 100 * DAY
    await prune(engine, later, accepted="90d")
    assert deleted(await prune(engine, later + 29 * DAY, accepted="90d")) == {}
    assert await rows(engine, DeletedEvent) == 3
    assert deleted(await prune(engine, later + 29 * DAY, copies="20d")) == {"copies": 3}
    assert await rows(engine, DeletedEvent) == 0


async def test_an_event_that_can_have_no_more_copies_leaves_no_key(workers, engine):
    await workers.store(shape="notification")
    await workers.store(shape="notification", notification_id="n")
    await workers.dispatch()
    await deliver(workers)
    assert deleted(await prune(engine, workers.now + 2 * DAY, accepted="1d")) == {"accepted": 2}
    assert await rows(engine, DeletedEvent) == 1


async def test_the_plan_counts_what_is_deleted_and_says_why_the_rest_stays(workers, delivered, engine):
    ages = RetentionSettings.model_validate(dict.fromkeys(("accepted", "deliveries", "attempts", "quarantined"), "1d"))
    await workers.start(ids=[delivered[1]])
    await workers.store()
    await workers.dispatch()
    await workers.store()
    later = workers.now + 365 * DAY
    async with engine.connect() as connection:
        planned = await plan(connection, ages, now=later)
    assert {str(kind): each.rows for kind, each in planned.items() if each.rows} == {
        "attempts": 6,
        "deliveries": 3,
        "accepted": 2,
    }
    assert planned[Kind.ACCEPTED].kept == {"not dispatched": 1, "pending": 1, "in a replay": 1}
    counted = await prune(engine, later, accepted="1d", deliveries="1d", attempts="1d", quarantined="1d")
    assert {kind: counted[kind] for kind in planned} == {kind: each.rows for kind, each in planned.items()}


async def test_one_process_deletes_at_a_time_and_not_while_a_replay_begins(workers, delivered, engine):
    if engine.dialect.name == "sqlite":
        return  # it has one writer
    async with engine.connect() as other:
        await other.execute(text(f"SELECT pg_advisory_xact_lock({DELETING_LOCK})"))
        with pytest.raises(OtherDeletes):
            await prune(engine, workers.now, accepted="1d")
    async with engine.connect() as other:
        await hold_off_deleting(other)
        async with engine.connect() as connection:
            assert not await is_alone(connection)
    assert await ids(engine, Event.id) == set(delivered)


async def test_a_row_that_another_transaction_changes_is_left_for_the_next_time(workers, delivered, engine):
    if engine.dialect.name == "sqlite":
        return  # it has one writer
    async with engine.connect() as other:
        await other.execute(update(Event).where(Event.id == delivered[0]).values(duplicates=1))
        assert deleted(await prune(engine, workers.now + DAY, accepted="1d")) == {"accepted": 2}
        await other.commit()
    assert deleted(await prune(engine, workers.now + DAY, accepted="1d")) == {"accepted": 1}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_an_event_whose_delivery_another_transaction_changes_is_left_for_the_next_time(
    workers, delivered, engine
):
    async with engine.connect() as other:
        await other.execute(update(Delivery).where(Delivery.event_id == delivered[0]).values(attempts=7))
        assert deleted(await prune(engine, workers.now + DAY, accepted="1d")) == {"accepted": 2}
        await other.commit()
    assert await ids(engine, Event.id) == {delivered[0]}
    assert deleted(await prune(engine, workers.now + DAY, accepted="1d")) == {"accepted": 1}


async def test_many_rows_take_many_transactions(workers, engine):
    async with writing(engine) as connection:
        events = [
            new_event(f"many-{number}", received_at=workers.now + timedelta(seconds=number))._asdict()
            for number in range(3 * FEWEST)
        ]
        known = [{name: value for name, value in event.items() if value is not None} for event in events]
        await connection.execute(insert(Event), known)
    while await workers.dispatch({}):
        pass
    assert deleted(await prune(engine, workers.now + 2 * DAY, accepted="1d")) == {"accepted": 3 * FEWEST}


def test_the_size_of_a_transaction_follows_the_time_that_it_takes():
    assert next_size(100, HOLDS) == 100
    assert next_size(100, HOLDS / 2) == 200
    assert next_size(100, HOLDS / 1000) == 200, "it grows step by step"
    assert next_size(1000, HOLDS * 4) == 250
    assert next_size(100, HOLDS * 1000) == FEWEST
    assert next_size(MOST, 0.0) == MOST


async def test_a_worker_deletes_by_itself_and_logs_how_many(workers, delivered, engine, caplog):
    ages = RetentionSettings.model_validate({"accepted": "1h"})
    async with asyncio.timeout(30), engine.connect() as connection:
        with caplog.at_level("INFO"):
            async with pruning(engine, ages, first_after=0.0):
                while "pruned" not in caplog.messages:  # noqa: ASYNC110 - a log line cannot be awaited
                    await asyncio.sleep(0.01)
        left = (await connection.scalars(select(Event.id))).all()
    (record,) = [record for record in caplog.records if record.message == "pruned"]
    assert record.fields["deleted"] == {"accepted": 3 - len(left)}
    assert set(left) == {event for event in delivered if made_at(event) > datetime.now(UTC) - timedelta(hours=1)}


async def test_without_ages_a_worker_deletes_nothing(workers, delivered, engine):
    async with pruning(engine, None):
        assert await ids(engine, Event.id) == set(delivered)


async def test_old_entries_of_the_audit_go_and_the_rest_can_be_verified(workers, engine):
    for number in range(3):
        async with writing(engine) as connection:
            act = Act(action=Action.PAUSE, kind=Kinds.DESTINATION)
            await record(connection, at_shell(), act, now=workers.now + number * 10 * DAY)
    later = workers.now + 100 * DAY
    assert deleted(await prune(engine, later, audit="95d")) == {"audit": 1}
    async with engine.connect() as connection:
        assert (await verify(connection)).rows == 2
    assert deleted(await prune(engine, later, audit="1d")) == {"audit": 1}, "the newest one stays"


async def test_a_copy_that_arrives_while_its_event_is_deleted_waits_for_nothing_and_is_a_copy(
    workers, database_url, engine
):
    if engine.dialect.name == "sqlite":
        return  # it has one writer
    event = new_event("again", received_at=workers.now)
    async with running(database_url) as store:
        await store.append(event)
        await workers.dispatch()
        await deliver(workers)
        later = workers.now + 100 * DAY
        step = {"before": workers.now + DAY, "after": None, "most": 10, "now": later}
        for looked, deleted_ in ((1, 0), (1, 1)):
            async with writing(engine) as connection:
                assert await is_alone(connection)
                batch = await delete_some(connection, Kind.ACCEPTED, **step)
                async with asyncio.timeout(20):
                    copy = await store.append(new_event("again", received_at=later))
            assert (batch.looked, batch.deleted) == (looked, deleted_)
            assert (copy.id, copy.duplicate) == (event.id, True)
    assert await ids(engine, Event.id) == set()
    assert await ids(engine, DeletedEvent.event_id) == {event.id}


async def test_an_event_that_is_put_to_use_before_it_is_deleted_stays_and_leaves_no_key(workers, delivered, engine):
    if engine.dialect.name == "sqlite":
        return  # it has one writer
    step = {"before": workers.now, "after": None, "most": 10, "now": workers.now}
    async with writing(engine) as connection:
        await delete_some(connection, Kind.ACCEPTED, **step)
        assert await connection.scalar(select(func.count()).select_from(DeletedEvent)) == 3
    await workers.start(ids=[delivered[0]])
    async with writing(engine) as connection:
        await delete_some(connection, Kind.ACCEPTED, **step)
    assert await ids(engine, Event.id) == {delivered[0]}
    assert await ids(engine, DeletedEvent.event_id) == set(delivered[1:])


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_an_event_that_is_put_to_use_just_before_it_is_locked_stays(workers, delivered, engine, monkeypatch):
    step = {"before": workers.now, "after": None, "most": 10, "now": workers.now}
    async with writing(engine) as connection:
        await delete_some(connection, Kind.ACCEPTED, **step)  # only the keys
    looks: list[object] = []

    async def look(connection, ids):
        found = await kept(connection, ids)
        if not looks:
            await workers.start(ids=[delivered[0]])
        looks.append(ids)
        return found

    monkeypatch.setattr(batches, "kept", look)
    async with writing(engine) as connection:
        await delete_some(connection, Kind.ACCEPTED, **step)
    assert len(looks) == 2
    assert await ids(engine, Event.id) == {delivered[0]}


async def test_a_notification_stays_until_the_order_that_was_fetched_for_it_is_dispatched(workers, delivered, engine):
    order = await workers.store()
    async with writing(engine) as connection:
        fetch = {"id": new_id(), "reference": "A", "due_at": workers.now, "status": "done", "snapshot_id": order}
        await connection.execute(insert(Fetch), fetch)
        await connection.execute(insert(FetchCause), {"event_id": delivered[0], "fetch_id": fetch["id"]})
    await prune(engine, workers.now + 365 * DAY, accepted="1d")
    assert await ids(engine, Event.id) == {delivered[0], order}


def test_a_clock_that_was_set_says_for_a_day_not_what_is_old():
    trust, now, elapsed = Trust(), NOON, timedelta(hours=5)
    hour = timedelta(hours=1)
    assert trust.holds(now, elapsed=elapsed)
    assert trust.holds(now + hour, elapsed=elapsed + hour)
    assert trust.holds(now + 2 * hour + JUMP, elapsed=elapsed + 2 * hour), "it may go a little wrong"
    ahead = now + 365 * DAY
    assert not trust.holds(ahead + 3 * hour, elapsed=elapsed + 3 * hour)
    assert not trust.holds(ahead + 4 * hour, elapsed=elapsed + 4 * hour)
    assert not trust.holds(now + 5 * hour, elapsed=elapsed + 5 * hour), "it was set right"
    assert trust.holds(now + 5 * hour + TRUSTED_AFTER, elapsed=elapsed + 5 * hour + TRUSTED_AFTER)


async def test_a_clock_that_differs_from_the_servers_is_noticed(engine):
    now = datetime.now(UTC)
    assert await differs(engine, now=now) is None
    found = await differs(engine, now=now + 365 * DAY)
    assert (found is None) == (engine.dialect.name == "sqlite")


async def waiting_for_a_lock(engine) -> None:
    query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    while True:
        async with engine.connect() as connection:
            if await connection.scalar(query):
                return


async def test_what_is_deleted_at_this_moment_is_neither_retried_nor_released(workers, engine):
    if engine.dialect.name == "sqlite":
        return  # it has one writer
    await workers.store()
    await workers.dispatch()
    (delivery,) = await workers.deliveries()
    refused = await workers.store(status=Status.QUARANTINED.value, reason="415", body=order())

    async def retry() -> None:
        async with writing(engine) as connection:
            await operations.retry(connection, delivery.id, now=workers.now)

    async def let_go() -> None:
        async with writing(engine) as connection:
            await release(connection, refused, usernames={}, limit=10_000, now=workers.now)

    for act, table, problem in ((retry, Delivery, NotDone), (let_go, Event, NotReleased)):
        async with asyncio.timeout(60):
            async with writing(engine) as connection:
                await connection.execute(delete(table))
                task = asyncio.ensure_future(act())
                await waiting_for_a_lock(engine)
            with pytest.raises(problem, match=r"There is no delivery|was deleted"):
                await task


def order() -> bytes:
    return b'{"data": {"kind": "order", "order": {"order_reference": "PRI1", "order_version": 1}}}'

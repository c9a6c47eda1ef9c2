from datetime import timedelta
from hashlib import sha256
from uuid import UUID

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError

from app.database.writing import writing
from app.deliveries import operations
from app.deliveries.dispatch import Wanted, add
from app.deliveries.operations import BeingSent, NotDone
from app.deliveries.plans import WereErased, plan
from app.deliveries.queue import lock
from app.deliveries.tables import Attempt, Delivery
from app.events.fetches import Fetch
from app.events.ids import new_id
from app.events.queries import EventFilter, get_event
from app.events.tables import Event
from app.receiver.release import NotReleased, release
from app.reconciliation import fetching
from app.retention import contacts, erasing, wiping
from app.retention.erasing import ErasedBody, Undelivered, erase
from tests.events.stores import new_event, running

BODY = b'{"guest": "Jan de Vries"}'
ID = "0d8b9a7e-5f0b-4c5d-9f35-3f6a1d6f7c11"


async def erased(workers, *ids: UUID, drop: bool = False):
    async with writing(workers.engine) as connection:
        return await erase(connection, ids, drop=drop, now=workers.now)


async def stored(workers, event_id: UUID):
    async with workers.engine.connect() as connection:
        event = await get_event(connection, event_id)
    assert event is not None
    return event


@pytest.fixture
async def delivered(workers):
    """An event that was delivered at its second attempt."""
    event = await workers.store("A", body=BODY, body_bytes=len(BODY), headers=b"x-guest: Jan\r\ncontent-type: a/b")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 500, answer=b"Jan is unknown", error="Jan"))
    workers.wait(86400)
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 200, answer=b"welcome, Jan"))
    return event


async def test_body_headers_and_answers_go_and_ids_times_type_and_hash_stay(workers, delivered):
    before = await stored(workers, delivered)
    done = await erased(workers, delivered)
    assert done.bodies == [ErasedBody(delivered, sha256(BODY).hexdigest())]
    assert (done.bytes, done.answers, done.dropped) == (len(BODY), 2, 0)
    after = await stored(workers, delivered)
    assert (after.body, after.headers, after.erased_at) == (b"", [["content-type", "a/b"]], workers.now)
    kept = ("id", "received_at", "client", "status", "type", "reference", "body_bytes", "dedup_key", "duplicates")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert [(row.status, row.result, row.error, row.answer) for row in await workers.attempts()] == [
        (500, "refused", None, None),
        (200, "delivered", None, None),
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_bytes_are_gone_before_a_vacuum(workers, tmp_path):
    event = await workers.store("A", body=BODY * 1000, body_bytes=1000 * len(BODY))
    async with writing(workers.engine) as connection:
        await connection.execute(text("PRAGMA secure_delete = OFF"))  # which some builds of SQLite have on
        await erase(connection, [event], drop=True, now=workers.now)
    log = tmp_path / "priohook.db-wal"
    assert BODY in log.read_bytes()
    async with workers.engine.connect() as other:  # as a receiver has: the last one to close would empty the log
        await other.execute(text("SELECT 1"))
        await other.rollback()
        assert await wiping.empty_log(workers.engine)
        assert BODY not in log.read_bytes()
    assert BODY not in (tmp_path / "priohook.db").read_bytes()


async def test_the_first_answer_of_a_delivery_goes_too(workers):
    event = await workers.store("A")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 200, answer=b"welcome, Jan"))
    assert (await erased(workers, event)).answers == 1
    assert [(row.status, row.answer) for row in await workers.attempts()] == [(200, None)]


async def test_an_attempt_of_an_old_release_keeps_its_result(workers, delivered):
    async with writing(workers.engine) as connection:
        await connection.execute(update(Attempt).values(result=None, status=None, error="Connection refused by Jan."))
    await erased(workers, delivered)
    attempts = {(row.result, row.error) for row in await workers.attempts()}
    assert attempts == {("refused", None)}  # by the answer that was kept of each


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({"notification_id": ID}, (None, ID)),
        ({"notification_id": "jan@example.com"}, (None, None)),
        ({"status": "quarantined", "reason": "422: In detail: Jan."}, ("422: Erased.", None)),
        ({"status": "quarantined", "reason": "It is a copy of event 1. 415: Jan."}, ("415: Erased.", None)),
    ],
)
async def test_texts_that_a_sender_wrote_go_unless_they_are_ids(workers, columns, kept):
    event = await workers.store(**columns)
    await erased(workers, event, drop=True)
    after = await stored(workers, event)
    assert (after.reason, after.notification_id) == kept


async def test_what_is_not_delivered_is_dropped_only_on_demand(workers):
    event, next_one = await workers.store("A"), await workers.store("A")
    await workers.dispatch()
    with pytest.raises(Undelivered, match="1"):
        await erased(workers, event)
    assert (await stored(workers, event)).erased_at is None
    assert (await erased(workers, event, drop=True)).dropped == 1
    (claim,) = (await workers.turn()).claims
    assert claim.event_id == next_one


async def test_a_dead_delivery_is_dropped_too(workers):
    event = await workers.store("A")
    await workers.dispatch()
    async with writing(workers.engine) as connection:
        await connection.execute(update(Delivery).values(status="dead", due_at=None, finished_at=workers.now))
    assert (await erased(workers, event, drop=True)).dropped == 1
    assert [row.status for row in await workers.deliveries()] == ["dropped"]


async def test_an_event_that_is_being_sent_is_not_erased(workers):
    event = await workers.store("A")
    await workers.dispatch()
    await workers.turn()
    with pytest.raises(BeingSent):
        await erased(workers, event, drop=True)
    assert (await stored(workers, event)).body != b""


async def test_an_answer_that_comes_after_the_erasure_is_not_kept(workers):
    event = await workers.store("A")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    workers.wait(3600)  # the claim has run out, but its worker goes on
    await erased(workers, event, drop=True)
    await workers.turn(workers.ended(claim, 500, answer=b"Jan", error="Jan"))
    assert [(row.result, row.error, row.answer) for row in await workers.attempts()] == [("refused", None, None)]


async def test_an_event_that_waits_for_dispatch_is_never_dispatched(workers):
    event = await workers.store("A")
    with pytest.raises(Undelivered):
        await erased(workers, event)
    await erased(workers, event, drop=True)
    assert (await workers.dispatch(), await workers.deliveries()) == (0, [])


async def test_without_destinations_nothing_is_undelivered(engine):
    event = new_event("a")
    async with writing(engine) as connection:
        await connection.execute(insert(Event), event._asdict())
        assert (await erase(connection, [event.id], drop=False, now=event.received_at)).dropped == 0


async def test_a_later_copy_is_a_copy_and_its_bytes_are_not_stored(workers, database_url):
    first = new_event("a")
    async with running(database_url) as store:
        await store.append(first)
        await erased(workers, first.id, drop=True)
        again = await store.append(first._replace(id=new_id()))
    assert (again.id, again.duplicate) == (first.id, True)
    after = await stored(workers, first.id)
    assert (after.body, after.duplicates) == (b"", 1)


async def test_a_second_erasure_takes_nothing_and_keeps_the_first_hash(workers, delivered):
    await erased(workers, delivered)
    workers.wait(60)
    assert (await erased(workers, delivered)).bodies == []
    after = await stored(workers, delivered)
    assert after.erased_at is not None
    assert after.erased_at < workers.now


async def test_a_delivery_that_was_made_meanwhile_is_never_sent_and_holds_nothing_back(workers):
    event, next_one = await workers.store("A"), await workers.store("A")
    await erased(workers, event, drop=True)
    async with writing(workers.engine) as connection:
        await lock(connection, "erp")
        await add(connection, "erp", [Wanted(event, "A")], replay_id=None, now=workers.now)
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    assert claim.event_id == next_one
    assert {row.event_id: row.status for row in await workers.deliveries()}[event] == "dropped"


async def test_a_dropped_delivery_of_an_erased_event_is_not_retried(workers):
    event = await workers.store("A")
    await workers.dispatch()
    await erased(workers, event, drop=True)
    (delivery,) = await workers.deliveries()
    with pytest.raises(NotDone, match="was erased"):
        async with writing(workers.engine) as connection:
            await operations.retry(connection, delivery.id, now=workers.now)


async def test_a_replay_leaves_erased_events_out(workers, delivered):
    other = await workers.store("B")
    await workers.dispatch()
    started = [await workers.start(), await workers.start(ids=[delivered, other])]
    await erased(workers, delivered)
    while (await workers.advance()).made:
        workers.wait(1)
    replayed = {row.event_id for row in await workers.deliveries() if row.replay_id in started}
    assert replayed == {other}
    async with workers.engine.connect() as connection:
        planned = await plan(connection, EventFilter())
        assert (planned.events, planned.erased) == (1, 1)
        with pytest.raises(WereErased, match="1 of these"):
            await plan(connection, EventFilter(), [delivered, other])


async def test_a_quarantined_event_that_was_erased_is_not_released(workers):
    event = await workers.store(status="quarantined", reason="415: not JSON")
    await erased(workers, event)
    with pytest.raises(NotReleased, match="was erased"):
        async with writing(workers.engine) as connection:
            await release(connection, event, usernames={}, limit=1000, now=workers.now)


@pytest.mark.parametrize(
    "change",
    [
        {"body": b"other"},
        {"headers": b""},
        {"client": "other"},
        {"body_bytes": 1},
        {"body": b"", "headers": b""},
    ],
    ids=" ".join,
)
async def test_the_database_refuses_to_change_what_arrived(workers, change):
    await workers.store("A")
    with pytest.raises(DBAPIError, match="UPDATE of events is refused"):
        async with writing(workers.engine) as connection:
            await connection.execute(update(Event).values(**change))


async def test_the_database_refuses_to_give_an_erased_event_another_body(workers, delivered):
    await erased(workers, delivered)
    for change in ({"body": BODY}, {"body": BODY, "erased_at": None}, {"body": b"", "erased_at": workers.now}):
        with pytest.raises(DBAPIError, match="UPDATE of events is refused"):
            async with writing(workers.engine) as connection:
                await connection.execute(update(Event).values(**change))


async def test_the_events_of_an_order_are_found(workers):
    events = [await workers.store("A"), await workers.store("A")]
    await workers.store("B")
    async with workers.engine.connect() as connection:
        assert await erasing.of_reference(connection, "A") == events
        planned = await erasing.plan(connection, [*events, new_id()])
    assert planned == (events, 0, 2)


async def test_erased_bytes_are_overwritten_on_sqlite(workers, delivered, sqlite_url, tmp_path):
    if workers.engine.dialect.name != "sqlite":
        return
    await erased(workers, delivered)
    async with workers.engine.connect() as connection:
        assert await connection.scalar(text("PRAGMA secure_delete")) == 1
        await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        assert await connection.scalar(select(Event.body)) == b""
    assert b"Jan" not in (tmp_path / "priohook.db").read_bytes()


async def test_bodies_are_read_a_few_at_a_time(workers, monkeypatch):
    monkeypatch.setattr(contacts, "BYTES_AT_ONCE", 10)
    bodies = [b"x" * 8, b"y" * 4, b"z" * 20, b""]
    events = [await workers.store(body=body, body_bytes=len(body)) for body in bodies]
    done = await erased(workers, *events, drop=True)
    hashes = [sha256(body).hexdigest() for body in bodies]
    assert done.bodies == [ErasedBody(*pair) for pair in zip(events, hashes, strict=True)]
    assert done.bytes == 32


@pytest.mark.parametrize("under_way", [False, True])
async def test_an_order_that_is_fetched_because_of_erased_events_alone_is_not_stored(workers, under_way):
    event = await workers.store("PRI1", type="ORDER_UPDATE", shape="notification")
    await workers.dispatch(thin={"erp": "snapshot"})
    workers.wait(10)
    claim = None
    if under_way:
        async with writing(workers.engine) as connection:
            lease = timedelta(seconds=60)
            claim = await fetching.claim(connection, worker="one", rate=5.0, lease=lease, now=workers.now)
    await erased(workers, event, drop=True)
    async with writing(workers.engine) as connection:
        assert (await connection.scalars(select(Fetch.id))).all() == []
        assert claim is None or not await fetching.is_held(connection, claim)


async def test_why_a_fetch_failed_goes_too(workers):
    event = await workers.store("PRI1", type="ORDER_UPDATE", shape="notification")
    await workers.dispatch(thin={"erp": "snapshot"})
    async with writing(workers.engine) as connection:
        await connection.execute(update(Fetch).values(status="refused", error="No order of Jan."))
    await erased(workers, event, drop=True)
    async with workers.engine.connect() as connection:
        assert (await connection.scalars(select(Fetch.error))).all() == [None]


async def test_a_vacuum_that_fails_is_told_in_the_receipt(workers, monkeypatch, caplog):
    monkeypatch.setattr(wiping, "TABLES", "no_such_table")
    async with workers.engine.connect() as other:
        if workers.engine.dialect.name == "sqlite":
            await workers.store()
            await other.execute(text("PRAGMA busy_timeout = 1"))
            await other.execute(text("BEGIN IMMEDIATE"))
        assert not await wiping.vacuum(workers.engine)
    assert "vacuum_failed" in caplog.messages

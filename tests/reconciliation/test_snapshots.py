import json

import pytest
from sqlalchemy import delete, select

from app.database.writing import writing
from app.events.ids import new_id
from app.events.queries import get_event
from app.events.rows import Stored
from app.events.tables import Undispatched
from app.prioticket.identity import accepted_key
from app.prioticket.messages import FetchedOrder
from app.prioticket.payloads import parse_payload
from app.reconciliation.snapshots import Cause, Snapshot, client_of, store_snapshot
from tests.deliveries.workers import Workers
from tests.events.stores import new_event, running

ORDER = {"order_reference": "PRI1", "order_version": 3, "order_status": "ORDER_CONFIRMED"}
BODY = json.dumps({"api_version": "3.8", "data": {"kind": "order", "order": ORDER}}).encode()
USERNAMES = {"prioticket": "prio"}


def fetched(body=BODY):
    return FetchedOrder(body, "application/json; charset=utf-8", json.loads(body)["data"]["order"])


def webhook(username="prio", body=BODY):
    """The same bytes, as a client sends them."""
    key = accepted_key(username, body, parse_payload(body))
    return new_event("webhook", body=body, dedup_key=key, reference="PRI1", type="ORDER_CONFIRMED", shape="object")


async def store(engine, cause=None, *, body=BODY):
    async with writing(engine) as connection:
        cause = cause or Cause(fetched_for="reconcile 1")
        return await store_snapshot(connection, fetched(body), cause, client="prioticket", usernames=USERNAMES)


async def read(engine, event_id):
    async with engine.connect() as connection:
        event = await get_event(connection, event_id)
        assert event is not None
        return event


async def undispatched(engine):
    async with engine.connect() as connection:
        return set(await connection.scalars(select(Undispatched.event_id)))


async def test_a_snapshot_is_an_event_with_the_exact_bytes_of_the_answer(engine):
    cause = Cause(new_id(), event_name="ORDER_UPDATE")
    snapshot = await store(engine, cause)
    event = await read(engine, snapshot.id)
    assert snapshot.new
    assert (event.body, event.body_bytes, event.headers) == (
        BODY,
        len(BODY),
        [["content-type", "application/json; charset=utf-8"]],
    )
    assert (event.origin, event.cause, event.fetched_for, event.client) == (
        "fetched",
        cause.event_id,
        None,
        "prioticket",
    )
    assert (event.type, event.event_name, event.reference) == ("ORDER_CONFIRMED", "ORDER_UPDATE", "PRI1")
    assert (event.order_version, event.shape, event.status) == (3, "object", "accepted")
    assert await undispatched(engine) == {snapshot.id}


async def test_the_same_answer_twice_is_one_event(engine):
    first = await store(engine)
    assert await store(engine, Cause(new_id())) == Snapshot(first.id, new=False)
    event = await read(engine, first.id)
    assert (event.origin, event.duplicates) == ("fetched", 0)


async def test_a_webhook_with_the_bytes_of_a_snapshot_is_a_copy_of_it(database_url, engine):
    snapshot = await store(engine)
    async with running(database_url) as events:
        assert await events.append(webhook()) == Stored(snapshot.id, duplicate=True)
    event = await read(engine, snapshot.id)
    assert (event.origin, event.duplicates) == ("both", 1)


async def test_an_order_that_was_received_is_linked_and_not_stored_again(database_url, engine):
    received, cause = webhook(), Cause(new_id())
    async with running(database_url) as events:
        await events.append(received)
    assert await store(engine, cause) == Snapshot(received.id, new=False)
    event = await read(engine, received.id)
    assert (event.origin, event.cause, event.duplicates) == ("both", cause.event_id, 0)


async def test_the_same_bytes_from_another_username_are_an_event_of_their_own(database_url, engine):
    snapshot = await store(engine)
    other = webhook("another")
    async with running(database_url) as events:
        assert await events.append(other) == Stored(other.id, duplicate=False)
    assert (await read(engine, snapshot.id)).origin == "fetched"


async def test_a_snapshot_that_is_received_later_is_dispatched_again_but_delivered_once(database_url, engine):
    workers = Workers(engine)
    await workers.register()
    snapshot = await store(engine, Cause(new_id()))
    await workers.dispatch()
    async with running(database_url) as events:
        await events.append(webhook())
        await events.append(webhook())
    assert await undispatched(engine) == {snapshot.id}
    await workers.dispatch()
    assert [delivery.event_id for delivery in await workers.deliveries()] == [snapshot.id]


async def test_a_snapshot_of_no_notification_is_dispatched_again_only_if_it_was_delivered_to_nobody(
    database_url, engine
):
    """A worker of the previous release would make the same deliveries again, which the index refuses for ever."""
    workers = Workers(engine)
    await workers.register()
    snapshot = await store(engine)
    delivered = await workers.dispatch()
    async with running(database_url) as events:
        await events.append(webhook())
    assert (delivered, await undispatched(engine)) == (1, set())
    other = json.dumps({"data": {"kind": "order", "order": ORDER | {"order_reference": "PRI2"}}}).encode()
    kept = await store(engine, body=other)
    async with writing(engine) as connection:
        await connection.execute(delete(Undispatched))
    async with running(database_url) as events:
        await events.append(webhook(body=other))
    assert await undispatched(engine) == {kept.id} != {snapshot.id}


async def test_a_delivery_tells_that_its_event_was_fetched_and_why(engine):
    workers, cause = Workers(engine), Cause(new_id())
    await workers.register()
    await store(engine, cause)
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    assert (claim.origin, claim.cause) == ("fetched", cause.event_id)


@pytest.mark.parametrize(("stored", "client"), [(["a", "b"], "b"), ([], None)])
async def test_the_newest_event_of_a_reference_tells_the_client(engine, stored, client):
    workers = Workers(engine)
    for name in stored:
        await workers.store("PRI1", client=name)
    async with engine.connect() as connection:
        assert await client_of(connection, "PRI1") == client

"""Stores orders that were fetched from Prioticket as events."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import case, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.events.fetches import lock_fetches
from app.events.ids import go_on_after, made_at, new_id
from app.events.rows import NewEvent, old_keys
from app.events.tables import DeletedEvent, Event, Origin, Status
from app.prioticket.identity import accepted_key
from app.prioticket.messages import FetchedOrder
from app.prioticket.payloads import parse_payload
from app.reconciliation.erased import refuse_erased


class Cause(NamedTuple):
    """Why an order was fetched: because of a notification, or for another reason in words.

    Attributes:
        event_id: The notification.
        event_name: The name under which the notification announced the change.
        fetched_for: Such as `reconcile` and the run's id.
    """

    event_id: UUID | None = None
    event_name: str | None = None
    fetched_for: str | None = None


class Snapshot(NamedTuple):
    """The event that holds the order. `new` is False if it was stored before."""

    id: UUID
    new: bool


async def store_snapshot(
    connection: AsyncConnection, fetched: FetchedOrder, cause: Cause, *, client: str, usernames: Mapping[str, str]
) -> Snapshot:
    """Stores the exact bytes of an answer as an event, or links the event that holds them already. Does not commit.

    Of an event that was deleted for its age nothing is stored again.

    The triggers on `events` then let it be dispatched, as any event. A webhook with the same bytes is a copy of it, in
    whichever order they arrive; the event's origin is then `both`.

    Args:
        connection: In a transaction that may write.
        fetched: The order.
        cause: Why it was fetched.
        client: The client in whose name it is stored: only this client's webhooks can be copies.
        usernames: By client.

    Raises:
        OrderErased: events of the order were erased.
        NoEnvelope: the answer has none, which `FetchedOrder` rules out.
    """
    payload = parse_payload(fetched.body)
    if payload.reference is not None:
        await lock_fetches(connection)  # an erasure holds this lock too
        await refuse_erased(connection, payload.reference)
        await _go_on_after(connection, payload.reference)
    event_id = new_id()
    event = NewEvent(
        id=event_id,
        received_at=made_at(event_id),
        client=client,
        headers=b"content-type: " + fetched.content_type.encode("latin-1", "replace"),
        body=fetched.body,
        body_bytes=len(fetched.body),
        dedup_key=accepted_key(usernames.get(client, client), fetched.body, payload),
        type=payload.type,
        event_name=cause.event_name if cause.event_name != payload.type else None,
        reference=payload.reference,
        order_version=payload.order_version,
        order_modified=payload.order_modified,
        notification_id=payload.notification_id,
        api_version=payload.api_version,
        shape=payload.shape,
    )
    deleted = await connection.scalar(select(DeletedEvent.event_id).where(DeletedEvent.dedup_key == event.dedup_key))
    if deleted is not None:
        return Snapshot(deleted, new=False)
    why = {"cause": cause.event_id, "fetched_for": cause.fetched_for}
    stored = await _link(connection, event, cause)
    if stored is None:
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        row = event._asdict() | why | {"origin": Origin.FETCHED.value}
        # The same key may be committed by a receiver at this moment.
        new = await connection.scalar(insert(Event).values(row).on_conflict_do_nothing().returning(Event.id))
        if new is None:
            stored = await _link(connection, event, cause)
    return Snapshot(event_id, new=True) if stored is None else Snapshot(stored, new=False)


async def client_of(connection: AsyncConnection, reference: str) -> str | None:
    """The client of the newest accepted event of a reference."""
    query = (
        select(Event.client)
        .where(Event.reference == reference, Event.status == Status.ACCEPTED.value)
        .order_by(Event.id.desc())
        .limit(1)
    )
    client: str | None = await connection.scalar(query)
    return client


async def _go_on_after(connection: AsyncConnection, reference: str) -> None:
    """Makes new ids greater than those of the reference: their order is the order in which events are delivered."""
    newest = select(Event.id).where(Event.reference == reference).order_by(Event.id.desc()).limit(1)
    newest_id: UUID | None = await connection.scalar(newest)
    if newest_id is not None:
        go_on_after(newest_id)


async def _link(connection: AsyncConnection, event: NewEvent, cause: Cause) -> UUID | None:
    """Notes on the event that has this key that it was fetched too; None if there is none."""
    has_key = or_(Event.dedup_key == event.dedup_key, Event.dedup_key.between(*old_keys(event.dedup_key)))
    first: UUID | None = await connection.scalar(select(Event.id).where(has_key).order_by(Event.id).limit(1))
    if first is None:
        return None
    received = Event.origin == Origin.RECEIVED.value
    changes: dict[str, Any] = {"origin": case((received, Origin.BOTH.value), else_=Event.origin)}
    if cause.event_id is not None:
        changes["cause"] = cause.event_id
    if cause.fetched_for is not None:
        changes["fetched_for"] = cause.fetched_for
    await connection.execute(update(Event).where(Event.id == first).values(changes))
    return first

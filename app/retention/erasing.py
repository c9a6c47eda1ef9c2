"""Erasures: what an event, its deliveries and its attempts hold that may name a person is taken away.

What stays of an event says that it was there, and makes a later copy of it a copy: its ids and times, its type, order
reference and version, its size, its duplicate key, and the SHA-256 of its bytes.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import LargeBinary, String, bindparam, delete, exists, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns, read
from app.deliveries.operations import drop_of_events
from app.deliveries.plans import batches
from app.deliveries.queries import of_events
from app.deliveries.registering import DISPATCH_LOCK
from app.deliveries.tables import DEAD, PENDING, RESULT, Attempt, Delivery, Destination, PassedOver
from app.events.fetches import Fetch, FetchCause, FetchStatus, lock_fetches
from app.events.tables import Event, Undispatched
from app.retention.contacts import groups

KEPT_HEADERS = ("content-type", "content-length")

BY_KEY = (Event.dedup_key, Event.id)

STATUS = re.compile(r"\b\d{3}(?=: )")
"""The HTTP status in the reason of a quarantined event."""

ERASE = (
    update(Event)
    .where(Event.id == bindparam("event"))
    .values(
        body=b"",
        headers=bindparam("kept_headers", type_=LargeBinary),
        reason=bindparam("kept_reason", type_=String),
        notification_id=bindparam("kept_notification_id", type_=String),
        body_sha256=bindparam("digest", type_=LargeBinary),
        erased_at=bindparam("now", type_=Event.erased_at.type),
    )
)


class Undelivered(Exception):
    """Destinations have not got all of these events. The text says how many deliveries would have to be dropped."""

    def __init__(self, deliveries: int) -> None:
        super().__init__(f"Deliveries of these events that are not delivered: {deliveries}.")
        self.deliveries = deliveries


class Planned(NamedTuple):
    """What an erasure would do.

    Attributes:
        events: The events that still have something to erase.
        erased: How many were erased before.
        undelivered: How many of their deliveries are pending or dead, or not made yet.
    """

    events: list[UUID]
    erased: int
    undelivered: int


class ErasedBody(NamedTuple):
    """An event whose body is gone, and the SHA-256 of that body in hexadecimal digits."""

    event_id: UUID
    sha256: str


class Erased(NamedTuple):
    """What an erasure took away.

    Attributes:
        bodies: One for each event.
        bytes: The size of the bodies together.
        answers: How many attempts lost the answer or error that was kept of them.
        dropped: How many deliveries were dropped.
    """

    bodies: list[ErasedBody]
    bytes: int
    answers: int
    dropped: int

    def plus(self, more: "Erased") -> "Erased":
        """Both together."""
        numbers = (one + other for one, other in zip(self[1:], more[1:], strict=True))
        return Erased(self.bodies + more.bodies, *numbers)

    def summary(self) -> dict[str, Any]:
        """The counts, and one hash over all bodies, for the audit."""
        lines = "".join(f"{body.event_id} {body.sha256}\n" for body in self.bodies)
        counts = {"events": len(self.bodies), "bytes": self.bytes, "answers": self.answers, "dropped": self.dropped}
        return counts | {"sha256": sha256(lines.encode()).hexdigest()}


class Erasable(NamedTuple):
    """What of an event is erased, or kept in part."""

    id: UUID
    headers: list[list[str]]
    body: bytes
    reason: str | None
    notification_id: str | None


async def of_reference(connection: AsyncConnection, reference: str, *, most: int | None = None) -> list[UUID]:
    """All events of an order or other object, or `most` of them; erased ones too."""
    query = select(Event.id).where(Event.reference == reference).order_by(Event.id).limit(most)
    return list(await connection.scalars(query))


async def references_of(connection: AsyncConnection, ids: Sequence[UUID]) -> list[str]:
    """The references that these events have, each once."""
    found: set[str] = set()
    for some in batches(ids):
        query = select(Event.reference).where(Event.id.in_(some), Event.reference.is_not(None)).distinct()
        found.update(reference for reference in await connection.scalars(query) if reference is not None)
    return sorted(found)


async def plan(connection: AsyncConnection, ids: Sequence[UUID]) -> Planned:
    """What there is to erase of these events; an id without an event counts for nothing."""
    left = list(await connection.scalars(select(Event.id).where(Event.id.in_(ids), Event.erased_at.is_(None))))
    erased = select(func.count()).select_from(Event).where(Event.id.in_(ids), Event.erased_at.is_not(None))
    return Planned(sorted(left), await connection.scalar(erased) or 0, await _undelivered(connection, left))


async def erase(connection: AsyncConnection, ids: Sequence[UUID], *, drop: bool, now: datetime) -> Erased:
    """Erases these events. Does not commit.

    Args:
        connection: In a transaction that may write.
        ids: The events; some hundred at most, as one statement takes them all.
        drop: Whether to drop what is not delivered.
        now: The time.

    Raises:
        Undelivered: something is not delivered, and `drop` is false.
        BeingSent: a worker is sending one of the events now.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(DISPATCH_LOCK)))
        await lock_fetches(connection)  # whatever stores a fetched order then sees that it was erased
    else:
        await connection.execute(text("PRAGMA secure_delete = ON"))  # zeros over what is taken away
    undelivered = await _undelivered(connection, ids)
    if undelivered and not drop:
        raise Undelivered(undelivered)
    await drop_of_events(connection, ids, now=now)
    await connection.execute(delete(Undispatched).where(Undispatched.event_id.in_(ids)))
    await connection.execute(delete(PassedOver).where(PassedOver.event_id.in_(ids)))
    await _forget_fetches(connection, ids)
    # Locked by their keys, as a receiver that counts copies locks them.
    left = select(Event.id, func.length(Event.body)).where(Event.id.in_(ids), Event.erased_at.is_(None))
    sizes = [(event_id, size) for event_id, size in await connection.execute(left.order_by(*BY_KEY).with_for_update())]
    bodies = []
    for some in groups(sizes):
        query = select(*columns(Event, Erasable)).where(Event.id.in_(some))
        events = await read(connection, query, Erasable)
        await connection.execute(ERASE, [_kept(event) | {"now": now} for event in events])
        bodies += [ErasedBody(event.id, sha256(event.body).hexdigest()) for event in events]
    return Erased(
        bodies=sorted(bodies),
        bytes=sum(size for _, size in sizes),
        answers=await _erase_answers(connection, ids),
        dropped=undelivered,
    )


async def _undelivered(connection: AsyncConnection, ids: Sequence[UUID]) -> int:
    """How many deliveries are pending or dead. An event that waits for dispatch counts as one, if any is to be made."""
    deliveries = select(func.count()).select_from(Delivery).where(of_events(ids), or_(PENDING, DEAD))
    any_destination = exists().where(Destination.url.is_(None))
    waiting = select(func.count()).select_from(Undispatched).where(Undispatched.event_id.in_(ids), any_destination)
    return (await connection.scalar(deliveries) or 0) + (await connection.scalar(waiting) or 0)


async def _forget_fetches(connection: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Nothing is fetched from Prioticket any more because of these events alone.

    A worker that is asking for the order now finds its claim gone, and does not store the answer.
    """
    of_these = FetchCause.event_id.in_(ids)
    caused = list(await connection.scalars(select(FetchCause.fetch_id).where(of_these)))
    await connection.execute(delete(FetchCause).where(of_these))
    by_others = exists().where(FetchCause.fetch_id == Fetch.id)
    open_ones = Fetch.status.in_([FetchStatus.DUE.value, FetchStatus.FETCHING.value])
    await connection.execute(delete(Fetch).where(Fetch.id.in_(caused), open_ones, ~by_others))
    await connection.execute(update(Fetch).where(Fetch.id.in_(caused)).values(error=None))


async def _erase_answers(connection: AsyncConnection, ids: Sequence[UUID]) -> int:
    first = update(Delivery).where(of_events(ids), Delivery.first_answer.is_not(None)).values(first_answer=None)
    of_these = Attempt.delivery_id.in_(select(Delivery.id).where(of_events(ids)))
    told = or_(Attempt.answer.is_not(None), Attempt.error.is_not(None))
    others = update(Attempt).where(of_these, told).values(result=RESULT, answer=None, error=None)
    return (await connection.execute(first)).rowcount + (await connection.execute(others)).rowcount


def _kept(event: Erasable) -> dict[str, Any]:
    kept = [f"{name}: {value}" for name, value in event.headers if name in KEPT_HEADERS]
    status = STATUS.search(event.reason or "")
    return {
        "event": event.id,
        "kept_headers": "\r\n".join(kept).encode("latin-1"),
        "kept_reason": f"{status[0]}: Erased." if status else event.reason and "Erased.",
        "kept_notification_id": event.notification_id if _is_id(event.notification_id) else None,
        "digest": sha256(event.body).digest(),
    }


def _is_id(notification_id: str | None) -> bool:
    """Whether it is a UUID, as Prioticket's are: a sender can write anything there."""
    try:
        return notification_id is not None and bool(UUID(notification_id))
    except ValueError:
        return False

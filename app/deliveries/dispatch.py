"""Dispatch: accepted events become deliveries, one for each destination that wants their type."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import delete, exists, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import insert_new
from app.deliveries.queue import lock, prefer_live
from app.deliveries.tables import PENDING, Delivery, Destination, Undispatched
from app.events.ids import new_id
from app.events.tables import Event

DISPATCH_LOCK = 7_092_717_264
"""An arbitrary number, the same everywhere. Two dispatchers at once could turn the order of a reference around."""

UNDISPATCHED = (
    select(Event.id, Event.type, Event.reference, Event.received_at)
    .join(Undispatched, Undispatched.event_id == Event.id)
    .order_by(Undispatched.event_id)
)


class Wanted(NamedTuple):
    """An event that a destination is to have."""

    event_id: UUID
    reference: str | None


async def register(connection: AsyncConnection, names: Iterable[str], *, now: datetime) -> None:
    """Makes destinations known; one that is new gets the events received from now on."""
    await insert_new(connection, Destination, [{"name": name, "since": now} for name in sorted(names)])


async def outdated(connection: AsyncConnection, known: Collection[str], *, started: datetime) -> bool:
    """Whether a destination was configured after this worker had started, or it was told of none at all.

    It would dispatch events without it; another worker knows, or will, and they wait for that one.
    """
    unknown = exists().where(Destination.url.is_(None), Destination.name.not_in(sorted(known)))
    if known:
        unknown = unknown.where(Destination.since > started)
    return bool(await connection.scalar(select(unknown)))


async def dispatch(
    connection: AsyncConnection, wanted_types: Mapping[str, Sequence[str]], *, most: int, now: datetime
) -> int:
    """Makes the deliveries of up to `most` events, the oldest first; how many events there were. Does not commit.

    While another worker dispatches there are none: it goes on until nothing is left.

    Args:
        connection: In a transaction that may write.
        wanted_types: By destination, globs on the type; one is enough.
        most: Events at most.
        now: The time.
    """
    if connection.dialect.name == "postgresql":
        free = await connection.scalar(select(func.pg_try_advisory_xact_lock(DISPATCH_LOCK)))
        if not free:
            return 0
    events = (await connection.execute(UNDISPATCHED.limit(most))).all()
    if not events:
        return 0
    for name in sorted(wanted_types):
        matching = [event for event in events if wants(wanted_types[name], event.type)]
        if matching and (state := await lock(connection, name)) is not None:
            new = [Wanted(event.id, event.reference) for event in matching if event.received_at >= state.since]
            await add(connection, name, new, replay_id=None, now=now)
    await connection.execute(delete(Undispatched).where(Undispatched.event_id.in_([event.id for event in events])))
    return len(events)


def wants(globs: Sequence[str], event_type: str | None) -> bool:
    """Whether one of the globs fits; an event without a type fits `*` only."""
    return any(fnmatchcase(event_type or "", glob) for glob in globs)


async def add(
    connection: AsyncConnection, name: str, events: Sequence[Wanted], *, replay_id: UUID | None, now: datetime
) -> None:
    """Puts events, in this order, at the end of a destination's queue; the caller holds its lock."""
    if not events:
        return
    references = {event.reference for event in events if event.reference is not None}
    busy = await _busy(connection, name, references)
    waiting = set(busy)
    rows: list[dict[str, Any]] = []
    for event in events:
        waits = event.reference is not None and event.reference in busy
        rows.append(
            {
                "id": new_id(),
                "event_id": event.event_id,
                "destination": name,
                "reference": event.reference,
                "replay_id": replay_id,
                "due_at": None if waits else now,
            }
        )
        busy.add(event.reference)
    await connection.execute(insert(Delivery), rows)
    if replay_id is None:
        await prefer_live(connection, name, references & waiting, now=now)


async def _busy(connection: AsyncConnection, name: str, references: set[str]) -> set[str | None]:
    """Those of the references that have a pending delivery already."""
    if not references:
        return set()
    pending = select(Delivery.reference).where(
        Delivery.destination == name, PENDING, Delivery.due_at.is_not(None), Delivery.reference.in_(sorted(references))
    )
    return set(await connection.scalars(pending.distinct()))

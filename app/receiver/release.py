"""Judges a quarantined event again: a person looked at it, or this release knows more than the one that refused it."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Row, case, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.events.queries import WholeEvent, get_event
from app.events.rows import copies_within, old_keys
from app.events.tables import DeletedEvent, Event, Origin, Status
from app.prioticket.contents import undone
from app.prioticket.identity import accepted_key
from app.prioticket.payloads import Payload
from app.receiver.judgement import parse
from app.web.body import InflatesTooFar, UndecodableBody, claimed_coding, coding_of
from app.web.problems import Problem

FIRST = (Event.id, Event.received_at)


class NotReleased(Exception):
    """The event stays as it is; the text says why."""


class Released(NamedTuple):
    """The accepted event: the released one, or the earlier event that it is a copy of."""

    id: UUID
    duplicate: bool


class Foreseen(NamedTuple):
    """What a release would make of an event.

    Attributes:
        payload: What would be read from its bytes.
        copy_of: The earlier event that it is a copy of; None if it would be accepted.
    """

    payload: Payload
    copy_of: UUID | None


class _Acceptable(NamedTuple):
    """A quarantined event that can be read, and the key of its copies."""

    event: WholeEvent
    payload: Payload
    key: bytes


async def foresee(connection: AsyncConnection, event_id: UUID, *, usernames: Mapping[str, str], limit: int) -> Foreseen:
    """What `release` would make of an event now. Changes nothing.

    Raises:
        NotReleased: as `release`.
    """
    found = await _acceptable(connection, event_id, usernames=usernames, limit=limit)
    deleted = select(DeletedEvent.event_id).where(DeletedEvent.dedup_key == found.key)
    if (copy_of := await connection.scalar(deleted)) is not None:
        return Foreseen(found.payload, copy_of)
    first = await _first(connection, found.key)
    return Foreseen(found.payload, first.id if first is not None and _is_copy(found, first.received_at) else None)


async def release(
    connection: AsyncConnection, event_id: UUID, *, usernames: Mapping[str, str], limit: int, now: datetime
) -> Released:
    """Accepts a quarantined event whose bytes can be read, whatever its headers say. Does not commit.

    A copy of an accepted event stays in quarantine, marked as judged, and is counted on that event.

    Args:
        usernames: By client; only events of the same username can be copies of each other.
        limit: The most bytes after decompression.

    Raises:
        NotReleased: there is no such event, it is not in quarantine, or it is still not acceptable.
    """
    found = await _acceptable(connection, event_id, usernames=usernames, limit=limit)
    event, payload, key = found
    first = await _first(connection, key)
    changes = update(Event).where(Event.id == event_id).values(released_at=now)
    if (deleted := await _copy_of_deleted(connection, key, event.received_at)) is not None:
        await connection.execute(changes.values(reason=f"It is a copy of event {deleted}. {event.reason}"))
        return Released(deleted, duplicate=True)
    if first is not None:
        if _is_copy(found, first.received_at):
            await connection.execute(changes.values(reason=f"It is a copy of event {first.id}. {event.reason}"))
            counted = {
                "duplicates": Event.duplicates + 1,
                "last_duplicate_at": event.received_at,
                "origin": case((Event.origin == Origin.FETCHED.value, Origin.BOTH.value), else_=Event.origin),
            }
            await connection.execute(update(Event).where(Event.id == first.id).values(**counted))
            return Released(first.id, duplicate=True)
        # The newer of the two gets the key, since more copies of it may come.
        if event.received_at > first.received_at:
            await connection.execute(update(Event).where(Event.id == first.id).values(dedup_key=first.id.bytes))
        else:
            key = event_id.bytes
    accepted = changes.values(status=Status.ACCEPTED.value, dedup_key=key, **payload.columns())
    if not (await connection.execute(accepted)).rowcount:
        raise NotReleased(f"Event {event_id} was deleted for its age at this moment.")
    return Released(event_id, duplicate=False)


async def _acceptable(
    connection: AsyncConnection, event_id: UUID, *, usernames: Mapping[str, str], limit: int
) -> _Acceptable:
    event = await get_event(connection, event_id)
    if event is None:
        raise NotReleased(f"There is no event {event_id}.")
    if event.status != Status.QUARANTINED:
        raise NotReleased(f"Event {event_id} is not quarantined: there is nothing to release.")
    if event.released_at is not None:
        raise NotReleased(f"Event {event_id} was judged already: {event.reason}")
    content, payload = _read(event, limit=limit)
    return _Acceptable(event, payload, accepted_key(usernames.get(event.client, event.client), content, payload))


async def _first(connection: AsyncConnection, key: bytes) -> Row[UUID, datetime] | None:
    """The oldest event with this key."""
    has_key = or_(Event.dedup_key == key, Event.dedup_key.between(*old_keys(key)))
    return (await connection.execute(select(*FIRST).where(has_key).order_by(Event.id).limit(1))).one_or_none()


def _is_copy(found: _Acceptable, first_at: datetime) -> bool:
    """Whether it is a copy of an event with the same key that was received at this time."""
    within = copies_within(found.payload.shape, found.payload.notification_id)
    return within is None or abs(found.event.received_at - first_at) <= within


def _read(event: WholeEvent, *, limit: int) -> tuple[bytes, Payload]:
    """The bytes with their coding undone, and what they say."""
    if len(event.body) < event.body_bytes:
        kept = f"Only the first {len(event.body)} of {event.body_bytes} bytes were kept."
        raise NotReleased(f"Event {event.id} was erased." if event.erased_at else kept)
    try:
        content = undone(event.headers, event.body, limit=limit)
        return content, parse(content)
    except (UndecodableBody, InflatesTooFar, Problem) as error:
        why = f"{error} {error.description}" if isinstance(error, Problem) else str(error) or "it is over the limit"
        if (claimed := claimed_coding(event.headers)) and not coding_of(event.body, claimed):
            why += f" It is not {claimed.decode('latin-1')} either."
        raise NotReleased(f"Event {event.id} is still refused: {why}") from None


async def _copy_of_deleted(connection: AsyncConnection, key: bytes, received_at: datetime) -> UUID | None:
    """Counts a copy of an event that was deleted for its age, and returns that event's id."""
    this = DeletedEvent.dedup_key == key
    counted = {"duplicates": DeletedEvent.duplicates + 1, "last_duplicate_at": received_at}
    return await connection.scalar(update(DeletedEvent).where(this).values(**counted).returning(DeletedEvent.event_id))

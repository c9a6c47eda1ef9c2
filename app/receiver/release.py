"""Judges a quarantined event again: a person looked at it, or this release knows more than the one that refused it."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.body import InflatesTooFar, UndecodableBody, decode
from app.events.queries import get_event
from app.events.tables import Event, Status
from app.receiver.contents import stored_coding
from app.receiver.endpoint import Refused, dedup_key, parse


class NotReleased(Exception):
    """The event stays as it is; the text says why."""


class Released(NamedTuple):
    """The accepted event: the released one, or the earlier event of which it is a copy."""

    id: UUID
    duplicate: bool


async def release(
    connection: AsyncConnection, event_id: UUID, *, usernames: Mapping[str, str], limit: int, now: datetime
) -> Released:
    """Accepts a quarantined event whose bytes can be read, whatever its content type said. Does not commit.

    A copy of an accepted event is counted there and stays in quarantine, marked as judged.

    Args:
        usernames: By client; a copy is one only among the events of the same username.
        limit: The most bytes after decompression.

    Raises:
        NotReleased: there is no such event, it is not in quarantine, or it is still not acceptable.
    """
    event = await get_event(connection, event_id)
    if event is None:
        raise NotReleased(f"There is no event {event_id}.")
    if event.status != Status.QUARANTINED:
        raise NotReleased(f"Event {event_id} is not quarantined: there is nothing to release.")
    if event.released_at is not None:
        raise NotReleased(f"Event {event_id} was judged already: {event.reason}")
    if len(event.body) < event.body_bytes:
        raise NotReleased(f"Only the first {len(event.body)} of {event.body_bytes} bytes were kept: ask for a new one.")
    try:
        payload = parse(decode(event.body, stored_coding(event.headers), limit=limit))
    except (UndecodableBody, InflatesTooFar, Refused) as error:
        why = f"{error} {error.description}" if isinstance(error, Refused) else str(error) or "it is over the limit"
        raise NotReleased(f"Event {event_id} is still refused: {why}") from None
    key = dedup_key(usernames.get(event.client, event.client), payload.identity)
    first: UUID | None = await connection.scalar(select(Event.id).where(Event.dedup_key == key))
    changes = update(Event).where(Event.id == event_id).values(released_at=now)
    if first is not None:
        await connection.execute(changes.values(reason=f"It is a copy of event {first}. {event.reason}"))
        counted = update(Event).where(Event.id == first)
        await connection.execute(counted.values(duplicates=Event.duplicates + 1, last_duplicate_at=event.received_at))
        return Released(first, duplicate=True)
    await connection.execute(changes.values(status=Status.ACCEPTED.value, dedup_key=key, **payload.columns()))
    return Released(event_id, duplicate=False)

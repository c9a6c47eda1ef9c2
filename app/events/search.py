"""Searches that no index can answer. Each page looks at a limited number of events."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns, read
from app.events.queries import EventFilter, ListedEvent
from app.events.tables import Event

WINDOW = 10_000
"""How many events one page looks at, which takes some milliseconds. An index for parts of texts would cost every
arrival more than that. An index on the client would cost SQLite a tenth of its throughput."""

SHORTEST_PREFIX = 8
LONGEST_ID = 32
"""Hexadecimal digits of an id."""


class Found(NamedTuple):
    """Events, newest first. `last` is the `before` of the next page; None if there is no next page."""

    rows: list[ListedEvent]
    last: UUID | None


async def search_events(
    connection: AsyncConnection,
    text: str | None,
    narrowed: EventFilter,
    *,
    limit: int,
    before: UUID | None = None,
) -> Found:
    """Events that match a text, a filter with a client, or both.

    If the text is a whole id, reference or notification id, indexes find it among all events, and only its events are
    returned. Any other text is searched for in the reference, type, event name and notification id, and at the
    beginning of the id; case does not matter. A page looks at `WINDOW` events, so it may be short or empty without
    being the last.

    Args:
        connection: A connection to the database.
        text: What to search for; None applies the filter alone.
        narrowed: Which events may be found.
        limit: The most events of a page.
        before: `last` of the previous page.
    """
    older = [] if before is None else [Event.id < before]
    for condition in _exact(text) if text is not None else ():
        if await connection.scalar(select(exists().where(condition))):
            where = narrowed.first(*older, condition, limit=limit + 1)
            return await _page(connection, where, limit=limit, floor=None)
    where = replace(narrowed, client=None).first(*older, limit=WINDOW)
    passed = select(Event.id).where(*where).order_by(Event.id.desc()).offset(WINDOW - 1).limit(1)
    floor = await connection.scalar(passed)
    if floor is not None:
        where.append(Event.id >= floor)
    if narrowed.client is not None:
        where.append(Event.client == narrowed.client)
    if text is not None:
        where.append(_part(text))
    return await _page(connection, where, limit=limit, floor=floor)


async def ids_announced(connection: AsyncConnection, notification_id: str, *, limit: int) -> list[UUID]:
    """The newest events with this notification id."""
    query = select(Event.id).where(Event.notification_id == notification_id).order_by(Event.id.desc()).limit(limit)
    return list(await connection.scalars(query))


async def _page(
    connection: AsyncConnection, where: Sequence[ColumnElement[bool]], *, limit: int, floor: UUID | None
) -> Found:
    query = select(*columns(Event, ListedEvent)).where(*where).order_by(Event.id.desc()).limit(limit + 1)
    rows = await read(connection, query, ListedEvent)
    if len(rows) > limit:
        return Found(rows[:limit], rows[limit - 1].id)
    return Found(rows, floor)


def _exact(text: str) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [Event.reference == text, Event.notification_id == text]
    if len(_hexadecimal(text)) == LONGEST_ID:
        conditions.append(Event.id == UUID(_hexadecimal(text)))
    return conditions


def _part(text: str) -> ColumnElement[bool]:
    columns = (Event.reference, Event.type, Event.event_name, Event.notification_id)
    parts: list[ColumnElement[bool]] = [column.icontains(text, autoescape=True) for column in columns]
    digits = _hexadecimal(text)
    if SHORTEST_PREFIX <= len(digits) <= LONGEST_ID:
        first, last = (UUID(digits.ljust(LONGEST_ID, filler)) for filler in "0f")
        parts.append(Event.id.between(first, last))
    return or_(*parts)


def _hexadecimal(text: str) -> str:
    """The digits of a UUID or of its beginning; empty if the text cannot be one."""
    digits = text.replace("-", "").lower()
    return digits if digits and set(digits) <= set("0123456789abcdef") else ""

"""Searches that no index answers, bounded by how many events one page looks at."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Row, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.events.queries import SUMMARY, EventFilter
from app.events.tables import Event

WINDOW = 10_000
"""Events that one page looks at. An index for parts of texts would cost every arrival more than this costs a person who
waits for some milliseconds; one on the client, of which there are few, a tenth of what SQLite takes in."""

SHORTEST_PREFIX = 8
LONGEST_ID = 32
"""Hexadecimal digits of an id."""


class Found(NamedTuple):
    """Events, newest first, and the id behind which the search goes on; None where all was seen."""

    rows: Sequence[Row[Any]]
    last: UUID | None


async def search_events(
    connection: AsyncConnection,
    text: str | None,
    narrowed: EventFilter,
    *,
    limit: int,
    before: UUID | None = None,
) -> Found:
    """Events of a client, or that are meant by a text.

    A whole id, reference or notification id is found among all events, by an index; the answer is then those events
    only. Any other text is looked for as a part of the reference, type or notification id and as the beginning of the
    id, whatever the case, in `WINDOW` events a page: a page may be short or empty and not the last.

    Args:
        connection: The database's.
        text: What is looked for; None for the filter alone.
        narrowed: Which events may be found.
        limit: Events at most.
        before: The `last` of the page before.
    """
    behind = [] if before is None else [Event.id < before]
    for each in _exact(text) if text is not None else ():
        if await connection.scalar(select(exists().where(each))):
            return await _page(connection, [*narrowed.conditions(), *behind, each], limit=limit, floor=None)
    where = [*replace(narrowed, client=None).conditions(), *behind]
    passed = select(Event.id).where(*where).order_by(Event.id.desc()).offset(WINDOW - 1).limit(1)
    floor = await connection.scalar(passed)
    if floor is not None:
        where.append(Event.id >= floor)
    if narrowed.client is not None:
        where.append(Event.client == narrowed.client)
    if text is not None:
        where.append(_part(text))
    return await _page(connection, where, limit=limit, floor=floor)


async def _page(
    connection: AsyncConnection, where: Sequence[ColumnElement[bool]], *, limit: int, floor: UUID | None
) -> Found:
    query = select(*SUMMARY).where(*where).order_by(Event.id.desc()).limit(limit + 1)
    rows = (await connection.execute(query)).all()
    if len(rows) > limit:
        return Found(rows[:limit], rows[limit - 1].id)
    return Found(rows, floor)


def _exact(text: str) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [Event.reference == text, Event.notification_id == text]
    if len(_hexadecimal(text)) == LONGEST_ID:
        conditions.append(Event.id == UUID(_hexadecimal(text)))
    return conditions


def _part(text: str) -> ColumnElement[bool]:
    columns = (Event.reference, Event.type, Event.notification_id)
    parts: list[ColumnElement[bool]] = [column.icontains(text, autoescape=True) for column in columns]
    digits = _hexadecimal(text)
    if SHORTEST_PREFIX <= len(digits) <= LONGEST_ID:
        first, last = (UUID(digits.ljust(LONGEST_ID, filler)) for filler in "0f")
        parts.append(Event.id.between(first, last))
    return or_(*parts)


def _hexadecimal(text: str) -> str:
    """The digits of a UUID or of its beginning; empty where it can be none."""
    digits = text.replace("-", "").lower()
    return digits if digits and set(digits) <= set("0123456789abcdef") else ""

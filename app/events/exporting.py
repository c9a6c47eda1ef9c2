"""Reads events in the order of arrival, with their bodies, in bounded memory."""

from collections.abc import AsyncIterator
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.rows import read
from app.events.queries import EventFilter, WholeEvent, event_columns
from app.events.tables import Event

IDS_AT_ONCE = 500
BODIES_AT_ONCE = 8 * 1024 * 1024
"""Bytes of bodies that are read at once, unless one is larger."""


async def whole_events(
    engine: AsyncEngine, narrowed: EventFilter, *, after: UUID | None = None
) -> AsyncIterator[WholeEvent]:
    """All events that a filter selects, the oldest first. What arrives meanwhile is among them.

    Each part is a transaction of its own, so that no reader keeps the database from cleaning up.
    """
    last = after
    while sizes := await _sizes(engine, narrowed, last):
        some: list[UUID] = []
        size = 0
        for event_id, bytes_ in sizes:
            if some and size + bytes_ > BODIES_AT_ONCE:
                for event in await _read(engine, some):
                    yield event
                some, size = [], 0
            some.append(event_id)
            size += bytes_
        for event in await _read(engine, some):
            yield event
        last = sizes[-1][0]


async def count_exactly(engine: AsyncEngine, narrowed: EventFilter, *, after: UUID | None = None) -> int:
    """How many events those are."""
    more = [] if after is None else [Event.id > after]
    total = 0
    async with engine.connect() as connection:
        for part in narrowed.parts():
            total += await connection.scalar(select(func.count()).select_from(Event).where(*part, *more)) or 0
    return total


async def _sizes(engine: AsyncEngine, narrowed: EventFilter, after: UUID | None) -> list[tuple[UUID, int]]:
    more = [] if after is None else [Event.id > after]
    where = narrowed.first(*more, limit=IDS_AT_ONCE, ascending=True)
    query = select(Event.id, func.length(Event.body)).where(*where).order_by(Event.id).limit(IDS_AT_ONCE)
    async with engine.connect() as connection:
        return [(event_id, size or 0) for event_id, size in await connection.execute(query)]


async def _read(engine: AsyncEngine, ids: list[UUID]) -> list[WholeEvent]:
    query = select(*event_columns(WholeEvent)).where(Event.id.in_(ids)).order_by(Event.id)
    async with engine.connect() as connection:
        return await read(connection, query, WholeEvent)

"""Queries of the inbox. They load no body unless their docstring says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, func, literal_column, or_, select, true, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.counting import counted
from app.database.rows import columns, read, read_one
from app.events.ids import id_floor
from app.events.tables import TRACE, Event, Status
from app.web.body import SLICE_BYTES

SEARCHED = 10_000
QUARANTINED = Event.status == literal_column("'quarantined'")
"""A literal: with a parameter, neither database would use its partial index."""


MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events to select; a field that is None does not restrict them.

    Attributes:
        type: The type, or the name under which the sender announced the event.
        since: The earliest arrival, included.
        until: The latest arrival, excluded.
    """

    type: str | None = None
    reference: str | None = None
    status: str | None = None
    client: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def parts(self) -> list[list[ColumnElement[bool]]]:
        """The conditions of WHERE clauses. Each event that is selected fulfils exactly one of them.

        A type makes two: one index has the types and another the event names, but none has both in the order of ids.
        """
        equal = ("reference", "client")
        conditions = [getattr(Event, name) == getattr(self, name) for name in equal if getattr(self, name) is not None]
        if self.status is not None:
            conditions.append(QUARANTINED if self.status == Status.QUARANTINED else Event.status == self.status)
        if self.since is not None:
            conditions.append(Event.id >= id_floor(self.since))
        if self.until is not None:
            conditions.append(Event.id < id_floor(self.until))
        if self.type is None:
            return [conditions]
        either = (Event.type == self.type, Event.event_name == self.type)
        if self.reference is not None or self.status == Status.QUARANTINED:
            # Fewer events share a reference or are quarantined than share a type, yet SQLite prefers the type's index.
            return [[*conditions, or_(*either).is_(true())]]
        return [[*conditions, named] for named in either]

    def first(self, *more: ColumnElement[bool], limit: int, ascending: bool = False) -> list[ColumnElement[bool]]:
        """The conditions of a WHERE clause that selects the newest events, or the oldest.

        Args:
            more: Further conditions.
            limit: How many events the caller wants; it says so in its own query too.
            ascending: Whether the oldest events are wanted.
        """
        parts = self.parts()
        if len(parts) == 1:
            return [*parts[0], *more]
        order = Event.id.asc() if ascending else Event.id.desc()
        ids = (select(Event.id).where(*part, *more).order_by(order).limit(limit).subquery() for part in parts)
        return [Event.id.in_(union_all(*(select(some.c.id) for some in ids)))]


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event without its headers and body."""

    id: UUID
    received_at: datetime
    client: str
    status: str
    reason: str | None
    type: str | None
    event_name: str | None
    reference: str | None
    order_version: int | None
    order_modified: datetime | None
    notification_id: str | None
    api_version: str | None
    shape: str | None
    body_bytes: int
    duplicates: int
    last_duplicate_at: datetime | None
    released_at: datetime | None
    origin: str
    cause: UUID | None
    fetched_for: str | None
    erased_at: datetime | None


@dataclass(frozen=True, slots=True)
class SummarizedEvent(ListedEvent):
    """An event without its body."""

    address: str | None
    request_id: str | None
    trace: str | None
    headers: list[list[str]]


@dataclass(frozen=True, slots=True)
class WholeEvent(SummarizedEvent):
    """An event with everything that is stored of it."""

    body: bytes
    dedup_key: bytes


class KeptBytes(NamedTuple):
    """What is needed to serve the stored body of an event."""

    headers: list[list[str]]
    body_bytes: int
    kept: int
    beginning: bytes
    reference: str | None
    erased_at: datetime | None


class EventBody(NamedTuple):
    """The body of an event, with the headers that say how to read it."""

    id: UUID
    headers: list[list[str]]
    body: bytes


def event_columns(kind: type[SummarizedEvent]) -> list[ColumnElement[Any]]:
    """What a query selects of an event."""
    return [TRACE if column.name == "trace" else column for column in columns(Event, kind)]


async def last_events(connection: AsyncConnection) -> dict[str, datetime]:
    """When each client's last event arrived. No index has the client, so only the newest `SEARCHED` events count."""
    newest = select(Event.client, Event.received_at).order_by(Event.id.desc()).limit(SEARCHED).subquery()
    query = select(newest.c.client, func.max(newest.c.received_at)).group_by(newest.c.client)
    return {client: at for client, at in await connection.execute(query)}  # noqa: C416 - for mypy a row is not a pair


async def list_events(
    connection: AsyncConnection, narrowed: EventFilter, *, limit: int, before: UUID | None = None
) -> list[ListedEvent]:
    """Events without headers and body, newest first; the last id of a page, as `before`, gives the next page."""
    older = [] if before is None else [Event.id < before]
    where = narrowed.first(*older, limit=limit)
    query = select(*columns(Event, ListedEvent)).where(*where).order_by(Event.id.desc()).limit(limit)
    return await read(connection, query, ListedEvent)


async def count_events(connection: AsyncConnection, narrowed: EventFilter) -> int:
    """How many there are, at most `MOST_COUNTED + 1`."""
    parts = [select(Event.id).where(*part) for part in narrowed.parts()]
    return sum([await connection.scalar(select(counted(part))) or 0 for part in parts])


async def get_event(connection: AsyncConnection, event_id: UUID) -> WholeEvent | None:
    """One event with its headers and body."""
    return await read_one(connection, select(*event_columns(WholeEvent)).where(Event.id == event_id), WholeEvent)


async def get_summary(connection: AsyncConnection, event_id: UUID) -> SummarizedEvent | None:
    """One event with its headers but without its body."""
    query = select(*event_columns(SummarizedEvent)).where(Event.id == event_id)
    return await read_one(connection, query, SummarizedEvent)


async def kept_bytes(connection: AsyncConnection, event_id: UUID) -> KeptBytes | None:
    """An event's headers, the beginning of its body, and two sizes: `body_bytes` arrived, `kept` are stored."""
    first = func.substr(Event.body, 1, SLICE_BYTES, type_=LargeBinary)
    beginning = func.coalesce(first, b"", type_=LargeBinary).label("beginning")  # SQLite's substr(x'') is NULL
    query = select(Event.headers, Event.body_bytes, func.length(Event.body).label("kept"), beginning)
    query = query.add_columns(Event.reference, Event.erased_at)
    return await read_one(connection, query.where(Event.id == event_id), KeptBytes)


async def get_bodies(connection: AsyncConnection, ids: Sequence[UUID]) -> list[EventBody]:
    """Id, headers and body of each event; the caller limits how many."""
    return await read(connection, select(*columns(Event, EventBody)).where(Event.id.in_(ids)), EventBody)


async def copies_of(connection: AsyncConnection, reference: str) -> dict[UUID, int]:
    """How many copies have come of each of the newest `MOST_COUNTED` events of a reference."""
    query = (
        select(Event.id, Event.duplicates)
        .where(Event.reference == reference)
        .order_by(Event.id.desc())
        .limit(MOST_COUNTED)
    )
    return {row.id: row.duplicates for row in await connection.execute(query)}

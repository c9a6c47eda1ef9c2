"""What is in quarantine and was not judged again: chosen by filters, and counted by reason."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import read
from app.events.ids import id_floor
from app.events.queries import QUARANTINED
from app.events.tables import Event

DETAILS = " In detail:"
"""What divides a reason that many events share from what only one of them has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineFilter:
    """Which quarantined events; a field that is None does not restrict them.

    Attributes:
        status: The HTTP status with which they were refused.
        because: A part of the reason.
        client: Who sent them.
        since: The earliest arrival, included.
        until: The latest arrival, excluded.
    """

    status: int | None = None
    because: str | None = None
    client: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of a WHERE clause."""
        conditions = [QUARANTINED, Event.released_at.is_(None), *self.times()]
        if self.status is not None:
            conditions.append(Event.reason.startswith(f"{self.status}:"))
        if self.because is not None:
            conditions.append(Event.reason.contains(self.because, autoescape=True))
        if self.client is not None:
            conditions.append(Event.client == self.client)
        return conditions

    def times(self) -> list[ColumnElement[bool]]:
        """Those of the conditions that are about the arrival, which the index of quarantined events has."""
        conditions = []
        if self.since is not None:
            conditions.append(Event.id >= id_floor(self.since))
        if self.until is not None:
            conditions.append(Event.id < id_floor(self.until))
        return conditions


@dataclass(frozen=True, slots=True)
class Reason:
    """Events that were refused for the same reason."""

    reason: str
    events: int
    oldest: datetime
    newest: datetime


async def count_by_reason(connection: AsyncConnection, narrowed: QuarantineFilter) -> list[Reason]:
    """The reasons, the most frequent first. Costs as much as there are quarantined events."""
    number = func.count().label("events")
    columns: list[ColumnElement[Any]] = [
        func.coalesce(Event.reason, "").label("reason"),
        number,
        func.min(Event.received_at).label("oldest"),
        func.max(Event.received_at).label("newest"),
    ]
    query: Select[Any] = select(*columns).where(*narrowed.conditions()).group_by(Event.reason)
    return await read(connection, query.order_by(number.desc(), Event.reason), Reason)


async def newest_reasons(connection: AsyncConnection, narrowed: QuarantineFilter, *, most: int) -> list[Reason]:
    """The reasons of the newest quarantined events without the details of each, the most frequent first.

    Args:
        connection: A connection to the database.
        narrowed: Which events; only its times and its client count.
        most: How many of the newest quarantined events count.
    """
    columns = (Event.reason, Event.received_at, Event.released_at, Event.client)
    newest = select(*columns).where(QUARANTINED, *narrowed.times()).order_by(Event.id.desc()).limit(most).subquery()
    counts: list[ColumnElement[Any]] = [
        func.coalesce(newest.c.reason, "").label("reason"),
        func.count().label("events"),
        func.min(newest.c.received_at).label("oldest"),
        func.max(newest.c.received_at).label("newest"),
    ]
    query: Select[Any] = select(*counts).where(newest.c.released_at.is_(None)).group_by(newest.c.reason)
    if narrowed.client is not None:
        query = query.where(newest.c.client == narrowed.client)
    found: dict[str, Reason] = {}
    for each in await read(connection, query, Reason):
        sentence = each.reason.partition(DETAILS)[0]
        other = found.get(sentence, each)
        oldest, latest = min(each.oldest, other.oldest), max(each.newest, other.newest)
        found[sentence] = Reason(sentence, each.events + (other.events if other is not each else 0), oldest, latest)
    return sorted(found.values(), key=lambda reason: (-reason.events, reason.reason))


async def oldest_quarantined(
    connection: AsyncConnection, narrowed: QuarantineFilter, *, after: UUID | None, limit: int
) -> list[UUID]:
    """The ids in the order of arrival; the last one, as `after`, gives the next ones."""
    newer = [] if after is None else [Event.id > after]
    query = select(Event.id).where(*narrowed.conditions(), *newer).order_by(Event.id).limit(limit)
    return list(await connection.scalars(query))

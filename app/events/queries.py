"""Queries of the inbox. They load no body unless their docstring says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, Row, Select, func, literal_column, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from app.events.ids import id_floor
from app.events.tables import Event, Status
from app.web.body import SLICE_BYTES

SEARCHED = 10_000
QUARANTINED = Event.status == literal_column("'quarantined'")
"""A literal: with a parameter, neither database would use its partial index."""

SUMMARY = [column for column in Event.__table__.columns if column.name not in ("headers", "body", "dedup_key")]

WITH_HEADERS = [column for column in Event.__table__.columns if column.name not in ("body", "dedup_key")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events to select; a field that is None does not restrict them.

    Attributes:
        since: The earliest arrival, included.
        until: The latest arrival, excluded.
    """

    type: str | None = None
    reference: str | None = None
    status: str | None = None
    client: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of a WHERE clause."""
        equal = ("reference", "client")
        conditions = [getattr(Event, name) == getattr(self, name) for name in equal if getattr(self, name) is not None]
        if self.type is not None:
            of_type = Event.type == self.type
            # Fewer events share a reference or are quarantined than share a type, yet SQLite prefers the type's index.
            few = self.reference is not None or self.status == Status.QUARANTINED
            conditions.append(of_type.is_(true()) if few else of_type)
        if self.status is not None:
            conditions.append(QUARANTINED if self.status == Status.QUARANTINED else Event.status == self.status)
        if self.since is not None:
            conditions.append(Event.id >= id_floor(self.since))
        if self.until is not None:
            conditions.append(Event.id < id_floor(self.until))
        return conditions


async def last_events(connection: AsyncConnection) -> dict[str, datetime]:
    """When each client's last event arrived. No index has the client, so only the newest `SEARCHED` events count."""
    newest = select(Event.client, Event.received_at).order_by(Event.id.desc()).limit(SEARCHED).subquery()
    query = select(newest.c.client, func.max(newest.c.received_at)).group_by(newest.c.client)
    return {client: at for client, at in await connection.execute(query)}  # noqa: C416 - for mypy a row is not a pair


async def list_events(
    connection: AsyncConnection, narrowed: EventFilter, *, limit: int, before: UUID | None = None
) -> Sequence[Row[Any]]:
    """Events without headers and body, newest first; the last id of a page, as `before`, gives the next page."""
    query = _narrowed(select(*SUMMARY), narrowed).order_by(Event.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Event.id < before)
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


async def get_event(connection: AsyncConnection, event_id: UUID) -> Row[Any] | None:
    """One event with its headers and body."""
    return (await connection.execute(select(*Event.__table__.columns).where(Event.id == event_id))).one_or_none()


async def get_summary(connection: AsyncConnection, event_id: UUID) -> Row[Any] | None:
    """One event with its headers but without its body."""
    return (await connection.execute(select(*WITH_HEADERS).where(Event.id == event_id))).one_or_none()


async def kept_bytes(connection: AsyncConnection, event_id: UUID) -> Row[Any] | None:
    """An event's headers, the beginning of its body, and two sizes: `body_bytes` arrived, `kept` are stored."""
    beginning = func.substr(Event.body, 1, SLICE_BYTES, type_=LargeBinary).label("beginning")
    columns: list[Any] = [Event.headers, Event.body_bytes, func.length(Event.body).label("kept"), beginning]
    return (await connection.execute(select(*columns).where(Event.id == event_id))).one_or_none()


async def get_bodies(connection: AsyncConnection, ids: Sequence[UUID]) -> Sequence[Row[Any]]:
    """Id, headers and body of each event; the caller limits how many."""
    query = select(*(Event.__table__.c[name] for name in ("id", "headers", "body"))).where(Event.id.in_(ids))
    rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
    return rows


def _narrowed(query: Select[Any], narrowed: EventFilter) -> Select[Any]:
    return query.where(*narrowed.conditions())

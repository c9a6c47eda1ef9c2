"""Queries of the audit."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.audit.tables import Entry
from app.database.rows import columns, read


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which rows to select; a field that is None does not restrict them."""

    action: str | None = None
    kind: str | None = None
    target: str | None = None
    event_id: UUID | None = None
    reference: str | None = None
    client: str | None = None
    channel: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of a WHERE clause."""
        equal = ("action", "kind", "target", "event_id", "reference", "client", "channel")
        conditions = [getattr(Entry, name) == getattr(self, name) for name in equal if getattr(self, name) is not None]
        if self.since is not None:
            conditions.append(Entry.at >= self.since)
        if self.until is not None:
            conditions.append(Entry.at < self.until)
        return conditions


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """An action that was done."""

    position: int
    at: datetime
    channel: str
    client: str
    address: str | None
    action: str
    kind: str
    target: str | None
    event_id: UUID | None
    reference: str | None
    reason: str | None
    request_id: str | None
    details: str | None
    hash: bytes

    @property
    def more(self) -> dict[str, Any]:
        """The details as a mapping."""
        more: dict[str, Any] = json.loads(self.details) if self.details else {}
        return more


async def first_entry_at(connection: AsyncConnection) -> datetime | None:
    """When the oldest action was done that is kept. Of a new database that is the first start of a program."""
    at: datetime | None = await connection.scalar(select(Entry.at).order_by(Entry.position).limit(1))
    return at


async def list_entries(
    connection: AsyncConnection, narrowed: AuditFilter, *, limit: int, before: int | None = None
) -> list[ListedEntry]:
    """Actions, the newest first; the last position of a page, as `before`, gives the next page."""
    query = select(*columns(Entry, ListedEntry)).where(*narrowed.conditions()).order_by(Entry.position.desc())
    if before is not None:
        query = query.where(Entry.position < before)
    return await read(connection, query.limit(limit), ListedEntry)

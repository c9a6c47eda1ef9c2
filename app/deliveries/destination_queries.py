"""Queries of destinations and their queues."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, and_, case, cast, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.columns import ComparedId
from app.database.rows import columns, read, read_one
from app.deliveries.tables import DEAD, PENDING_PARTS, Delivery, Destination
from app.deliveries.transitions import in_flight
from app.events.ids import made_at
from app.events.tables import Undispatched


class KnownDestination(NamedTuple):
    """A destination, and whether it is paused or failing."""

    name: str
    paused_at: datetime | None
    failing_since: datetime | None
    probe_at: datetime | None


class ListedDestination(NamedTuple):
    """A destination and its queue."""

    name: str
    url: str | None
    since: datetime
    paused_at: datetime | None
    paused_reason: str | None
    failures: int
    failing_since: datetime | None
    probe_at: datetime | None
    pending: int
    due: int
    in_flight: int
    failing: int
    dead: int
    oldest: UUID | None
    """Of the oldest pending delivery: the event's id, or its own if a replay made it."""

    @property
    def oldest_pending_at(self) -> datetime | None:
        """When the event of the oldest pending delivery arrived, or when the replay made the delivery."""
        return made_at(self.oldest) if self.oldest else None


_KNOWN: Select[Any] = select(*columns(Destination, KnownDestination))


async def known_destinations(connection: AsyncConnection) -> dict[str, KnownDestination]:
    """The destinations that a request may name, by name; not those of replays to a URL, which only operators start."""
    rows = await read(connection, _KNOWN.where(Destination.url.is_(None)), KnownDestination)
    return {known.name: known for known in rows}


async def known_destination(connection: AsyncConnection, name: str) -> KnownDestination | None:
    """A destination, also one of a replay to a URL."""
    return await read_one(connection, _KNOWN.where(Destination.name == name), KnownDestination)


async def list_destinations(connection: AsyncConnection, *, now: datetime) -> list[ListedDestination]:
    """Destinations with their counts of pending, due, in-flight, failing and dead deliveries.

    Costs as much as there are deliveries that are pending or dead.
    """
    sent_now = in_flight(now).label("in_flight")
    since = case((Delivery.replay_id.is_(None), Delivery.event_id), else_=Delivery.id)
    has_failed = (Delivery.attempts > 0).label("failing")
    part = (Delivery.destination, cast(since, ComparedId).label("since"), Delivery.due_at, sent_now, has_failed)
    pending = union_all(*(select(*part).where(condition) for condition in PENDING_PARTS)).subquery()
    queues = (
        select(
            pending.c.destination,
            func.count().label("pending"),
            func.sum(case((and_(pending.c.due_at <= now, ~pending.c.in_flight), 1), else_=0)).label("due"),
            func.sum(case((pending.c.in_flight, 1), else_=0)).label("in_flight"),
            func.sum(case((pending.c.failing, 1), else_=0)).label("failing"),
            func.min(pending.c.since).label("oldest"),
        )
        .group_by(pending.c.destination)
        .subquery()
    )
    dead = select(func.count()).where(Delivery.destination == Destination.name, DEAD).scalar_subquery()
    counts = (func.coalesce(queues.c[name], 0).label(name) for name in ("pending", "due", "in_flight", "failing"))
    query = (
        select(*columns(Destination, ListedDestination), *counts, dead.label("dead"), queues.c.oldest)
        .outerjoin(queues, queues.c.destination == Destination.name)
        .order_by(Destination.name)
    )
    return await read(connection, query, ListedDestination)


async def count_undispatched(connection: AsyncConnection) -> int:
    """How many accepted events have no deliveries yet. Costs as much as there are."""
    return await connection.scalar(select(func.count()).select_from(Undispatched)) or 0


async def destination_urls(connection: AsyncConnection) -> dict[str, str | None]:
    """The URLs of replays' own destinations; None for those of the settings."""
    return {name: url for name, url in await connection.execute(select(Destination.name, Destination.url))}  # noqa: C416 - for mypy a row is not a pair

"""What arrived lately. Each query takes milliseconds, however many events are stored."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Select, func, literal, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.counting import counted
from app.database.rows import read
from app.events.ids import id_floor, made_at
from app.events.queries import QUARANTINED
from app.events.tables import Event, Origin, Status
from app.web.addresses import network

MOST_TYPES = 100
NEWEST = 1000
"""How many of the newest events are looked at for what no index has."""

MOST_REASONS = 10
RECEIVED = Event.origin != literal_column(f"'{Origin.FETCHED.value}'")
TEN_MINUTES, HOUR, WEEK = timedelta(minutes=10), timedelta(hours=1), timedelta(weeks=1)


@dataclass(frozen=True, slots=True)
class LastEvent:
    """The last event of a type."""

    type: str
    id: UUID
    at: datetime
    accepted_at: datetime | None = None
    """When the last one arrived that was accepted and not fetched; among the newest thousand."""


@dataclass(frozen=True, slots=True)
class LastAccepted:
    """The last accepted event of a client."""

    client: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """How many events arrived, quarantined ones included; each at most `MOST_COUNTED + 1`."""

    last_10_minutes: int
    last_hour: int
    same_hour_last_week: int
    quarantined_last_10_minutes: int
    quarantined_last_day: int
    quarantined: int
    """All that are in quarantine, also those that were judged again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Quarantined events with the same reason."""

    reason: str
    events: int
    newest: UUID
    newest_at: datetime


async def last_by_type(connection: AsyncConnection) -> list[LastEvent]:
    """The last event of each type, the newest first; of the first `MOST_TYPES` types by name."""
    types = _types()
    last = select(Event.id).where(Event.type == types.c.type).order_by(Event.id.desc()).limit(1).scalar_subquery()
    newest = select(Event.id, Event.status, Event.origin).where(Event.type == types.c.type).order_by(Event.id.desc())
    some = newest.correlate(types).limit(NEWEST).subquery()
    sent = (some.c.status == Status.ACCEPTED.value, some.c.origin != Origin.FETCHED.value)
    accepted = select(some.c.id).where(*sent).order_by(some.c.id.desc()).limit(1).scalar_subquery()
    columns = types.c.type, last.label("id"), accepted.label("accepted")
    rows = await connection.execute(select(*columns).where(types.c.type.is_not(None)))
    found = (LastEvent(name, newest, made_at(newest), made_at(sent) if sent else None) for name, newest, sent in rows)
    return sorted(found, key=lambda event: event.id, reverse=True)


async def known_types(connection: AsyncConnection) -> list[str]:
    """The first `MOST_TYPES` types by name. Costs an index look-up for each."""
    types = _types()
    return list(await connection.scalars(select(types.c.type).where(types.c.type.is_not(None))))


async def last_accepted(connection: AsyncConnection) -> list[LastAccepted]:
    """The last accepted event of each client, the newest first; among the `NEWEST` events."""
    columns = (Event.client, Event.status, Event.origin, Event.received_at)
    newest = select(*columns).order_by(Event.id.desc()).limit(NEWEST).subquery()
    query = (
        select(newest.c.client, func.max(newest.c.received_at).label("at"))
        .where(newest.c.status == Status.ACCEPTED.value, newest.c.origin != Origin.FETCHED.value)
        .group_by(newest.c.client)
    )
    found = await read(connection, query, LastAccepted)
    return sorted(found, key=lambda last: last.at, reverse=True)


async def copies_of_newest(connection: AsyncConnection) -> int:
    """How many copies came of the `NEWEST` events."""
    newest = select(Event.duplicates).order_by(Event.id.desc()).limit(NEWEST).subquery()
    return await connection.scalar(select(func.coalesce(func.sum(newest.c.duplicates), 0))) or 0


async def sender_addresses(connection: AsyncConnection) -> list[str]:
    """The addresses from which accepted events came, among the `NEWEST` events, as refusals have them."""
    newest = select(Event.status, Event.address).order_by(Event.id.desc()).limit(NEWEST).subquery()
    known = (newest.c.status == Status.ACCEPTED.value, newest.c.address.is_not(None))
    return sorted(
        {network(each) for each in await connection.scalars(select(newest.c.address).where(*known).distinct())}
    )


async def numbers(connection: AsyncConnection, *, now: datetime) -> Numbers:
    """How many events arrived lately, and in the same hour of last week."""
    counts = {
        "last_10_minutes": (RECEIVED, *_since(now - TEN_MINUTES)),
        "last_hour": (RECEIVED, *_since(now - HOUR)),
        "same_hour_last_week": (RECEIVED, *_since(now - WEEK - HOUR), Event.id < id_floor(now - WEEK)),
        "quarantined_last_10_minutes": (QUARANTINED, *_since(now - TEN_MINUTES)),
        "quarantined_last_day": (QUARANTINED, *_since(now - 24 * HOUR)),
        "quarantined": (QUARANTINED,),
    }
    columns: list[ColumnElement[Any]] = [_count(*where).label(name) for name, where in counts.items()]
    query: Select[Any] = select(*columns)
    (found,) = await read(connection, query, Numbers)
    return found


async def refusals_kept(connection: AsyncConnection) -> list[Refusal]:
    """Why events are in quarantine that nobody has judged again, the newest first; of the newest `NEWEST` of them."""
    kept = select(Event.id, Event.reason, Event.released_at).where(QUARANTINED).order_by(Event.id.desc()).limit(NEWEST)
    found: dict[str, tuple[int, UUID]] = {}
    for row in await connection.execute(kept):
        if row.released_at is None:
            reason = row.reason or ""
            number, newest = found.get(reason, (0, row.id))
            found[reason] = number + 1, newest
    every = [Refusal(reason, number, newest, made_at(newest)) for reason, (number, newest) in found.items()]
    return every[:MOST_REASONS]


def _types() -> CTE:
    first = select(func.min(Event.type).label("type"), literal(1).label("number")).where(Event.type.is_not(None))
    known = first.cte("known", recursive=True)
    following = select(func.min(Event.type)).where(Event.type > known.c.type).scalar_subquery()
    bounded = (known.c.type.is_not(None), known.c.number < MOST_TYPES)
    return known.union_all(select(following, known.c.number + 1).where(*bounded))


def _since(at: datetime) -> tuple[ColumnElement[bool]]:
    return (Event.id >= id_floor(at),)


def _count(*where: ColumnElement[bool]) -> ColumnElement[int]:
    return counted(select(literal(1)).select_from(Event).where(*where))

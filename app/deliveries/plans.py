"""Plans: what a replay of chosen events would deliver."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import read
from app.events.queries import EventFilter
from app.events.tables import Event, Status

IDS_AT_ONCE = 5000


class NotReplayable(Exception):
    """The replay is not possible. The text says why; the surface adds what to do."""


class InQuarantine(NotReplayable):
    """Quarantined events must be released before they can be delivered."""


class WereErased(NotReplayable):
    """Erased events have nothing left to deliver."""


class UnknownEvents(NotReplayable):
    """Some ids belong to no event."""

    def __init__(self, ids: Collection[UUID]) -> None:
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        super().__init__(f"Unknown event id: {min(ids)}{more}.")


class Plan(NamedTuple):
    """What a replay would deliver.

    Attributes:
        events: How many events.
        types: How many events of each type.
        oldest: When the first event arrived.
        newest: When the last event arrived.
        quarantined: How many more events match but are left out, as they are quarantined.
        erased: How many more events match but are left out, as they were erased.
    """

    events: int
    types: dict[str, int]
    oldest: datetime | None
    newest: datetime | None
    quarantined: int
    erased: int


class Counted(NamedTuple):
    """How many events have one type and status, erased or not, and when the first and the last of them arrived."""

    type: str | None
    status: str
    erased: bool
    events: int
    oldest: datetime
    newest: datetime


async def plan(connection: AsyncConnection, narrowed: EventFilter, ids: Collection[UUID] | None = None) -> Plan:
    """Counts what a replay would deliver, in constant memory.

    Args:
        connection: A connection to the database.
        narrowed: Which events.
        ids: These events instead.

    Raises:
        InQuarantine: quarantined events were asked for.
        WereErased: erased events were asked for by their ids.
        UnknownEvents: an id belongs to no event.
    """
    if narrowed.status == Status.QUARANTINED:
        raise InQuarantine("Quarantined events are not replayed.")
    if ids is None:
        parts = [await _counted(connection, select(Event).where(*part)) for part in narrowed.parts()]
        return _summed(chain.from_iterable(parts))
    counted: list[Counted] = []
    unknown = set(ids)
    for some in batches(sorted(unknown)):
        unknown.difference_update(await connection.scalars(select(Event.id).where(Event.id.in_(some))))
        counted += await _counted(connection, select(Event).where(Event.id.in_(some)))
    found = _summed(counted)
    if found.quarantined:
        raise InQuarantine(f"{found.quarantined} of these events are quarantined.")
    if found.erased:
        raise WereErased(f"{found.erased} of these events were erased.")
    if unknown:
        raise UnknownEvents(unknown)
    return found


def batches(ids: Sequence[UUID]) -> Iterable[Sequence[UUID]]:
    """The ids in batches that one statement can take."""
    return (ids[at : at + IDS_AT_ONCE] for at in range(0, len(ids), IDS_AT_ONCE))


async def _counted(connection: AsyncConnection, query: Select[Any]) -> list[Counted]:
    matching = query.subquery()
    grouped = (
        select(
            matching.c.type,
            matching.c.status,
            matching.c.erased_at.is_not(None).label("erased"),
            func.count().label("events"),
            func.min(matching.c.received_at).label("oldest"),
            func.max(matching.c.received_at).label("newest"),
        )
        .group_by(matching.c.type, matching.c.status, matching.c.erased_at.is_not(None))
        .order_by(matching.c.type)
    )
    return await read(connection, grouped, Counted)


def _summed(counted: Iterable[Counted]) -> Plan:
    types: dict[str, int] = {}
    quarantined = erased = 0
    accepted = []
    for group in counted:
        if group.erased:
            erased += group.events
            continue
        if group.status == Status.QUARANTINED:
            quarantined += group.events
            continue
        accepted.append(group)
        types[group.type or "-"] = types.get(group.type or "-", 0) + group.events
    return Plan(
        events=sum(types.values()),
        types=types,
        oldest=min((group.oldest for group in accepted), default=None),
        newest=max((group.newest for group in accepted), default=None),
        quarantined=quarantined,
        erased=erased,
    )

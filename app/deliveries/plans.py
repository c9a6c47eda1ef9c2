"""Plans: what a replay of chosen events would deliver."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import read
from app.events.queries import EventFilter
from app.events.tables import Event, Status

IDS_AT_ONCE = 5000


class NotReplayable(Exception):
    """There is nothing that could be replayed so; the text says why, and the surface what to do."""


class InQuarantine(NotReplayable):
    """Events must be released before they can be delivered."""


class UnknownEvents(NotReplayable):
    """Some ids are no event's."""

    def __init__(self, ids: Collection[UUID]) -> None:
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        super().__init__(f"Unknown event id: {min(ids)}{more}.")


class Plan(NamedTuple):
    """What a replay would deliver.

    Attributes:
        events: How many.
        types: How many of each type.
        oldest: When the first of them arrived.
        newest: When the last of them arrived.
        quarantined: How many more match, and are left out.
    """

    events: int
    types: dict[str, int]
    oldest: datetime | None
    newest: datetime | None
    quarantined: int


class Counted(NamedTuple):
    """Events of one type and status."""

    type: str | None
    status: str
    events: int
    oldest: datetime
    newest: datetime


async def plan(connection: AsyncConnection, narrowed: EventFilter, ids: Collection[UUID] | None = None) -> Plan:
    """Counts what a replay would deliver, in constant memory.

    Args:
        connection: The database's.
        narrowed: Which events.
        ids: These events instead.

    Raises:
        InQuarantine: quarantined events were asked for.
        UnknownEvents: an id is no event's.
    """
    if narrowed.status == Status.QUARANTINED:
        raise InQuarantine("Quarantined events are not replayed.")
    if ids is None:
        return _summed(await _counted(connection, select(Event).where(*narrowed.conditions())))
    counted: list[Counted] = []
    unknown = set(ids)
    for some in batches(sorted(unknown)):
        unknown.difference_update(await connection.scalars(select(Event.id).where(Event.id.in_(some))))
        counted += await _counted(connection, select(Event).where(Event.id.in_(some)))
    found = _summed(counted)
    if found.quarantined:
        raise InQuarantine(f"{found.quarantined} of these events are quarantined.")
    if unknown:
        raise UnknownEvents(unknown)
    return found


def batches(ids: Sequence[UUID]) -> Iterable[Sequence[UUID]]:
    """As many at a time as one statement takes."""
    return (ids[at : at + IDS_AT_ONCE] for at in range(0, len(ids), IDS_AT_ONCE))


async def _counted(connection: AsyncConnection, query: Select[Any]) -> list[Counted]:
    matching = query.subquery()
    grouped = (
        select(
            matching.c.type,
            matching.c.status,
            func.count().label("events"),
            func.min(matching.c.received_at).label("oldest"),
            func.max(matching.c.received_at).label("newest"),
        )
        .group_by(matching.c.type, matching.c.status)
        .order_by(matching.c.type)
    )
    return await read(connection, grouped, Counted)


def _summed(counted: Iterable[Counted]) -> Plan:
    types: dict[str, int] = {}
    quarantined = 0
    accepted = []
    for each in counted:
        if each.status == Status.QUARANTINED:
            quarantined += each.events
            continue
        accepted.append(each)
        types[each.type or "-"] = types.get(each.type or "-", 0) + each.events
    return Plan(
        events=sum(types.values()),
        types=types,
        oldest=min((each.oldest for each in accepted), default=None),
        newest=max((each.newest for each in accepted), default=None),
        quarantined=quarantined,
    )

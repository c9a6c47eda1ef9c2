"""Queries of deliveries and their attempts. None loads the body of an event."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    String,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    literal_column,
    null,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.counting import counted
from app.database.rows import columns, read, read_one
from app.deliveries.tables import (
    DEAD,
    DROPPED,
    FAILING,
    PENDING,
    PENDING_PARTS,
    RESULT,
    Attempt,
    AttemptResult,
    Claimed,
    Delivery,
    DeliveryStatus,
)
from app.deliveries.transitions import CLAIMED_BEFORE, OF_DELIVERY
from app.events.ids import id_floor
from app.events.tables import Event

WAITING = and_(PENDING, Delivery.attempts == literal_column("0"), ~exists().where(OF_DELIVERY).correlate(Delivery))
"""Deliveries that wait for their first attempt."""

WRITTEN_OUT: dict[str, ColumnElement[bool]] = {
    DeliveryStatus.PENDING: PENDING,
    DeliveryStatus.DEAD: DEAD,
    DeliveryStatus.DROPPED: DROPPED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilter:
    """Which deliveries to select; a field that is None does not restrict them."""

    status: str | None = None
    destination: str | None = None
    reference: str | None = None
    event_id: UUID | None = None
    replay_id: UUID | None = None
    failing: bool = False
    """Only those that have failed and are tried again."""
    waiting: bool = False
    """Only those that wait for their first attempt."""
    in_flight_at: datetime | None = None
    """Only those that a worker is sending at this time."""
    since: datetime | None = None
    """The earliest time at which a delivery was made, included."""
    until: datetime | None = None
    """The latest such time, excluded."""

    @property
    def in_parts(self) -> bool:
        """Whether it selects most of what is pending, whose parts have an index each."""
        return self.waiting or (self.status == DeliveryStatus.PENDING and self.in_flight_at is None)

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of a WHERE clause."""
        conditions: list[ColumnElement[bool]] = []
        if self.status is not None:
            conditions.append(WRITTEN_OUT.get(self.status, Delivery.status == self.status))
        if self.reference is not None:
            conditions.append(of_events(select(Event.id).where(Event.reference == self.reference)))
        if self.event_id is not None:
            conditions.append(of_events([self.event_id]))
        if self.failing:
            conditions.append(FAILING)
        if self.waiting:
            conditions.append(WAITING)
        if self.in_flight_at is not None:
            sent = select(Claimed.delivery_id).where(Claimed.ends_at > self.in_flight_at)
            conditions += [PENDING, Delivery.id.in_(sent)]
        if self.since is not None:
            conditions.append(Delivery.id >= id_floor(self.since))
        if self.until is not None:
            conditions.append(Delivery.id < id_floor(self.until))
        equal = ("destination", "replay_id")
        wanted = [(name, getattr(self, name)) for name in equal]
        return conditions + [getattr(Delivery, name) == value for name, value in wanted if value is not None]


def of_events(ids: Select[UUID] | Sequence[UUID]) -> ColumnElement[bool]:
    """Selects deliveries by their events, for which live ones and those of replays have an index each."""
    deliveries = select(Delivery.id).where(Delivery.event_id.in_(ids))
    live, replayed = Delivery.replay_id.is_(None), Delivery.replay_id.is_not(None)
    return Delivery.id.in_(union_all(deliveries.where(live), deliveries.where(replayed)))


class ListedDelivery(NamedTuple):
    """A delivery with its event's type and the outcome of its last attempt."""

    id: UUID
    event_id: UUID
    destination: str
    reference: str | None
    replay_id: UUID | None
    status: str
    due_at: datetime | None
    claimed_by: str | None
    claimed_at: datetime | None
    attempts: int
    attempts_before: int
    lost: int
    finished_at: datetime | None
    type: str | None
    last_status: int | None
    last_result: str | None
    last_error: str | None


class ListedAttempt(NamedTuple):
    """A finished attempt."""

    number: int
    started_at: datetime
    duration_ms: int | None
    status: int | None
    result: str
    error: str | None
    answer: bytes | None


_sent: dict[str, ColumnElement[Any]] = {
    "due_at": func.coalesce(Claimed.ends_at, Delivery.due_at),
    "claimed_by": func.coalesce(Claimed.worker, Delivery.claimed_by),
    "claimed_at": func.coalesce(Claimed.started_at, Delivery.claimed_at),
    "attempts": func.coalesce(Claimed.attempt, Delivery.attempts),
}
SHOWN: Select[Any] = select(
    *(_sent.get(column.name, column).label(column.name) for column in columns(Delivery, ListedDelivery))
).outerjoin(Claimed, OF_DELIVERY)
"""Deliveries as they are shown. One that is being sent has the end of its claim as `due_at`, and counts the attempt."""

_delivered_at_once = Delivery.first_started_at.is_not(None)
_also_a_row = exists().where(Attempt.delivery_id == Delivery.id, Attempt.number == 1)
BEGUN = case((CLAIMED_BEFORE, 1), else_=0)  # an attempt that is not over
_SUMMARY: Select[Any] = (
    SHOWN.add_columns(
        Event.type,
        func.coalesce(Delivery.first_status, Attempt.status).label("last_status"),
        case(
            (_delivered_at_once, AttemptResult.DELIVERED.value),
            (Attempt.number.is_not(None), RESULT),
        ).label("last_result"),
        Attempt.error.label("last_error"),
    )
    .outerjoin(Event, Event.id == Delivery.event_id)
    .outerjoin(Attempt, and_(Attempt.delivery_id == Delivery.id, Attempt.number == Delivery.attempts - BEGUN))
)
ATTEMPTS = union_all(
    select(*(column for column in Attempt.__table__.columns if column.name != "result"), RESULT.label("result")),
    select(
        Delivery.id,
        literal(1),
        Delivery.first_started_at,
        Delivery.first_duration_ms,
        Delivery.first_status,
        cast(null(), String),
        Delivery.first_answer,
        literal(AttemptResult.DELIVERED.value),
    ).where(_delivered_at_once, ~_also_a_row),
).subquery("finished")
"""All finished attempts: those with a row of their own, and first ones that delivered.

An attempt may be in both: if the connection breaks during a commit that was made, the worker records it again.
"""


async def list_deliveries(
    connection: AsyncConnection,
    narrowed: DeliveryFilter,
    *,
    limit: int,
    before: UUID | None = None,
    after: UUID | None = None,
) -> list[ListedDelivery]:
    """Deliveries with the outcome of their last attempt; the last id, as `before`, gives the next page.

    Every filter has an index, except the status delivered, which nearly all deliveries have.

    Args:
        connection: A connection to the database.
        narrowed: Which deliveries.
        limit: The most of them.
        before: Only older ones than this one, the newest first.
        after: Only newer ones than this one, the oldest first.
    """
    order = Delivery.id.desc() if after is None else Delivery.id.asc()
    query = _SUMMARY.where(*narrowed.conditions()).order_by(order).limit(limit)
    if before is not None:
        query = query.where(Delivery.id < before)
    if after is not None:
        query = query.where(Delivery.id > after)
    of_events = narrowed.reference is not None or narrowed.event_id is not None
    if narrowed.replay_id is not None and narrowed.status is None and narrowed.reference is None and after is None:
        query = _of_replay(narrowed, limit=limit, before=before)
    elif narrowed.in_parts and narrowed.replay_id is None and not of_events:
        query = query.where(Delivery.id.in_(_first_pending(narrowed, limit=limit, before=before, after=after)))
    return await read(connection, query, ListedDelivery)


async def deliveries_of(connection: AsyncConnection, events: Sequence[UUID], *, most: int) -> list[ListedDelivery]:
    """The newest deliveries of these events, the oldest of them first."""
    if not events:
        return []
    query = _SUMMARY.where(of_events(events)).order_by(Delivery.id.desc()).limit(most)
    return (await read(connection, query, ListedDelivery))[::-1]


async def count_deliveries(connection: AsyncConnection, narrowed: DeliveryFilter) -> int:
    """How many there are, at most `MOST_COUNTED + 1`."""
    query = select(Delivery.id).where(*narrowed.conditions())
    return await connection.scalar(select(counted(query))) or 0


async def get_delivery(connection: AsyncConnection, delivery_id: UUID) -> ListedDelivery | None:
    """One delivery, as in a list."""
    return await read_one(connection, _SUMMARY.where(Delivery.id == delivery_id), ListedDelivery)


async def list_attempts(connection: AsyncConnection, delivery_id: UUID) -> list[ListedAttempt]:
    """The finished attempts of a delivery, in order."""
    kept = (ATTEMPTS.c[name] for name in ListedAttempt._fields)
    query = select(*kept).where(ATTEMPTS.c.delivery_id == delivery_id).order_by(ATTEMPTS.c.number)
    return await read(connection, query, ListedAttempt)


def _of_replay(narrowed: DeliveryFilter, *, limit: int, before: UUID | None) -> Select[Any]:
    """The deliveries of a replay, by event: it makes them in the order of arrival, which has an index."""
    query = _SUMMARY.where(*narrowed.conditions()).order_by(Delivery.event_id.desc()).limit(limit)
    if before is None:
        return query
    last = select(Delivery.event_id).where(Delivery.id == before).scalar_subquery()
    return query.where(Delivery.event_id < last)


def _first_pending(
    narrowed: DeliveryFilter,
    *,
    limit: int,
    before: UUID | None,
    after: UUID | None,
) -> Select[Any]:
    """The first deliveries of each part, among which are the first of all."""
    parts = []
    # An expression for the replayed ones: SQLite would read all deliveries by their ids to find a few of these.
    for part, place in zip(
        PENDING_PARTS, (Delivery.id, Delivery.id, func.coalesce(Delivery.id, Delivery.id)), strict=True
    ):
        order = place.desc() if after is None else place.asc()
        query = select(Delivery.id).where(part, *narrowed.conditions()).order_by(order).limit(limit)
        if before is not None:
            query = query.where(place < before)
        if after is not None:
            query = query.where(place > after)
        parts.append(select(query.subquery().c.id))
    return select(union_all(*parts).subquery().c.id)

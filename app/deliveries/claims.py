"""Claims: which deliveries of a destination a worker may send now."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, and_, bindparam, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.database import insert_new
from app.deliveries.queue import promote
from app.deliveries.retry import MOST_ATTEMPTS
from app.deliveries.tables import PENDING, Attempt, Delivery, DeliveryStatus
from app.events.tables import Event

MARGIN = timedelta(seconds=5)
"""How much longer than an attempt a claim lasts: for the database's answers, and clocks that differ a little."""

LOST = "The worker ended before it knew the answer; the consumer may have had it."


class Limits(NamedTuple):
    """What the queue must know of a destination's settings."""

    name: str
    timeout: timedelta
    max_in_flight: int
    rate: float | None = None


class Claim(NamedTuple):
    """A delivery that this worker alone may send, until the claim ends."""

    delivery_id: UUID
    attempt: int
    """From 1, over the delivery's whole life."""
    tries: int
    """Attempts since a person last asked for it, this one included."""
    event_id: UUID
    type: str | None
    reference: str | None
    replay_id: UUID | None
    headers: list[list[str]]
    body: bytes
    superseded: bool


_newer = aliased(Event)
_superseded = exists().where(
    _newer.reference == Event.reference,
    Event.order_version.is_not(None),  # of this event alone, so that without a version no other is looked at
    or_(
        _newer.order_version > Event.order_version,
        and_(_newer.order_version == Event.order_version, _newer.order_modified > Event.order_modified),
    ),
)
_due = (
    select(
        Delivery.id,
        Delivery.attempts,
        Delivery.attempts_before,
        Delivery.claimed_by,
        Delivery.claimed_at,
        Delivery.replay_id,
        Delivery.reference,
        Event.id.label("event_id"),
        Event.type,
        Event.headers,
        Event.body,
        _superseded.label("superseded"),
    )
    .join(Event, Event.id == Delivery.event_id)
    .where(Delivery.destination == bindparam("destination"), PENDING, Delivery.due_at <= bindparam("now"))
    .order_by(Delivery.due_at)
    .limit(bindparam("most"))
    .with_for_update(of=Delivery, skip_locked=True)
)
DUE = (_due.where(Delivery.replay_id.is_(None)), _due.where(Delivery.replay_id.is_not(None)))
"""Live deliveries, then those of replays."""

_soonest = select(func.min(Delivery.due_at)).where(
    Delivery.destination == bindparam("destination"), PENDING, Delivery.due_at > bindparam("now")
)
NEXT_DUE = select(
    _soonest.where(Delivery.replay_id.is_(None)).scalar_subquery(),
    _soonest.where(Delivery.replay_id.is_not(None)).scalar_subquery(),
)
IN_FLIGHT = (
    select(func.count())
    .select_from(Delivery)
    .where(
        Delivery.destination == bindparam("destination"),
        Delivery.claimed_by.is_not(None),
        Delivery.due_at > bindparam("now"),
    )
)
CLAIM = (
    update(Delivery)
    .where(Delivery.id.in_(bindparam("ids", expanding=True)))
    .values(
        claimed_by=bindparam("worker"),
        claimed_at=bindparam("at"),
        due_at=bindparam("until"),
        attempts=Delivery.attempts + 1,
    )
)


async def claim(connection: AsyncConnection, limits: Limits, *, free: int, worker: str, now: datetime) -> list[Claim]:
    """Up to `free` deliveries that are due, those of replays last; the caller holds the destination's lock."""
    rows: list[Row[Any]] = []
    for query in DUE:
        if len(rows) < free:
            due = {"destination": limits.name, "now": now, "most": free - len(rows)}
            rows.extend(await connection.execute(query, due))
    found = len(rows)
    lost = [row for row in rows if row.claimed_by is not None]
    if lost:
        await _record_lost(connection, limits.name, lost, now=now)
        rows = [row for row in rows if row.claimed_by is None or _tries(row) < MOST_ATTEMPTS]
    if rows:
        until = now + limits.timeout + MARGIN
        ids = [row.id for row in rows]
        await connection.execute(CLAIM, {"ids": ids, "worker": worker, "at": now, "until": until})
    claims = [_claim(row) for row in rows]
    if len(rows) < found:  # what waited behind those that are dead now
        claims += await claim(connection, limits, free=free - len(rows), worker=worker, now=now)
    return claims


async def in_flight(connection: AsyncConnection, name: str, *, now: datetime) -> int:
    """How many deliveries of the destination are being sent, by all workers."""
    return await connection.scalar(IN_FLIGHT, {"destination": name, "now": now}) or 0


async def next_due(connection: AsyncConnection, name: str, *, now: datetime) -> datetime | None:
    """When the next delivery of the destination becomes due, or its claim ends."""
    found = (await connection.execute(NEXT_DUE, {"destination": name, "now": now})).one()
    return min((at for at in found if at is not None), default=None)


def _claim(row: Row[Any]) -> Claim:
    return Claim(
        delivery_id=row.id,
        attempt=row.attempts + 1,
        tries=_tries(row) + 1,
        event_id=row.event_id,
        type=row.type,
        reference=row.reference,
        replay_id=row.replay_id,
        headers=row.headers,
        body=row.body,
        superseded=row.superseded,
    )


def _tries(row: Row[Any]) -> int:
    return int(row.attempts - row.attempts_before)


async def _record_lost(connection: AsyncConnection, name: str, lost: Sequence[Row[Any]], *, now: datetime) -> None:
    """Attempts whose workers are gone; after the last allowed one the delivery is dead like any other."""
    attempts = [
        {"delivery_id": row.id, "number": row.attempts, "started_at": row.claimed_at, "error": LOST} for row in lost
    ]
    await insert_new(connection, Attempt, attempts)
    dead = [row for row in lost if _tries(row) >= MOST_ATTEMPTS]
    if dead:
        given_up = update(Delivery).where(Delivery.id.in_([row.id for row in dead]))
        status = DeliveryStatus.DEAD.value
        await connection.execute(
            given_up.values(status=status, due_at=None, claimed_by=None, claimed_at=None, finished_at=now)
        )
        await promote(connection, name, {row.reference for row in dead if row.reference is not None}, now=now)

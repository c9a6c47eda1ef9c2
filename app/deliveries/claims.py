"""Claims: which deliveries of a destination a worker may send now."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, bindparam, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.database.writing import insert_new
from app.deliveries.queue import drop_cancelled, prefer_live
from app.deliveries.retry import delay_after_loss
from app.deliveries.tables import PENDING, Attempt, AttemptResult, Delivery
from app.deliveries.transitions import CLAIM, LOSE, in_flight
from app.events.tables import Event

MARGIN = timedelta(seconds=5)
"""How much longer than an attempt a claim lasts: the database needs time, and clocks may differ a little."""

LOST = "The worker ended before it knew the answer; the consumer may have had it."


class Limits(NamedTuple):
    """The settings of a destination that the queue needs."""

    name: str
    timeout: timedelta
    max_in_flight: int
    rate: float | None = None


class Claim(NamedTuple):
    """A delivery that only this worker may send until the claim ends."""

    delivery_id: UUID
    attempt: int
    """The number of this attempt, from 1."""
    tries: int
    """How many attempts count towards dead, including this one."""
    lost: int
    """How many attempts in a row before this one were lost with their process."""
    event_id: UUID
    type: str | None
    reference: str | None
    replay_id: UUID | None
    headers: list[list[str]]
    body: bytes
    superseded: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A delivery that a worker holds or may claim."""

    delivery_id: UUID
    attempts: int
    attempts_before: int
    lost: int
    claimed_by: str | None
    """If the delivery is due: the worker that died during its attempt."""
    claimed_at: datetime | None
    replay_id: UUID | None
    reference: str | None


@dataclass(frozen=True, slots=True)
class Due(Held):
    """A delivery to send, with its event."""

    event_id: UUID
    type: str | None
    headers: list[list[str]]
    body: bytes
    superseded: bool

    def claim(self) -> Claim:
        """The claim of this delivery."""
        return Claim(
            delivery_id=self.delivery_id,
            attempt=self.attempts + 1,
            tries=self.attempts - self.attempts_before + 1,
            lost=self.lost,
            event_id=self.event_id,
            type=self.type,
            reference=self.reference,
            replay_id=self.replay_id,
            headers=self.headers,
            body=self.body,
            superseded=self.superseded,
        )


_held = (
    Delivery.id,
    Delivery.attempts,
    Delivery.attempts_before,
    Delivery.lost,
    Delivery.claimed_by,
    Delivery.claimed_at,
    Delivery.replay_id,
    Delivery.reference,
)
_newer = aliased(Event)
_of_this_order = exists().where(_newer.reference == Event.reference)
_superseded = or_(  # two conditions, as an index answers each with one look-up, however many events the order has
    _of_this_order.where(_newer.order_version > Event.order_version),
    _of_this_order.where(_newer.order_version == Event.order_version, _newer.order_modified > Event.order_modified),
)
_due: Select[*tuple[Any, ...]] = (
    select(*_held, Event.id, Event.type, Event.headers, Event.body, _superseded)
    .join(Event, Event.id == Delivery.event_id)
    .where(Delivery.destination == bindparam("destination"), PENDING, Delivery.due_at <= bindparam("now"))
    .order_by(Delivery.due_at)
    .limit(bindparam("most"))
    .with_for_update(of=Delivery, skip_locked=True)
)
DUE = (_due.where(Delivery.replay_id.is_(None)), _due.where(Delivery.replay_id.is_not(None)))
"""First live deliveries, then those of replays."""

_soonest = select(func.min(Delivery.due_at)).where(
    Delivery.destination == bindparam("destination"), PENDING, Delivery.due_at > bindparam("now")
)
NEXT_DUE = select(
    _soonest.where(Delivery.replay_id.is_(None)).scalar_subquery(),
    _soonest.where(Delivery.replay_id.is_not(None)).scalar_subquery(),
)
IN_FLIGHT = (
    select(func.count().label("all"), func.count().filter(Delivery.lost > 0).label("alone"))
    .select_from(Delivery)
    .where(Delivery.destination == bindparam("destination"), in_flight(bindparam("now")))
)
MINE = select(*_held).where(
    Delivery.destination == bindparam("destination"), Delivery.claimed_by == bindparam("worker")
)


class Flying(NamedTuple):
    """How many deliveries of a destination are being sent, by all workers."""

    all: int
    alone: int
    """How many of them must be sent alone."""


async def claim(
    connection: AsyncConnection, limits: Limits, *, free: int, flying: Flying, worker: str, now: datetime
) -> list[Claim]:
    """Claims up to `free` due deliveries, those of replays last. The caller holds the destination's lock.

    A delivery whose last attempt was lost with its process is sent alone: it waits until nothing else is being sent,
    and later deliveries wait for it.
    """
    if flying.alone:
        return []
    while True:
        found: list[Due] = []
        for query in DUE:
            if len(found) < free:
                values = {"destination": limits.name, "now": now, "most": free - len(found)}
                found += [Due(*row) for row in await connection.execute(query, values)]
        lost = [due for due in found if due.claimed_by is not None]
        if not lost:
            break
        await _lose(connection, limits.name, lost, now=now)
    suspect = next((place for place, due in enumerate(found) if due.lost), None)
    if suspect is not None:
        found = found[: suspect or (0 if flying.all else 1)]
    if found:
        until = now + limits.timeout + MARGIN
        ids = [due.delivery_id for due in found]
        await connection.execute(CLAIM, {"ids": ids, "worker": worker, "at": now, "until": until})
    return [due.claim() for due in found]


async def give_back(connection: AsyncConnection, name: str, *, worker: str, now: datetime) -> None:
    """Gives up a worker's claims, as attempts whose answer is not known. None of them can have ended the worker."""
    rows = await connection.execute(MINE, {"destination": name, "worker": worker})
    if mine := [Held(*row) for row in rows]:
        await _lose(connection, name, mine, now=now, blameless=True)


async def _lose(
    connection: AsyncConnection, name: str, lost: Sequence[Held], *, now: datetime, blameless: bool = False
) -> None:
    """Records attempts whose answer will never be known. They do not count towards dead: at most one ended the worker.

    Args:
        connection: In a transaction that holds the destination's lock.
        name: The destination's name.
        lost: Its claimed deliveries.
        now: The time.
        blameless: Whether none of them can have ended the worker. They are then due at once and need not be sent alone.
    """
    attempts = [
        {
            "delivery_id": held.delivery_id,
            "number": held.attempts,
            "started_at": held.claimed_at,
            "result": AttemptResult.LOST.value,
            "error": LOST,
        }
        for held in lost
    ]
    await insert_new(connection, Attempt, attempts)
    changes = [
        {"delivery_id": held.delivery_id, "due": now, "losses": held.lost}
        if blameless
        else {
            "delivery_id": held.delivery_id,
            "due": now + delay_after_loss(held.attempts - held.attempts_before, lost=held.lost),
            "losses": held.lost + 1,
        }
        for held in lost
    ]
    await connection.execute(LOSE, changes)
    replayed = [held for held in lost if held.replay_id is not None]
    await drop_cancelled(connection, [(held.delivery_id, held.replay_id) for held in replayed], now=now)
    await prefer_live(connection, name, {held.reference for held in replayed if held.reference is not None}, now=now)


async def count_in_flight(connection: AsyncConnection, name: str, *, now: datetime) -> Flying:
    """How many deliveries of the destination are being sent."""
    return Flying(*(await connection.execute(IN_FLIGHT, {"destination": name, "now": now})).one())


async def next_due(connection: AsyncConnection, name: str, *, now: datetime) -> datetime | None:
    """When the next delivery of the destination becomes due, or its claim ends."""
    found = (await connection.execute(NEXT_DUE, {"destination": name, "now": now})).one()
    return min((at for at in found if at is not None), default=None)

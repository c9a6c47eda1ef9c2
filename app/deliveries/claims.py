"""Claims: which deliveries of a destination a worker may send now."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, bindparam, case, exists, false, func, insert, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.deliveries.losses import Lost, lose
from app.deliveries.queue import promote
from app.deliveries.tables import PENDING, Claimed, Delivery
from app.deliveries.transitions import OF_DELIVERY, dropped
from app.events.fetches import FAILED, Fetch, FetchCause
from app.events.tables import TRACE, Event, Origin

MARGIN = timedelta(seconds=5)
"""How much longer than an attempt a claim lasts, and so how late an attempt may begin: the database needs time."""


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
    event_name: str | None
    reference: str | None
    replay_id: UUID | None
    headers: list[list[str]]
    body: bytes
    superseded: bool
    origin: str = Origin.RECEIVED
    cause: UUID | None = None
    trace: str | None = None
    """The `traceparent` of the request that brought the event; of a claim that is being sent, that of the attempt."""
    snapshot_failed: bool = False
    """Whether it is a notification without payload whose order could not be fetched."""
    test: bool = False
    """Whether a person sends it to test the destination; see `trial`."""


class Held(NamedTuple):
    """A claim on a delivery, of any worker."""

    delivery_id: UUID
    worker: str
    attempt: int
    lost: int
    ends_at: datetime


class Due(NamedTuple):
    """A delivery to send, with its event."""

    delivery_id: UUID
    attempts: int
    attempts_before: int
    lost: int
    claimed_by: str | None
    """The worker of a release before migration 0011 that died during its attempt."""
    claimed_at: datetime | None
    replay_id: UUID | None
    reference: str | None
    event_id: UUID
    type: str | None
    event_name: str | None
    headers: list[list[str]]
    body: bytes
    erased_at: datetime | None
    superseded: bool
    origin: str
    cause: UUID | None
    trace: str | None
    snapshot_failed: bool

    def claim(self) -> Claim:
        """The claim of this delivery."""
        return Claim(
            delivery_id=self.delivery_id,
            attempt=self.attempts + 1,
            tries=self.attempts - self.attempts_before + 1,
            lost=self.lost,
            event_id=self.event_id,
            type=self.type,
            event_name=self.event_name,
            reference=self.reference,
            replay_id=self.replay_id,
            headers=self.headers,
            body=self.body,
            superseded=self.superseded,
            origin=self.origin,
            cause=self.cause,
            trace=self.trace,
            snapshot_failed=self.snapshot_failed,
        )

    def lost_attempt(self) -> Lost:
        """The attempt of the worker that died."""
        of_delivery = (self.attempts_before, self.lost, self.replay_id, self.reference)
        return Lost(self.delivery_id, self.attempts, self.claimed_at, *of_delivery)


_newer = aliased(Event)
_of_this_order = exists().where(_newer.reference == Event.reference)
_superseded = or_(  # two conditions, as an index answers each with one look-up, however many events the order has
    _of_this_order.where(_newer.order_version > Event.order_version),
    _of_this_order.where(_newer.order_version == Event.order_version, _newer.order_modified > Event.order_modified),
)
_snapshot_failed = case(
    (
        Event.shape == literal_column("'notification'"),
        exists().where(FetchCause.event_id == Event.id, Fetch.id == FetchCause.fetch_id, Fetch.status.in_(FAILED)),
    ),
    else_=false(),
)
_due: Select[*tuple[Any, ...]] = (
    select(
        Delivery.id,
        Delivery.attempts,
        Delivery.attempts_before,
        Delivery.lost,
        Delivery.claimed_by,
        Delivery.claimed_at,
        Delivery.replay_id,
        Delivery.reference,
        Event.id,
        Event.type,
        Event.event_name,
        Event.headers,
        Event.body,
        Event.erased_at,
        _superseded,
        Event.origin,
        Event.cause,
        TRACE,
        _snapshot_failed,
    )
    .join(Event, Event.id == Delivery.event_id)
    .where(
        Delivery.destination == bindparam("destination"),
        PENDING,
        Delivery.due_at <= bindparam("now"),
        ~exists().where(OF_DELIVERY),
    )
    .order_by(Delivery.due_at)
    .limit(bindparam("most"))
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
CLAIM = insert(Claimed)
CLAIMS = select(Claimed.delivery_id, Claimed.worker, Claimed.attempt, Claimed.lost, Claimed.ends_at).where(
    Claimed.destination == bindparam("destination")
)


async def read_claims(connection: AsyncConnection, name: str) -> list[Held]:
    """All claims on deliveries of a destination. The caller holds its lock."""
    return [Held(*row) for row in await connection.execute(CLAIMS, {"destination": name})]


async def claim(
    connection: AsyncConnection, limits: Limits, *, free: int, flying: Sequence[Held], worker: str, now: datetime
) -> list[Claim]:
    """Claims up to `free` due deliveries, those of replays last. The caller holds the destination's lock.

    A delivery whose last attempt was lost with its process is sent alone: it waits until nothing else is being sent,
    and later deliveries wait for it. Deliveries of erased events are dropped.

    Args:
        connection: In a transaction that may write.
        limits: The destination's limits.
        free: The most deliveries to claim.
        flying: The claims that have not run out. Those that have were lost before.
        worker: The worker's name.
        now: The time.
    """
    if any(held.lost for held in flying):
        return []
    while True:
        found: list[Due] = []
        for query in DUE:
            if len(found) < free:
                values = {"destination": limits.name, "now": now, "most": free - len(found)}
                found += [Due(*row) for row in await connection.execute(query, values)]
        lost = [due.lost_attempt() for due in found if due.claimed_by is not None]
        erased = [due for due in found if due.claimed_by is None and due.erased_at is not None]
        if not lost and not erased:
            break
        if lost:
            await lose(connection, limits.name, lost, now=now)
        if erased:  # made while its event was being erased: there is nothing to send
            which = update(Delivery).where(Delivery.id.in_([due.delivery_id for due in erased]), PENDING)
            await connection.execute(which.values(dropped(now=now).values()))
            references = {due.reference for due in erased if due.reference is not None}
            await promote(connection, limits.name, references, now=now)
    suspect = next((place for place, due in enumerate(found) if due.lost), None)
    if suspect is not None:
        found = found[: suspect or (0 if flying else 1)]
    claims = [due.claim() for due in found]
    if claims:
        rows = [
            {
                "destination": limits.name,
                "delivery_id": claim.delivery_id,
                "worker": worker,
                "attempt": claim.attempt,
                "lost": claim.lost,
                "started_at": now,
                "ends_at": now + limits.timeout + MARGIN,
            }
            for claim in claims
        ]
        await connection.execute(CLAIM, rows)
    return claims


async def next_due(connection: AsyncConnection, name: str, *, now: datetime) -> list[datetime]:
    """When the next live delivery of the destination and the next one of a replay become due, if there are any."""
    found = (await connection.execute(NEXT_DUE, {"destination": name, "now": now})).one()
    return [at for at in found if at is not None]

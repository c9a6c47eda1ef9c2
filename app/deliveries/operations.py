"""What operators do: retry, drop, pause, resume, remove. No function commits; each locks the destination."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, and_, delete, exists, func, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from app.deliveries.groups import Alike
from app.deliveries.losses import lose_run_out
from app.deliveries.queries import of_events
from app.deliveries.queue import ORDER, State, lock, promote
from app.deliveries.tables import (
    DEAD,
    FAILING,
    PENDING,
    PENDING_PARTS,
    Delivery,
    DeliveryStatus,
    Destination,
    PassedOver,
    Replay,
    ReplayStatus,
)
from app.deliveries.transitions import HAS_TIME, UNCLAIMED, WAITS, dropped, in_flight, revived
from app.events.tables import Event

BATCH = 500
"""The most deliveries that one transaction changes."""

IN_ORDER = (
    (PENDING_PARTS[0], (Delivery.reference, *ORDER)),
    (PENDING_PARTS[1], (Delivery.due_at,)),
    (PENDING_PARTS[2], (Delivery.due_at,)),
)
"""The parts of what is pending, each in the order of its index. In another order each batch would read the whole part.
"""

ATTEMPTED = ((and_(FAILING, WAITS), (Delivery.id,)), (and_(FAILING, HAS_TIME), (Delivery.id,)))
"""The parts of what has failed and is tried again."""


class Chosen(NamedTuple):
    """A delivery that an operator changes."""

    id: UUID
    event_id: UUID
    destination: str
    reference: str | None
    status: str
    due_at: datetime | None


CHOSEN = select(
    Delivery.id,
    Delivery.event_id,
    Delivery.destination,
    Delivery.reference,
    Delivery.status,
    Delivery.due_at,
)

ANY = Alike()
"""Whatever the outcome of their last attempt."""


class NotDone(Exception):
    """Nothing was changed. The text says why; the surface adds what to do."""


class WasDelivered(NotDone):
    """The delivery was delivered; only a replay delivers its event again."""

    def __init__(self, delivery: Chosen) -> None:
        super().__init__(f"Delivery {delivery.id} was delivered.")
        self.event_id = delivery.event_id


class WasErased(NotDone):
    """The event of the delivery was erased."""

    def __init__(self, delivery: Chosen) -> None:
        super().__init__(f"Event {delivery.event_id} was erased: nothing is left of it to deliver.")


class BeingSent(NotDone):
    """A worker is sending the delivery now."""

    def __init__(self, delivery_id: UUID) -> None:
        super().__init__(f"Delivery {delivery_id} is being sent now.")


class WaitsBehind(NotDone):
    """Another delivery of the same reference goes first."""

    def __init__(self, delivery: Chosen) -> None:
        super().__init__(f"Delivery {delivery.id} waits for another one of {delivery.reference}.")
        self.destination = delivery.destination
        self.reference = delivery.reference or ""  # never None: a delivery without a reference does not wait


class NobodyKnows(NotDone):
    """There is no such destination."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no destination {name}.")


async def retry(connection: AsyncConnection, delivery_id: UUID, *, now: datetime) -> None:
    """Makes a pending delivery due now, or makes a dead or dropped one pending again with all its retries.

    Raises:
        NotDone: there is no such delivery, it was delivered, it is being sent, it waits for another one, or its event
            was erased.
    """
    delivery, state, sent_now = await _locked(connection, delivery_id, now=now)
    if state is None:
        raise NotDone(f"Destination {delivery.destination} was removed, or belonged to a replay that has ended.")
    if delivery.status == DeliveryStatus.DELIVERED:
        raise WasDelivered(delivery)
    if await connection.scalar(select(Event.erased_at).where(Event.id == delivery.event_id)) is not None:
        raise WasErased(delivery)
    if delivery.status != DeliveryStatus.PENDING:
        await _revive(connection, delivery.destination, [delivery], now=now)
        return
    if sent_now:
        raise BeingSent(delivery_id)
    if delivery.due_at is None:
        raise WaitsBehind(delivery)
    await connection.execute(update(Delivery).where(Delivery.id == delivery_id).values(due_at=now))


async def drop(connection: AsyncConnection, delivery_id: UUID, *, now: datetime) -> None:
    """Gives up a pending or dead delivery. The next one of its reference goes on.

    Raises:
        NotDone: there is no such delivery, it has ended, or it is being sent.
    """
    delivery, _, sent_now = await _locked(connection, delivery_id, now=now)
    if delivery.status not in (DeliveryStatus.PENDING, DeliveryStatus.DEAD):
        raise NotDone(f"Delivery {delivery_id} is {delivery.status}: there is nothing to drop.")
    if sent_now:
        raise BeingSent(delivery_id)
    await _drop(connection, delivery.destination, [delivery], now=now)


async def drop_of_events(connection: AsyncConnection, ids: Sequence[UUID], *, now: datetime) -> int:
    """Drops all pending and dead deliveries of these events, and returns how many. Deliveries of others go on.

    Raises:
        BeingSent: a worker is sending one of them.
    """
    of_these = (of_events(ids), or_(PENDING, DEAD))
    names = set(await connection.scalars(select(Delivery.destination).where(*of_these)))
    for name in sorted(names):  # as dispatch locks them
        await lock(connection, name)
        await lose_run_out(connection, name, now=now)
    sent_now = await connection.scalar(select(Delivery.id).where(*of_these, PENDING, in_flight(now)).limit(1))
    if sent_now is not None:
        raise BeingSent(sent_now)
    rows = [Chosen(*row) for row in await connection.execute(CHOSEN.where(*of_these))]
    for name in sorted(names):
        await _drop(connection, name, [row for row in rows if row.destination == name], now=now)
    return len(rows)


async def retry_dead(connection: AsyncConnection, destination: str, *, alike: Alike = ANY, now: datetime) -> int:
    """Makes up to `BATCH` dead deliveries of a destination pending again, the oldest first, and returns how many.

    Raises:
        NobodyKnows: there is no such destination, so nobody would send them.
    """
    if await lock(connection, destination) is None:
        raise NobodyKnows(destination)
    rows = await _some(connection, destination, and_(DEAD, *alike.conditions()), Delivery.id)
    await _revive(connection, destination, rows, now=now)
    return len(rows)


async def drop_dead(connection: AsyncConnection, destination: str, *, alike: Alike = ANY, now: datetime) -> int:
    """Drops up to `BATCH` dead deliveries of a destination, the oldest first, and returns how many."""
    await lock(connection, destination)
    rows = await _some(connection, destination, and_(DEAD, *alike.conditions()), Delivery.id)
    await _drop(connection, destination, rows, now=now)
    return len(rows)


async def drop_pending(connection: AsyncConnection, destination: str, *, alike: Alike = ANY, now: datetime) -> int:
    """Drops up to `BATCH` pending deliveries of a destination, except those being sent, and returns how many.

    Those that wait for another one are dropped first: otherwise each drop would make the next one due.
    """
    await lock(connection, destination)
    await lose_run_out(connection, destination, now=now)
    rows: list[Chosen] = []
    for part, order in ATTEMPTED if alike.of_attempt else IN_ORDER:
        if len(rows) < BATCH:
            which = and_(part, ~in_flight(now), *alike.conditions())
            rows += await _some(connection, destination, which, *order)
    rows = rows[:BATCH]
    await _drop(connection, destination, rows, now=now)
    return len(rows)


async def pause(connection: AsyncConnection, name: str, *, reason: str, now: datetime) -> None:
    """Stops sending to a destination; its queue is kept and grows.

    Raises:
        NobodyKnows: there is no such destination.
    """
    await _change(connection, name, paused_at=now, paused_reason=reason)


async def resume(connection: AsyncConnection, name: str, *, now: datetime) -> None:
    """Sends to a destination again at once: closes the circuit, and makes deliveries due that wait for a retry.

    Raises:
        NobodyKnows: there is no such destination.
    """
    closed = {"failures": 0, "failing_since": None, "probe_at": None}
    await _change(connection, name, paused_at=None, paused_reason=None, **closed)
    waiting = (Delivery.destination == name, Delivery.due_at > now, UNCLAIMED)
    for part in PENDING_PARTS[1:]:
        await connection.execute(update(Delivery).where(part, *waiting).values(due_at=now))


async def remove(connection: AsyncConnection, name: str) -> None:
    """Forgets a destination that has nothing pending. Its deliveries stay listed, but dead ones cannot be retried.

    Raises:
        NobodyKnows: there is no such destination.
        NotDone: it has pending deliveries, or a replay to it has not ended.
    """
    if await lock(connection, name) is None:
        raise NobodyKnows(name)
    pending = await connection.scalar(select(func.count()).where(Delivery.destination == name, PENDING))
    if pending:
        raise NotDone(f"Destination {name} still has pending deliveries: {pending}.")
    going_on = Replay.status.in_([ReplayStatus.RUNNING.value, ReplayStatus.PAUSED.value])
    replay_id = await connection.scalar(select(Replay.id).where(Replay.destination == name, going_on).limit(1))
    if replay_id is not None:
        raise NotDone(f"Replay {replay_id} to {name} has not ended.")
    await connection.execute(delete(PassedOver).where(PassedOver.destination == name))
    await connection.execute(delete(Destination).where(Destination.name == name))


async def _change(connection: AsyncConnection, name: str, **values: Any) -> None:
    if await lock(connection, name) is None:
        raise NobodyKnows(name)
    await connection.execute(update(Destination).where(Destination.name == name).values(values))


async def _locked(
    connection: AsyncConnection, delivery_id: UUID, *, now: datetime
) -> tuple[Chosen, State | None, bool]:
    """Locks the delivery's destination.

    Gives the delivery, the destination's state, None if it was removed, and whether the delivery is being sent.
    """
    destination = await connection.scalar(select(Delivery.destination).where(Delivery.id == delivery_id))
    if destination is None:
        raise NotDone(f"There is no delivery {delivery_id}.")
    state = await lock(connection, destination)
    await lose_run_out(connection, destination, now=now)
    this = Delivery.id == delivery_id
    row = (await connection.execute(CHOSEN.where(this).with_for_update())).one_or_none()
    if row is None:  # retention deletes without the destination's lock
        raise NotDone(f"There is no delivery {delivery_id}.")
    delivery = Chosen(*row)
    sent_now = await connection.scalar(select(exists().where(this, PENDING, in_flight(now))))
    return delivery, state, bool(sent_now)


async def _some(
    connection: AsyncConnection, destination: str, which: ColumnElement[bool], *order: InstrumentedAttribute[Any]
) -> list[Chosen]:
    few = literal_column(
        str(BATCH), Integer
    )  # as a parameter, PostgreSQL would take it for a tenth of all and sort them
    query = CHOSEN.where(Delivery.destination == destination, which).order_by(*order).limit(few)
    return [Chosen(*row) for row in await connection.execute(query)]


async def _revive(
    connection: AsyncConnection, destination: str, deliveries: Sequence[Chosen], *, now: datetime
) -> None:
    alone = [delivery.id for delivery in deliveries if delivery.reference is None]
    ids = [delivery.id for delivery in deliveries]
    await connection.execute(update(Delivery).where(Delivery.id.in_(ids)).values(revived()))
    await connection.execute(update(Delivery).where(Delivery.id.in_(alone)).values(due_at=now))
    await promote(connection, destination, _references(deliveries), now=now)


async def _drop(connection: AsyncConnection, destination: str, deliveries: Sequence[Chosen], *, now: datetime) -> None:
    ids = [delivery.id for delivery in deliveries]
    await connection.execute(update(Delivery).where(Delivery.id.in_(ids)).values(dropped(now=now).values()))
    # Nothing waits for one that waits itself, or that is dead.
    first = [delivery for delivery in deliveries if delivery.due_at is not None]
    await promote(connection, destination, _references(first), now=now)


def _references(deliveries: Sequence[Chosen]) -> set[str]:
    return {delivery.reference for delivery in deliveries if delivery.reference is not None}

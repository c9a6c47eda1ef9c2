"""After a restore: nothing is sent until a person says so, least of all what a destination may have had.

The database does not know what was sent after the backup. So each delivery that was pending in the backup becomes dead,
with an attempt whose answer is not known. Lists show it, and a person retries or drops it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.deliveries.dispatch import dispatch, events_at_once
from app.deliveries.registering import register
from app.deliveries.tables import (
    PENDING,
    Attempt,
    AttemptResult,
    Claimed,
    Delivery,
    DeliveryStatus,
    Destination,
    Replay,
    ReplayStatus,
)
from app.deliveries.transitions import NOT_CLAIMED
from app.events.tables import Undispatched
from app.retention.tables import Backup

MAY_HAVE_ARRIVED = "It was pending in the backup that was restored; the destination may have had it since."


class Held(NamedTuple):
    """What a person has to decide about a destination."""

    destination: str
    deliveries: int


class Standstill(NamedTuple):
    """The state after a restore."""

    destinations: list[str]
    """All are paused."""
    held: list[Held]
    pending: int
    """Deliveries that go on once their destination is resumed."""
    replays: list[str]
    """Replays that were running and are paused."""


async def come_to_rest(
    connection: AsyncConnection,
    wanted_types: Mapping[str, Sequence[str]],
    *,
    taken_at: datetime,
    deliver_again: bool,
    now: datetime,
) -> Standstill:
    """Pauses all destinations and holds what was pending. Does not commit; no worker may run.

    Args:
        connection: In a transaction that may write.
        wanted_types: The globs on the type or event name, by destination of the settings.
        taken_at: When the backup was made.
        deliver_again: Whether what was pending stays so, and is sent once its destination is resumed.
        now: The time.
    """
    await register(connection, wanted_types, now=now)
    await connection.execute(delete(Backup))
    await connection.execute(delete(Claimed))
    running: list[str] = []
    held: list[Held] = []
    if not deliver_again:
        while await dispatch(connection, wanted_types, most=events_at_once(len(wanted_types)), now=now):
            pass
        running = await _pause_replays(connection)
        held = await _hold(connection, taken_at=taken_at, now=now)
    paused = {
        "paused_at": now,
        "paused_reason": f"restored: the backup is of {taken_at:%Y-%m-%d %H:%M} UTC",
        "failures": 0,
        "failing_since": None,
        "probe_at": None,
        "next_at": None,
    }
    await connection.execute(update(Destination).values(paused))
    names = (await connection.scalars(select(Destination.name).order_by(Destination.name))).all()
    left = [
        await connection.scalar(select(func.count()).select_from(Delivery).where(PENDING)),
        await connection.scalar(select(func.count()).select_from(Undispatched)),
    ]
    return Standstill(list(names), held, sum(number or 0 for number in left), running)


async def _pause_replays(connection: AsyncConnection) -> list[str]:
    running = Replay.status == ReplayStatus.RUNNING.value
    ids = (await connection.scalars(select(Replay.id).where(running).order_by(Replay.id))).all()
    await connection.execute(update(Replay).where(running).values(status=ReplayStatus.PAUSED.value, next_at=None))
    return [str(each) for each in ids]


async def _hold(connection: AsyncConnection, *, taken_at: datetime, now: datetime) -> list[Held]:
    counted = select(Delivery.destination, func.count()).where(PENDING).group_by(Delivery.destination)
    held = [Held(*row) for row in await connection.execute(counted.order_by(Delivery.destination))]
    unknown = select(
        Delivery.id,
        Delivery.attempts + 1,
        literal(taken_at, Attempt.started_at.type),
        literal(AttemptResult.LOST.value),
        literal(MAY_HAVE_ARRIVED),
    ).where(PENDING)
    await connection.execute(
        insert(Attempt).from_select(["delivery_id", "number", "started_at", "result", "error"], unknown)
    )
    dead = {"status": DeliveryStatus.DEAD.value, "due_at": None, "finished_at": now, "attempts": Delivery.attempts + 1}
    await connection.execute(update(Delivery).where(PENDING).values({**dead, **NOT_CLAIMED}))
    return held

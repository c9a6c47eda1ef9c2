"""The end of claims: released after an attempt, or lost with the worker, so that nobody knows the answer."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.writing import insert_new
from app.deliveries.queue import drop_cancelled, prefer_live
from app.deliveries.retry import delay_after_loss
from app.deliveries.tables import Attempt, AttemptResult, Claimed, Delivery
from app.deliveries.transitions import LOSE, OF_DELIVERY

LOST = "The worker ended before it knew the answer; the consumer may have had it."


class Lost(NamedTuple):
    """An attempt whose worker ended before it knew the answer, and its delivery."""

    delivery_id: UUID
    number: int
    started_at: datetime | None
    attempts_before: int
    lost: int
    replay_id: UUID | None
    reference: str | None


_lost: Select[*tuple[Any, ...]] = (
    select(
        Delivery.id,
        Claimed.attempt,
        Claimed.started_at,
        Delivery.attempts_before,
        Delivery.lost,
        Delivery.replay_id,
        Delivery.reference,
    )
    .join(Claimed, OF_DELIVERY)
    .where(Claimed.destination == bindparam("destination"))
)
RUN_OUT = _lost.where(Claimed.ends_at <= bindparam("now"))
MINE = _lost.where(Claimed.worker == bindparam("worker"))
RELEASE = delete(Claimed).where(
    Claimed.destination == bindparam("name"), Claimed.delivery_id.in_(bindparam("ids", expanding=True))
)


async def release(connection: AsyncConnection, name: str, ids: Collection[UUID]) -> None:
    """Ends the claims on these deliveries of a destination."""
    if ids:
        await connection.execute(RELEASE, {"name": name, "ids": list(ids)})


async def lose_run_out(connection: AsyncConnection, name: str, *, now: datetime) -> None:
    """Gives up claims that have run out. The caller holds the destination's lock."""
    rows = await connection.execute(RUN_OUT, {"destination": name, "now": now})
    if lost := [Lost(*row) for row in rows]:
        await lose(connection, name, lost, now=now)


async def give_back(connection: AsyncConnection, name: str, *, worker: str, now: datetime) -> None:
    """Gives up a worker's claims, as attempts whose answer is not known. None of them can have ended the worker."""
    rows = await connection.execute(MINE, {"destination": name, "worker": worker})
    if mine := [Lost(*row) for row in rows]:
        await lose(connection, name, mine, now=now, blameless=True)


async def lose(
    connection: AsyncConnection, name: str, lost: Sequence[Lost], *, now: datetime, blameless: bool = False
) -> None:
    """Records attempts whose answer will never be known. They do not count towards dead: at most one ended the worker.

    Args:
        connection: In a transaction that holds the destination's lock.
        name: The destination's name.
        lost: The attempts, of deliveries of the destination.
        now: The time.
        blameless: Whether none of them can have ended the worker. They are then due at once and need not be sent alone.
    """
    attempts = [
        {
            "delivery_id": attempt.delivery_id,
            "number": attempt.number,
            "started_at": attempt.started_at,
            "result": AttemptResult.LOST.value,
            "error": LOST,
        }
        for attempt in lost
    ]
    await insert_new(connection, Attempt, attempts)
    changes = [
        {"delivery_id": attempt.delivery_id, "number": attempt.number, "due": now, "losses": attempt.lost}
        if blameless
        else {
            "delivery_id": attempt.delivery_id,
            "number": attempt.number,
            "due": now + delay_after_loss(attempt.number - attempt.attempts_before, lost=attempt.lost),
            "losses": attempt.lost + 1,
        }
        for attempt in lost
    ]
    await connection.execute(LOSE, changes)
    await release(connection, name, [each.delivery_id for each in lost])
    replayed = [each for each in lost if each.replay_id is not None]
    await drop_cancelled(connection, [(each.delivery_id, each.replay_id) for each in replayed], now=now)
    await prefer_live(connection, name, {each.reference for each in replayed if each.reference is not None}, now=now)

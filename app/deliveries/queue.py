"""The queue of one destination: its lock, and the order of each reference.

Whoever makes, claims or ends deliveries of a destination first takes the lock of its row, so that for one destination
all this happens one after the other, in whichever worker. It gives `max_in_flight` and `rate` for all workers together,
and keeps this true: of the pending deliveries of one reference, exactly one has a `due_at`.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.deliveries.tables import PENDING, Delivery, Destination


async def lock(connection: AsyncConnection, name: str) -> Row[Any] | None:
    """The destination's row, locked until the transaction ends; None where nobody has registered it."""
    query = select(*Destination.__table__.columns).where(Destination.name == name).with_for_update()
    return (await connection.execute(query)).one_or_none()


async def promote(connection: AsyncConnection, destination: str, references: Collection[str], *, now: datetime) -> None:
    """Makes the first pending delivery of each reference due, where none is: live ones in the order of arrival."""
    if not references:
        return
    order = (Delivery.replay_id.asc().nulls_first(), Delivery.event_id)
    pending = (
        select(
            Delivery.id,
            func.row_number().over(partition_by=Delivery.reference, order_by=order).label("place"),
            func.max(Delivery.due_at).over(partition_by=Delivery.reference).label("due_at"),
        )
        .where(Delivery.destination == destination, PENDING, Delivery.reference.in_(sorted(references)))
        .subquery()
    )
    first = select(pending.c.id).where(pending.c.place == 1, pending.c.due_at.is_(None))
    await connection.execute(update(Delivery).where(Delivery.id.in_(first)).values(due_at=now))


async def prefer_live(
    connection: AsyncConnection, destination: str, references: Collection[str], *, now: datetime
) -> None:
    """Lets live deliveries pass those of replays that wait for their next attempt: a replay may fail for two days."""
    if not references:
        return
    here = (Delivery.destination == destination, PENDING, Delivery.reference.in_(sorted(references)))
    live = select(Delivery.reference).where(*here, Delivery.replay_id.is_(None), Delivery.due_at.is_(None))
    replayed = (Delivery.replay_id.is_not(None), Delivery.claimed_by.is_(None), Delivery.due_at.is_not(None))
    behind = update(Delivery).where(*here, *replayed, Delivery.reference.in_(live)).values(due_at=None)
    await connection.execute(behind)
    await promote(connection, destination, references, now=now)

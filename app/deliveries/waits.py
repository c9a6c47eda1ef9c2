"""Deliveries of one reference go one after the other: which goes first, and which go on behind it."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.counting import counted
from app.deliveries.queue import ORDER
from app.deliveries.tables import PENDING, Delivery
from app.deliveries.transitions import HAS_TIME, WAITS


class OfReference(Protocol):
    """A delivery, as far as it matters here."""

    @property
    def destination(self) -> str: ...

    @property
    def reference(self) -> str | None: ...


class Behind(NamedTuple):
    """The deliveries that wait for one of their reference."""

    next: UUID | None
    """The one that goes next."""
    waiting: int
    """How many wait, at most `MOST_COUNTED + 1`."""


async def first_of(connection: AsyncConnection, deliveries: Iterable[OfReference]) -> dict[tuple[str, str], UUID]:
    """The delivery that goes first, by destination and reference, for the references of these deliveries.

    Costs one look into an index for each.
    """
    wanted: dict[str, set[str]] = {}
    for delivery in deliveries:
        if delivery.reference is not None:
            wanted.setdefault(delivery.destination, set()).add(delivery.reference)
    looks = [
        select(Delivery.destination, Delivery.reference, Delivery.id).where(
            Delivery.destination == name, PENDING, HAS_TIME, Delivery.reference.in_(sorted(references))
        )
        for name, references in wanted.items()
    ]
    if not looks:
        return {}
    rows = await connection.execute(union_all(*looks))
    return {(destination, reference or ""): delivery_id for destination, reference, delivery_id in rows}


async def behind(connection: AsyncConnection, delivery: OfReference) -> Behind:
    """The deliveries that wait for another one of this delivery's reference, in the order in which they go."""
    if delivery.reference is None:
        return Behind(None, 0)
    waits = (Delivery.destination == delivery.destination, PENDING, Delivery.reference == delivery.reference, WAITS)
    in_order = select(Delivery.id).where(*waits).order_by(*ORDER).limit(1)
    live = await connection.scalar(in_order.where(Delivery.replay_id.is_(None)))
    following = live or await connection.scalar(in_order.where(Delivery.replay_id.is_not(None)))
    number = await connection.scalar(select(counted(select(literal(1)).select_from(Delivery).where(*waits))))
    return Behind(following, number or 0)

"""Deliveries that fail and are tried again, and what waits for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, func, literal, literal_column, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.database.counting import counted
from app.deliveries.tables import FAILING, RESULT, Attempt, Delivery
from app.events.ids import made_at

MOST_SHOWN = 10
"""How many failing deliveries of a destination are described."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A delivery that has failed and is tried again. The later ones of its reference wait for it."""

    delivery_id: UUID
    event_id: UUID
    reference: str | None
    since: datetime
    """When its first attempt failed."""
    attempts: int
    last_at: datetime | None
    last_status: int | None
    last_result: str | None
    last_error: str | None
    next_at: datetime | None
    waiting: int
    """How many deliveries wait for it."""


async def stuck_deliveries(connection: AsyncConnection, names: Sequence[str]) -> dict[str, list[Stuck]]:
    """The oldest failing deliveries of each of these destinations."""
    if not names:
        return {}
    oldest = (
        select(Delivery.id).where(Delivery.destination == name, FAILING).order_by(Delivery.id).limit(MOST_SHOWN)
        for name in names
    )
    chosen = union_all(*(select(each.subquery().c.id) for each in oldest))
    first = aliased(Attempt)
    behind = aliased(Delivery)
    waiting = select(literal(1)).where(
        behind.destination == Delivery.destination,
        behind.reference == Delivery.reference,
        behind.status == literal_column("'pending'"),
        behind.due_at.is_(None),
    )
    since = select(func.min(first.started_at)).where(first.delivery_id == Delivery.id).scalar_subquery()
    query = (
        select(
            Delivery.destination,
            Delivery.id.label("delivery_id"),
            Delivery.event_id,
            Delivery.reference,
            since.label("since"),
            Delivery.attempts,
            Attempt.started_at.label("last_at"),
            Attempt.status.label("last_status"),
            RESULT.label("last_result"),
            Attempt.error.label("last_error"),
            Delivery.due_at.label("next_at"),
            counted(waiting.correlate(Delivery)).label("waiting"),
        )
        .outerjoin(Attempt, and_(Attempt.delivery_id == Delivery.id, Attempt.number == Delivery.attempts))
        .where(Delivery.id.in_(chosen))
        .order_by(Delivery.id)
    )
    found: dict[str, list[Stuck]] = {}
    for row in (await connection.execute(query)).mappings():
        fields = {name: value for name, value in row.items() if name != "destination"}
        stuck = Stuck(**fields | {"since": row["since"] or made_at(row["delivery_id"])})
        found.setdefault(row["destination"], []).append(stuck)
    return found

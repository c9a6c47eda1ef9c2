"""What destinations have to do, by one read for all: a turn is a transaction that may write, and others wait for it."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.deliveries.tables import PENDING, Delivery, Destination


class Outlook(NamedTuple):
    """What a destination has to do."""

    name: str
    url: str | None
    """Of a replay's own destination."""
    paused_at: datetime | None
    paused_reason: str | None
    probing: bool
    """Whether its circuit is open, so that one delivery may be in flight and no more."""
    pending: bool
    at: datetime | None
    """From when on its next turn is worth it; None while it is paused or has nothing to send."""


async def outlooks(connection: AsyncConnection) -> list[Outlook]:
    """Those of all destinations; costs a few index look-ups for each."""
    return [
        Outlook(
            row.name,
            row.url,
            row.paused_at,
            row.paused_reason,
            row.probe_at is not None,
            pending=bool(due := [at for at in (row.live_at, row.replay_at) if at is not None]),
            at=_at(row.paused_at, due, [row.probe_at, row.next_at]),
        )
        for row in await connection.execute(LOOK)
    ]


def _at(paused_at: datetime | None, due: Sequence[datetime], not_before: Sequence[datetime | None]) -> datetime | None:
    if paused_at is not None or not due:
        return None
    return max([min(due), *(at for at in not_before if at is not None)])


def _first_due(which: ColumnElement[bool]) -> ColumnElement[datetime | None]:
    of_this = (Delivery.destination == Destination.name, PENDING, Delivery.due_at.is_not(None))
    return select(func.min(Delivery.due_at)).where(*of_this, which).scalar_subquery()


LOOK = select(
    *Destination.__table__.columns,
    _first_due(Delivery.replay_id.is_(None)).label("live_at"),
    _first_due(Delivery.replay_id.is_not(None)).label("replay_at"),
)

"""What the destinations have to do, read for all at once. It saves turns, which are transactions that may write."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns, read
from app.deliveries.clocks import LONGEST_CLAIM, too_far
from app.deliveries.retry import LONGEST_DELAY, LONGEST_PROBE
from app.deliveries.tables import LIVE, PENDING, REPLAYED, Claimed, Delivery, Destination
from app.deliveries.transitions import HAS_TIME, first_due


class Outlook(NamedTuple):
    """What a destination has to do."""

    name: str
    url: str | None
    """The URL of a replay's own destination; None for a configured one."""
    paused_at: datetime | None
    paused_reason: str | None
    probing: bool
    """Whether its circuit is open, so that only one delivery may be in flight."""
    pending: bool
    ahead: bool
    """Whether it has times that only a clock that was ahead can have set; `set_right` corrects them."""
    at: datetime | None
    """When its next turn has something to do; None while it is paused or has nothing to send."""


class Times(NamedTuple):
    """The times of a destination that say what it has to do."""

    name: str
    url: str | None
    paused_at: datetime | None
    paused_reason: str | None
    failing_since: datetime | None
    probe_at: datetime | None
    next_at: datetime | None
    live_at: datetime | None
    replay_at: datetime | None
    claims_at: datetime | None
    live_until: datetime | None
    replay_until: datetime | None
    claimed_until: datetime | None


async def outlooks(connection: AsyncConnection, *, now: datetime) -> list[Outlook]:
    """The outlooks of all destinations; costs a few index look-ups for each."""
    return [
        Outlook(
            times.name,
            times.url,
            times.paused_at,
            times.paused_reason,
            times.probe_at is not None,
            pending=bool(due := [at for at in (times.live_at, times.replay_at, times.claims_at) if at is not None]),
            ahead=_ahead(times, now=now),
            at=_at(times.paused_at, due, [times.probe_at, times.next_at], now=now),
        )
        for times in await read(connection, LOOK, Times)
    ]


def _at(
    paused_at: datetime | None, due: Sequence[datetime], not_before: Sequence[datetime | None], *, now: datetime
) -> datetime | None:
    if paused_at is not None or not due:
        return None
    believed = (at for at in not_before if at is not None and not too_far(at, LONGEST_DELAY, now=now))
    return max([min(due), *believed])


def _ahead(times: Times, *, now: datetime) -> bool:
    bounds = (
        (times.live_until, LONGEST_DELAY),
        (times.replay_until, LONGEST_DELAY),
        (times.claimed_until, LONGEST_CLAIM),
        (times.probe_at, LONGEST_PROBE),
        (times.failing_since, timedelta(0)),
    )
    return any(too_far(at, longest, now=now) for at, longest in bounds)


def _last_due(which: ColumnElement[bool]) -> ColumnElement[datetime | None]:
    of_this = (Delivery.destination == Destination.name, PENDING, HAS_TIME)
    return select(func.max(Delivery.due_at)).where(*of_this, which).scalar_subquery()


def _claims(end: ColumnElement[datetime | None]) -> ColumnElement[datetime | None]:
    return select(end).where(Claimed.destination == Destination.name).scalar_subquery()


LOOK = select(
    *columns(Destination, Times),
    first_due(LIVE).label("live_at"),
    first_due(REPLAYED).label("replay_at"),
    _claims(func.min(Claimed.ends_at)).label("claims_at"),
    _last_due(LIVE).label("live_until"),
    _last_due(REPLAYED).label("replay_until"),
    _claims(func.max(Claimed.ends_at)).label("claimed_until"),
)

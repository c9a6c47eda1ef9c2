"""Corrects times that a clock that was ahead has left in the database, so that no delivery waits for them."""

from datetime import datetime, timedelta

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.deliveries.claims import MARGIN
from app.deliveries.queue import lock
from app.deliveries.retry import LONGEST_DELAY, LONGEST_PROBE
from app.deliveries.tables import PENDING_PARTS, Claimed, Delivery, Destination
from app.deliveries.transitions import CLAIMED_BEFORE, UNCLAIMED
from app.settings.values import LONGEST_TIMEOUT

AHEAD = timedelta(minutes=1)
"""How far clocks may differ without a warning."""

LONGEST_CLAIM = LONGEST_TIMEOUT + MARGIN


def too_far(at: datetime | None, longest: timedelta, *, now: datetime) -> bool:
    """Whether a time is so far away that a right clock cannot have set it: the longest wait is `longest`."""
    return at is not None and at - now > longest + AHEAD


class Watch:
    """Notices when the clock is set back, by comparing it with a clock that never is."""

    def __init__(self) -> None:
        self._began: datetime | None = None

    def set_back(self, now: datetime, *, elapsed: timedelta) -> bool:
        """Whether the clock was set back since the last call.

        Args:
            now: The time.
            elapsed: The time that has passed since a fixed moment.
        """
        before, self._began = self._began, now - elapsed
        return before is not None and before - self._began > AHEAD


async def set_right(
    connection: AsyncConnection, name: str, *, now: datetime, longest: timedelta = LONGEST_DELAY
) -> int:
    """Makes deliveries due that would wait for longer than `longest`, and returns how many. Does not commit.

    A claim that would last too long gets the longest duration of a claim, as its attempt may still be under way. A
    probe that is too far away becomes due now.

    Args:
        connection: In a transaction that may write.
        name: The destination's name.
        now: The time.
        longest: How long a delivery may wait; zero if the clock is known to have been set back.
    """
    state = await lock(connection, name)
    if state is None:
        return 0
    mended = 0
    for part in PENDING_PARTS[1:]:
        here = update(Delivery).where(part, Delivery.destination == name)
        waiting = here.where(UNCLAIMED, Delivery.due_at > now + longest + AHEAD)
        mended += (await connection.execute(waiting.values(due_at=now))).rowcount
        claimed = here.where(CLAIMED_BEFORE, Delivery.due_at > now + LONGEST_CLAIM + AHEAD)
        mended += (await connection.execute(claimed.values(due_at=now + LONGEST_CLAIM))).rowcount
    claims = update(Claimed).where(Claimed.destination == name, Claimed.ends_at > now + LONGEST_CLAIM + AHEAD)
    mended += (await connection.execute(claims.values(ends_at=now + LONGEST_CLAIM))).rowcount
    changes: dict[str, datetime] = {}
    if too_far(state.probe_at, LONGEST_PROBE, now=now):
        changes["probe_at"] = now
    if too_far(state.failing_since, timedelta(0), now=now):
        changes["failing_since"] = now
    if changes:
        await connection.execute(update(Destination).where(Destination.name == name).values(changes))
    return mended

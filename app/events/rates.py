"""How many events arrived in each ten minutes of the last day, and of the same day a week before."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Integer, column, literal, select, values
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.counting import counted
from app.events.ids import EPOCH, id_floor
from app.events.tables import Event

STEP = timedelta(minutes=10)
STEPS = 144
WEEK = timedelta(weeks=1)
HOUR = timedelta(hours=1)
AT_ONCE = 48
"""Steps that one statement counts: at a hundred events a second, some hundred milliseconds."""


class Step(NamedTuple):
    """Ten minutes: how many events arrived, quarantined and fetched ones included; each at most `MOST_COUNTED + 1`."""

    at: datetime
    events: int
    week_before: int


class _Count(NamedTuple):
    events: int
    counted_at: datetime


class Rates:
    """Reads the steps. What is over is counted once, and then each hour, so that a look costs two steps.

    Each hour, since events come late from a spool, and old ones are deleted.
    """

    def __init__(self) -> None:
        self.kept: dict[datetime, _Count] = {}

    async def read(self, connection: AsyncConnection, *, now: datetime) -> list[Step]:
        """The steps of the last day, the oldest first; the last one is not over."""
        last = now - (now - EPOCH) % STEP
        day = [last - number * STEP for number in reversed(range(STEPS))]
        starts = [*day, *(at - WEEK for at in day)]
        self.kept = {at: self.kept[at] for at in starts if at in self.kept}
        due = [at for at in starts if self._is_due(at, now)]
        for first in range(0, len(due), AT_ONCE):
            some = due[first : first + AT_ONCE]
            counts = await count_steps(connection, some)
            self.kept |= {at: _Count(count, now) for at, count in zip(some, counts, strict=True)}
        return [Step(at, self.kept[at].events, self.kept[at - WEEK].events) for at in day]

    def _is_due(self, at: datetime, now: datetime) -> bool:
        count = self.kept.get(at)
        return count is None or count.counted_at < at + 2 * STEP or count.counted_at <= now - HOUR


async def count_steps(connection: AsyncConnection, starts: Sequence[datetime]) -> list[int]:
    """How many events arrived in the ten minutes from each of these times; counted in the index of ids."""
    names = column("number", Integer), column("first", Event.id.type), column("end", Event.id.type)
    rows = [(number, id_floor(at), id_floor(at + STEP)) for number, at in enumerate(starts)]
    steps = values(*names, name="steps").data(rows).cte()
    within = select(literal(1)).where(Event.id >= steps.c.first, Event.id < steps.c.end).correlate(steps)
    query = select(steps.c.number, counted(within).label("events")).order_by(steps.c.number)
    return [row.events for row in await connection.execute(query)]

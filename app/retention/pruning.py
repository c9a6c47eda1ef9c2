"""Pruning: deletes what is older than the settings say, so slowly that the receivers do not feel it."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from time import monotonic

from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.away import AWAY
from app.database.clock import shared_time
from app.database.health import first_line
from app.database.pace import Pace
from app.database.writing import writing
from app.retention.batches import delete_some, is_alone
from app.retention.cutoffs import Kind, cutoffs
from app.retention.space import shrink
from app.settings.retention import RetentionSettings

logger = logging.getLogger(__name__)

FEWEST, MOST = 100, 2000
"""How many rows one transaction deletes."""

HOLDS = 0.02  # seconds that a transaction should take
RESTS = 45.0
"""A process rests so many times as long as its transaction took: it takes 2 % of the time that writers have."""

LONGEST_REST = 5.0  # seconds, so that one slow transaction does not stop it for minutes

KEYS_FIRST = 0.05
"""Seconds from the keys of events to their deletion at least, so that a receiver's statement that began before has
ended; see `app.retention.batches`."""

FIRST_AFTER = 60.0  # seconds from the start of a worker to its first pass
EVERY = 3600.0  # seconds from the end of a pass to the next

Told = Callable[[Kind, int], None]
"""Is told of each transaction: the kind, and how many rows it deleted."""


JUMP = timedelta(minutes=10)
"""By how much more than time passes a clock may move between two passes, or differ from the database server's."""

TRUSTED_AFTER = timedelta(days=1)
"""For so long after a jump the worker deletes nothing: a clock that is years ahead makes everything old."""


class Trust:
    """Whether a clock may say what is old, by comparing it with one that nobody sets."""

    def __init__(self) -> None:
        self._began: datetime | None = None
        self._from = timedelta.min

    def holds(self, now: datetime, *, elapsed: timedelta) -> bool:
        """False if the clock was set by more than `JUMP` since the last call, and for a day after that.

        Args:
            now: The time.
            elapsed: The time that has passed since a fixed moment.
        """
        before, self._began = self._began, now - elapsed
        if before is not None and abs(self._began - before) > JUMP:
            self._from = elapsed + TRUSTED_AFTER
        return elapsed >= self._from


async def differs(engine: AsyncEngine, *, now: datetime) -> timedelta | None:
    """By how much the clock of PostgreSQL's host differs from this one, if by more than `JUMP`."""
    if engine.dialect.name == "sqlite":
        return None
    async with engine.connect() as connection:
        ahead = now - await shared_time(connection)
    return ahead if abs(ahead) > JUMP else None


class OtherDeletes(Exception):
    """Another process deletes at this moment."""


async def prune(
    engine: AsyncEngine, ages: RetentionSettings, *, now: datetime, rests: float = RESTS, told: Told | None = None
) -> Counter[Kind]:
    """Deletes everything that is old enough, and returns how many rows of each kind.

    Deliveries that go with their event are not counted, nor attempts that go with their delivery.

    Raises:
        OtherDeletes: another process deletes already.
    """
    deleted: Counter[Kind] = Counter()
    pace = Pace(one_writer=False)  # so that on SQLite no commit wakes the worker
    for kind, before in cutoffs(ages, now=now).items():
        after, most = None, FEWEST
        while True:
            async with writing(engine, pace=pace) as connection:
                began = monotonic()
                if not await is_alone(connection):
                    raise OtherDeletes
                batch = await delete_some(connection, kind, before=before, after=after, most=most, now=now)
            held = monotonic() - began
            if not batch.looked:
                break
            deleted[kind] += batch.deleted
            again = batch.last == after and not batch.deleted
            if not again:
                most = next_size(most, held)
            after = batch.last
            if told is not None:
                told(kind, batch.deleted)
            await asyncio.sleep(max(KEYS_FIRST if again else 0.0, min(LONGEST_REST, held * rests)))
    return deleted


def next_size(size: int, held: float) -> int:
    """How many rows the next transaction should delete, after one of `size` rows took `held` seconds."""
    factor = min(2.0, HOLDS / max(held, HOLDS / 100))
    return max(FEWEST, min(MOST, int(size * factor)))


@asynccontextmanager
async def pruning(
    engine: AsyncEngine, ages: RetentionSettings | None, *, first_after: float = FIRST_AFTER
) -> AsyncIterator[None]:
    """Deletes what is old enough, once an hour, while a worker runs. Of all workers, one at a time does it."""
    if ages is None:
        yield
        return
    task = asyncio.create_task(_prune_hourly(engine, ages, first_after=first_after))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _prune_hourly(engine: AsyncEngine, ages: RetentionSettings, *, first_after: float) -> None:
    trust = Trust()
    trust.holds(datetime.now(UTC), elapsed=_since_start())
    await asyncio.sleep(first_after)
    while True:
        began, now = monotonic(), datetime.now(UTC)
        try:
            holds = trust.holds(now, elapsed=_since_start())
            if not holds or await differs(engine, now=now) is not None:
                which = "It differs from the database server's." if holds else "It was set within the last day."
                logger.warning("prune_waits", extra={"fields": {"reason": f"The clock may be wrong. {which}"}})
                await asyncio.sleep(EVERY)
                continue
            deleted = await prune(engine, ages, now=now)
            await shrink(engine, rests=RESTS)
        except OtherDeletes:
            pass
        except AWAY as error:
            logger.warning("prune_failed", extra={"fields": {"error": first_line(error)}})
        except Exception:  # the worker must go on delivering
            logger.exception("prune_failed")
        else:
            if deleted.total():
                seconds = round(monotonic() - began, 1)
                fields = {"deleted": {str(kind): number for kind, number in deleted.items()}, "seconds": seconds}
                logger.info("pruned", extra={"fields": fields})
        await asyncio.sleep(EVERY)


def _since_start() -> timedelta:
    """The time since the machine started, also while it slept."""
    return timedelta(seconds=time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))

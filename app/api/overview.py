"""What was read last of everything, for pages that many people leave open.

The judgement takes a tenth of a second and more at a million events. So a process reads it for all of them: at most
every few seconds, for at most a twentieth of the time, and only while somebody looks. If a reading takes seconds, what
it found is still replaced before it is `TOO_OLD`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from app.alarms.judged import Judged, judged, judged_without_database
from app.alarms.readings import Readings, read
from app.database.clock import ahead
from app.database.schema import SchemaNotCurrent
from app.events.rates import Rates, Step
from app.settings.model import Settings
from app.web.transactions import DatabaseAway, reading

REST = timedelta(seconds=4)
SHARE = 19
"""After a reading, the next one waits for so many times as long as it took."""

TOO_OLD = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Overview:
    """What was read at one moment; `steps` are those of the last day, none if the database could not be read."""

    at: datetime
    status: Judged
    steps: list[Step]


class Overviews:
    """Reads the overview while it is wanted.

    Args:
        engine: The database.
        settings: Complete.
        clock: Seconds.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings, *, clock: Callable[[], float] = monotonic) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._rates = Rates()
        self._last: Overview | None = None
        self._read_at = self._fresh_until = 0.0
        self._reading: asyncio.Task[Overview] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Ends what it reads at the end."""
        try:
            yield self
        finally:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.gather(self._reading, return_exceptions=True)

    async def latest(self) -> Overview:
        """What was read last, while a new one is read; only if it is too old, the new one."""
        now = self._clock()
        if self._last is not None and now < self._fresh_until:
            return self._last
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        if self._last is not None and now - self._read_at < TOO_OLD.total_seconds():
            return self._last
        return await asyncio.shield(self._reading)

    async def _read(self) -> Overview:
        began = self._clock()
        overview = await self._overview()
        self._last, self._read_at = overview, self._clock()
        rest = max(REST.total_seconds(), SHARE * (self._read_at - began))
        self._fresh_until = self._read_at + min(rest, TOO_OLD.total_seconds())
        return overview

    async def _overview(self) -> Overview:
        try:
            status = judged(await read_here(self._engine, self._settings), self._settings)
        except SchemaNotCurrent as error:
            status = await judged_without_database(self._settings, error, why=str(error))
        except DatabaseAway as error:
            status = await judged_without_database(self._settings, error, why=error.message)
        return Overview(datetime.now(UTC), status, await self._steps() if status.readings else [])

    async def _steps(self) -> list[Step]:
        try:
            async with reading(self._engine) as connection:
                return await self._rates.read(connection, now=datetime.now(UTC))
        except DatabaseAway:
            return []


async def read_here(engine: AsyncEngine, settings: Settings) -> Readings:
    """The readings in a receiver's process.

    Raises:
        SchemaNotCurrent: this release cannot read the database.
        DatabaseAway: 503.
    """
    async with reading(engine) as connection:
        readings = await read(connection, settings, now=datetime.now(UTC) + await ahead(connection))
    return replace(readings, receiver_at=readings.at)  # a receiver that answers runs, whatever its row says

"""Writes what a process says of itself and what it has counted, in the background and never in the way of an answer.

A database that is away costs the row only: the counts wait in memory, within their bound.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.away import AWAY
from app.database.clock import ahead
from app.database.health import first_line
from app.database.writing import commit_later, writing
from app.telemetry.processes import BEAT, Gauges, Identity, beat, forget_processes
from app.telemetry.refusals import add_refusals, forget_refusals
from app.telemetry.tally import Counts, Tally
from app.telemetry.uses import add_uses

logger = logging.getLogger(__name__)

EVERY = timedelta(seconds=5)
FORGET_EVERY = timedelta(minutes=1)
LAST = timedelta(seconds=2)
"""How long a process that ends waits for its last row."""


class Reporter:
    """Reports on this process.

    Args:
        engine: The database's.
        identity: Who reports.
        tally: What it counts; a worker counts nothing here.
        gauges: What it says beside its beat.
        clock: This host's.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        identity: Identity,
        *,
        tally: Tally | None = None,
        gauges: Callable[[], Gauges] = Gauges,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._identity = identity
        self._tally = tally
        self._gauges = gauges
        self._clock = clock
        self._beat_at: datetime | None = None
        self._forgot_at: datetime | None = None
        self._failed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reports every few seconds, and says at the end that the process has ended."""
        ending = asyncio.Event()
        work = asyncio.create_task(self._work(ending))
        try:
            yield
        finally:
            ending.set()
            # Not cancelled at once: on SQLite that could leave the file locked.
            with suppress(TimeoutError):
                await asyncio.wait_for(work, LAST.total_seconds())

    async def report(self, *, now: datetime, ended: bool = False) -> None:
        """Writes what is due, in one transaction.

        Raises:
            Exception: the database is in trouble; the counts are kept for the next time.
        """
        counts = self._tally.take() if self._tally else Counts({}, {})
        due = ended or self._beat_at is None or not self._beat_at <= now < self._beat_at + BEAT
        if not (due or counts.refusals or counts.clients):
            return
        try:
            async with writing(self._engine) as connection:
                await commit_later(connection)
                if due:
                    await self._beat(connection, now=now, ended=ended)
                await add_refusals(connection, counts.refusals)
                await add_uses(connection, counts.clients)
                if due and not ended:
                    await self._forget(connection, now=now)
        except BaseException:
            if self._tally:
                self._tally.put_back(counts)
            raise
        if due:
            self._beat_at = now

    async def _beat(self, connection: AsyncConnection, *, now: datetime, ended: bool) -> None:
        """Writes the row by the database's clock: a process with a wrong one seems neither dead nor alive for ever."""
        by = await ahead(connection, self._clock)
        identity = replace(self._identity, started_at=self._identity.started_at + by)
        await beat(connection, identity, self._gauges(), now=now + by, ended=ended)

    async def _forget(self, connection: AsyncConnection, *, now: datetime) -> None:
        if self._forgot_at is None or not self._forgot_at <= now < self._forgot_at + FORGET_EVERY:
            await forget_processes(connection, now=now)
            await forget_refusals(connection, now=now)
            self._forgot_at = now

    async def _work(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            await self._try(ended=False)
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY.total_seconds()):
                    await ending.wait()
        await self._try(ended=True)

    async def _try(self, *, ended: bool) -> None:
        try:
            await self.report(now=self._clock(), ended=ended)
        except Exception as error:  # else this process would be taken for dead
            if not self._failed:  # while the database is lost, every attempt fails
                unforeseen = not isinstance(error, AWAY)
                logger.info("report_failed", extra={"fields": {"error": first_line(error)}}, exc_info=unforeseen)
            self._failed = True
        else:
            self._failed = False

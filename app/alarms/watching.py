"""A worker's watch for alarms: one worker looks every few seconds, and tells what starts and what ends.

Each channel has a task of its own, so that one that hangs holds up no other, and never the look.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.alarms.changes import Changes, changes
from app.alarms.channels import Channel, Pinging, Untold, open_channel
from app.alarms.findings import Severity
from app.alarms.judgement import alarming
from app.alarms.kept import Due, drop_notices, due_notices, firing_alarms, keep, told, untold
from app.alarms.leading import Lead, leading
from app.alarms.notices import message
from app.alarms.readings import read
from app.database.away import AWAY
from app.database.clock import ahead
from app.database.health import first_line
from app.database.schema import SchemaNotCurrent
from app.database.writing import commit_later, writing
from app.settings.alarms import AlarmSettings
from app.settings.model import Settings

logger = logging.getLogger(__name__)

EVERY = timedelta(seconds=15)
"""How often the worker that leads looks, and how often the others try to lead."""

FRESH = timedelta(minutes=1)
"""A ping needs a look that is not older."""

LAST = timedelta(seconds=5)
"""How long a worker that ends waits for a transaction."""

READ_WITHIN = 30.0  # seconds


class AlarmWatch:
    """Looks and tells; use as `async with watch.running()`.

    Args:
        engine: The database's.
        settings: Complete, as its receivers have them.
        every: How often it looks.
        clock: Gives the time.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        *,
        every: timedelta = EVERY,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._alarms = settings.alarms or AlarmSettings()
        self._every = every
        self._clock = clock
        urls = {name: each for name, each in settings.alarm_channels.items() if each.url is not None}
        self._channels: dict[str, Channel] = {name: open_channel(each) for name, each in urls.items()}
        self._ending = asyncio.Event()
        self._news = {name: asyncio.Event() for name in urls}
        self._leads = False
        self._well_at: datetime | None = None

    @property
    def is_well(self) -> bool:
        """Whether it leads, and no critical alarm fired at its last look, a moment ago."""
        return self._leads and self._well_at is not None and abs(self._clock() - self._well_at) <= FRESH

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks and tells in the background."""
        pings = {name: each for name, each in self._settings.alarm_channels.items() if each.ping is not None}
        work = [self._look_on(), *(self._tell_on(name) for name in self._channels)]
        async with AsyncExitStack() as stack:
            for channel in self._channels.values():
                stack.push_async_callback(channel.close)
            for name, each in pings.items():
                pinging = Pinging(each)
                stack.push_async_callback(pinging.close)
                work.append(self._ping_on(name, pinging, every=each.every))
            tasks = [asyncio.create_task(each) for each in work]
            try:
                yield
            finally:
                self._ending.set()
                for event in self._news.values():
                    event.set()
                # Not cancelled at once: on SQLite that could leave the file locked.
                _, late = await asyncio.wait(tasks, timeout=LAST.total_seconds())
                for task in late:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self, lead: Lead, *, now: datetime) -> Changes:
        """Looks once: stores what starts and ends, and what is to be told of it."""
        async with asyncio.timeout(READ_WITHIN), lead.reading() as connection:
            readings = await read(connection, self._settings, now=now + await ahead(connection))
        found = list(alarming(readings, self._alarms))
        async with lead.writing() as connection:
            before = await firing_alarms(connection)
            changed = changes(before, found, ends_after=self._ends_after, now=now)
            await keep(connection, changed, tuple(self._channels), now=now)
        for alarm in changed.started:
            fields = {
                "alarm": str(alarm.id),
                "kind": alarm.kind,
                "name": alarm.name,
                "subject": alarm.subject,
                "what": alarm.what,
            }
            logger.warning("alarm_started", extra={"fields": fields})
        for alarm in changed.ended:
            seconds = round((now - alarm.started_at).total_seconds())
            ended = {
                "alarm": str(alarm.id),
                "kind": alarm.kind,
                "name": alarm.name,
                "subject": alarm.subject,
                "seconds": seconds,
            }
            logger.warning("alarm_ended", extra={"fields": ended})
        fires = (*changed.started, *changed.lasting, *changed.kept)
        self._well_at = None if any(each.severity == Severity.CRITICAL for each in fires) else now
        if changed.started or changed.lasting or changed.ended:
            for event in self._news.values():
                event.set()
        return changed

    async def tell(self, name: str) -> None:
        """Tells a channel what is due."""
        async with self._engine.connect() as connection:
            due = await due_notices(connection, name, now=self._clock())
        for notice in due:
            if self._ending.is_set() or not await self._tell_one(name, notice):
                return

    async def _tell_one(self, name: str, notice: Due) -> bool:
        """Tells one notice and stores whether it was told. False if the worker ends meanwhile."""
        channel = self._channels[name]
        telling = asyncio.create_task(channel.tell(message(notice), now=self._clock()))
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait((telling, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            telling.cancel()  # does nothing to one that has ended
            await asyncio.wait((telling,))
        if telling.cancelled():
            return False
        try:
            telling.result()
        except Untold as error:
            await self._note_untold(name, notice, str(error))
        else:
            async with writing(self._engine) as connection:
                await commit_later(connection)
                await told(connection, notice.id, now=self._clock())
        return True

    async def _note_untold(self, name: str, notice: Due, why: str) -> None:
        now = self._clock()
        async with writing(self._engine) as connection:
            await commit_later(connection)
            again_at = await untold(connection, notice, why, now=now)
        fields = {
            "alarm": str(notice.alarm.id),
            "channel": name,
            "stage": str(notice.stage),
            "attempts": notice.attempts + 1,
            "error": why,
            "next_at": str(again_at) if again_at else None,
        }
        logger.warning("alarm_untold", extra={"fields": fields})

    def _ends_after(self, kind: str) -> timedelta:
        alarm = getattr(self._alarms, kind, None)
        span: timedelta = alarm.ends_after if alarm is not None else timedelta(0)
        return span

    async def _look_on(self) -> None:
        async def lead_on() -> None:
            async with leading(self._engine) as lead:
                if lead is None:
                    return
                async with lead.writing() as connection:
                    await drop_notices(connection, tuple(self._channels))
                self._leads = True
                try:
                    while not self._ending.is_set():
                        await self.look(lead, now=self._clock())
                        await self._rest(self._every)
                finally:
                    self._leads = False

        await self._again_and_again(lead_on)

    async def _tell_on(self, name: str) -> None:
        async def tell_on() -> None:
            self._news[name].clear()
            if self._leads:
                await self.tell(name)

        await self._again_and_again(tell_on, sooner=self._news[name])

    async def _ping_on(self, name: str, pinging: Pinging, *, every: timedelta) -> None:
        failed = False
        while not self._ending.is_set():
            if self.is_well:
                try:
                    await pinging.ping()
                except Untold as error:
                    if not failed:
                        fields = {"channel": name, "error": str(error)}
                        logger.warning("ping_failed", extra={"fields": fields})
                    failed = True
                else:
                    failed = False
            await self._rest(every if self.is_well else min(every, timedelta(seconds=1)))

    async def _again_and_again(
        self, work: Callable[[], Awaitable[None]], *, sooner: asyncio.Event | None = None
    ) -> None:
        failed = False
        while not self._ending.is_set():
            try:
                await work()
            except (*AWAY, SchemaNotCurrent) as error:
                if not failed:  # while the database is lost, every attempt fails
                    logger.info("alarms_wait", extra={"fields": {"error": first_line(error)}})
                failed = True
            except Exception:  # deliveries go on, whatever goes wrong here
                logger.exception("alarms_failed")
            else:
                failed = False
            await self._rest(self._every, sooner=[sooner] if sooner else ())

    async def _rest(self, span: timedelta, *, sooner: Iterable[asyncio.Event] = ()) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (self._ending, *sooner)]
        try:
            await asyncio.wait(waits, timeout=span.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

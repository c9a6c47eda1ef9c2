"""The worker: dispatches events, makes the deliveries of replays, and sends what is due."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.clock import SharedClock
from app.database.engines import is_sqlite, prefer_indexes
from app.database.pace import Pace
from app.database.surviving import surviving
from app.database.writing import commit_later, writing
from app.deliveries.claims import Limits
from app.deliveries.clocks import Watch, set_right
from app.deliveries.destinations.kinds import open_destination
from app.deliveries.dispatch import HELD, Dispatcher
from app.deliveries.outlook import Outlook, outlooks
from app.deliveries.registering import forget_certificates, register_in_parts, set_unusable
from app.deliveries.replays import Advanced, advance, any_running, forget, over
from app.deliveries.retry import LONGEST_DELAY
from app.deliveries.sender import Sender, tell, until_woken
from app.deliveries.turns import take_back
from app.deliveries.wake import waking
from app.settings.model import DestinationSettings, SettingsProblem
from app.telemetry.meter import Meter
from app.telemetry.processes import new_name
from app.telemetry.spans import Spans

logger = logging.getLogger(__name__)

OF_REPLAY = "(replay)"
"""Under this name the metrics count what a replay sends to a URL of its own."""

LOOK_EVERY = timedelta(seconds=5)
"""How often it looks without being woken, in case a notification was lost."""

TRANSACTION = timedelta(seconds=5)
"""How long a worker that ends waits for its transactions."""

DRAIN = timedelta(seconds=10)
"""How long a worker that ends waits for its attempts. A container's grace period is longer."""


class Worker:
    """Works for all destinations; use as `async with worker.running()`.

    Args:
        engine: The database, with a connection for each destination and one more.
        url: The database's URL.
        destinations: The configured destinations.
        enrich: Whether the orders of notifications without payload are fetched.
        clock: Hears the shared time while the worker runs.
        spans: Where it records what it does.
        meter: Where it counts what it does.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        url: str,
        destinations: Mapping[str, DestinationSettings],
        *,
        enrich: bool = False,
        clock: SharedClock | None = None,
        spans: Spans | None = None,
        meter: Meter | None = None,
    ) -> None:
        prefer_indexes(engine)
        self._engine = engine
        self._url = url
        self._dispatcher = Dispatcher(
            {name: destination.events for name, destination in destinations.items()},
            {name: destination.thin for name, destination in destinations.items()} if enrich else None,
        )
        self._without_tls = [name for name, each in destinations.items() if not each.url.startswith("https:")]
        self.name = new_name()
        self._spans = spans
        self._meter = meter
        self._configured = frozenset(destinations)
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._ending = False
        self._pace = Pace(one_writer=is_sqlite(url))
        self._watch = Watch()
        self._clock = clock or SharedClock()
        self._tasks: list[asyncio.Task[None]] = []
        self._senders: dict[str, Sender] = {}
        self._paused: frozenset[str] = frozenset()
        for name, destination in destinations.items():
            self._add(name, destination)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works. At the end, attempts under way have `DRAIN` to finish."""
        async with self._engine.connect() as connection:
            await self._clock.look(connection)
        await register_in_parts(self._engine, self._senders, now=self._clock.now())
        async with writing(self._engine) as connection:
            await commit_later(connection)
            await self._dispatcher.begin(connection, now=self._clock.now())
            await set_unusable(connection, list(self._senders), reason=None)
            await forget_certificates(connection, self._without_tls)
            if is_sqlite(self._url):  # which has only one worker
                await take_back(connection, now=self._clock.now())
        async with waking(self._url, events=self._stored, deliveries=self._wake):
            self._start(self._dispatch)
            self._start(self._look)
            for sender in self._senders.values():
                self._start(partial(self._usable, sender))
            try:
                yield
            finally:
                self._end()
                _, late = await asyncio.wait(self._tasks, timeout=TRANSACTION.total_seconds())
                for task in late:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                ends = (sender.drain(within=DRAIN) for sender in self._senders.values())
                for end in await asyncio.gather(*ends, return_exceptions=True):
                    if isinstance(end, BaseException):
                        logger.error("claims_not_given_back", exc_info=end)

    def under_way(self) -> dict[str, list[str]]:
        """Some of the deliveries that are being sent, by destination."""
        return {name: sending for name, sender in self._senders.items() if (sending := sender.under_way())}

    def _add(self, name: str, settings: DestinationSettings) -> Sender:
        limits = Limits(name, settings.timeout, settings.max_in_flight, settings.rate)
        kind = open_destination(settings)
        sender = Sender(
            self._engine,
            limits,
            kind,
            worker=self.name,
            clock=self._clock,
            pace=self._pace,
            spans=self._spans,
            meter=self._meter,
            counted_as=name if name in self._configured else OF_REPLAY,
        )
        self._senders[name] = sender
        return sender

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.create_task(surviving(work)))

    def _end(self) -> None:
        self._ending = True
        self._wake()
        for sender in self._senders.values():
            sender.end()

    def _stored(self, waiting: int) -> None:
        self._pace.tell(waiting)
        self._arrived.set()

    def _wake(self) -> None:
        self._arrived.set()
        self._changed.set()

    async def _dispatch(self) -> None:
        while not self._ending:
            self._arrived.clear()
            now = self._clock.now()
            events = await self._dispatch_some(now)
            # In a transaction of its own: each takes its locks in the same order, but one for both could deadlock.
            replayed = await self._advance(now)
            if events or replayed.made:
                self._wake()
            elif self._dispatcher.held:
                await asyncio.sleep(HELD)
            else:
                await until_woken(self._arrived, _soon(now, replayed.next_at), now=now)

    async def _dispatch_some(self, now: datetime) -> int:
        async with self._engine.connect() as connection:
            if not await self._dispatcher.has_work(connection, now=now):
                return 0
        async with writing(self._engine, pace=self._pace) as connection:
            return await self._dispatcher.dispatch(connection, now=now)

    async def _advance(self, now: datetime) -> Advanced:
        async with self._engine.connect() as connection:
            if not await any_running(connection):
                return Advanced(0, None)
        async with writing(self._engine, pace=self._pace) as connection:
            await commit_later(connection)
            advanced = await advance(connection, now=now)
        tell(advanced.news)
        return advanced

    async def _look(self) -> None:
        """Wakes only the senders that have something to do: on SQLite the turns of the others would delay them."""
        while not self._ending:
            self._changed.clear()
            found = await self._outlooks()
            if await self._set_right(found):
                found = await self._outlooks()
            self._tell_of_pauses(found)
            if any(outlook.url is not None and not outlook.pending for outlook in found):
                await self._forget_replays()
            now = self._clock.now()
            for outlook in found:
                self._open_for_replay(outlook)
                if outlook.at is not None and outlook.at <= now and outlook.name in self._senders:
                    self._senders[outlook.name].wake(probing=outlook.probing)
            later = (outlook.at for outlook in found if outlook.at is not None and outlook.at > now)
            await until_woken(self._changed, _soon(now, *later), now=now)

    async def _outlooks(self) -> Sequence[Outlook]:
        async with self._engine.connect() as connection:
            await self._clock.look(connection)
            return await outlooks(connection, now=self._clock.now())

    async def _set_right(self, found: Sequence[Outlook]) -> bool:
        """Corrects times that a clock that was ahead has set, and returns whether there were any."""
        elapsed = timedelta(seconds=asyncio.get_running_loop().time())
        longest = timedelta(0) if self._watch.set_back(self._clock.now(), elapsed=elapsed) else LONGEST_DELAY
        wrong = [outlook.name for outlook in found if outlook.ahead or (outlook.pending and not longest)]
        for name in wrong:
            async with writing(self._engine, pace=self._pace) as connection:
                await commit_later(connection)
                mended = await set_right(connection, name, now=self._clock.now(), longest=longest)
            logger.warning("times_ahead", extra={"fields": {"destination": name, "deliveries": mended}})
        return bool(wrong)

    def _tell_of_pauses(self, found: Sequence[Outlook]) -> None:
        """Logs which destinations were paused or resumed, by a person or by an answer 410."""
        paused = {outlook.name: outlook.paused_reason for outlook in found if outlook.paused_at is not None}
        for name in sorted(paused.keys() - self._paused):
            fields = {"destination": name, "reason": paused[name]}
            logger.warning("destination_paused", extra={"fields": fields})
        for name in sorted(self._paused & {outlook.name for outlook in found if outlook.paused_at is None}):
            logger.warning("destination_resumed", extra={"fields": {"destination": name}})
        self._paused = frozenset(paused)

    async def _forget_replays(self) -> None:
        async with self._engine.connect() as connection:
            names = await over(connection)
        for name in names:
            async with writing(self._engine, pace=self._pace) as connection:
                await commit_later(connection)
                forgotten = await forget(connection, name)
            if forgotten and name in self._senders:
                sender = self._senders.pop(name)
                sender.end()
                await sender.drain(within=timedelta(0))

    def _open_for_replay(self, outlook: Outlook) -> None:
        """Makes the sender of a replay to a URL."""
        if outlook.url is not None and outlook.pending and outlook.name not in self._senders:
            self._start(partial(self._usable, self._add(outlook.name, DestinationSettings(url=outlook.url))))

    async def _usable(self, sender: Sender) -> None:
        """Runs the sender. If its destination cannot be used, says so and leaves the other senders running."""
        try:
            await sender.run()
        except SettingsProblem as error:
            fields = {"destination": sender.limits.name, "error": str(error)}
            logger.error("destination_unusable", extra={"fields": fields})  # noqa: TRY400 - the sentence says it
            async with writing(self._engine, pace=self._pace) as connection:
                await commit_later(connection)
                await set_unusable(connection, [sender.limits.name], reason=str(error))


def _soon(now: datetime, *times: datetime | None) -> datetime:
    """The first of the times, at most `LOOK_EVERY` from now."""
    return min([now + LOOK_EVERY, *(at for at in times if at is not None)])

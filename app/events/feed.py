"""Hands on events as they are committed: one reader for all who listen in this process.

The reader works only while somebody listens. It reads by position (see `app.events.positions`), so that nothing is
left out or handed on twice, whatever the order of commits and the clocks of receivers. Where a position is missing, it
waits until the transactions have ended that may still store it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import NamedTuple, Self

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.health import first_line
from app.events.positions import Place, Placed, newest, stored_after, writers
from app.web.problems import Unavailable

logger = logging.getLogger(__name__)

MOST_LISTENERS = 64
MOST_WAITING = 1000
"""How many events wait for one listener. They are the same objects for all."""

PAGE = 500
LOOK_EVERY = 0.1  # seconds from one look to the next: many commits cost one look
IDLE_LOOK = 1.0  # seconds: another process may have stored events, and nothing may have told
GAP_LOOK = 0.02  # seconds
TRY_AGAIN = 1.0  # seconds
READY_WITHIN = 5.0  # seconds
TROUBLE = (DBAPIError, NoConnection, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class TooManyListeners(Unavailable):
    """Too many clients follow the stream of events in this process."""


class FeedNotReady(Unavailable):
    """The database does not answer, so that the stream cannot begin."""

    reason = "database"


class _Gap(NamedTuple):
    """Missing positions up to `until`, and the transactions that may still store them."""

    until: int
    writers: frozenset[str]


class Listener:
    """One who listens. `lost` is true if too many events waited for it: it must end, and may resume."""

    def __init__(self) -> None:
        self.lost = False
        self.ended = False
        self._after = 0
        self._waiting: deque[Placed] = deque()
        self._news = asyncio.Event()

    def begin(self, after: int) -> None:
        """Only events after this position are of interest."""
        self._after = after

    def put(self, rows: list[Placed]) -> None:
        """Takes events, in the order of positions."""
        if self.lost:
            return
        self._waiting.extend(row for row in rows if row.position is not None and row.position > self._after)
        if len(self._waiting) > MOST_WAITING:
            self.lost = True
            self._waiting.clear()
        self._news.set()

    def end(self) -> None:
        """Wakes it up for the last time."""
        self.ended = True
        self._news.set()

    async def take(self, within: float) -> list[Placed]:
        """What has arrived; empty if nothing has within so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0, within)):
                await self._news.wait()
        self._news.clear()
        rows = list(self._waiting)
        self._waiting.clear()
        return rows


class Feed:
    """Hands on the events of a database.

    Args:
        engine: The database.
        waking: Gives what calls its argument when another process may have stored events, as long as it is open.
    """

    def __init__(
        self, engine: AsyncEngine, *, waking: Callable[[Callable[[], None]], AbstractAsyncContextManager[None]]
    ) -> None:
        self._engine = engine
        self._waking = waking
        self._listeners: set[Listener] = set()
        self._admitted = 0
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
        self._news = asyncio.Event()
        self._head = Place(0)
        self._settled = 0
        self._gap: _Gap | None = None

    @property
    def head(self) -> Place:
        """Up to where all events have been handed on."""
        return self._head

    def wake(self) -> None:
        """Lets the reader look: events were committed."""
        self._news.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Runs the reader; at the end all listeners are ended."""
        reader = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            for listener in self._listeners:
                listener.end()
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    async def admit(self) -> Callable[[], None]:
        """Makes sure that the reader runs. Returns the function that gives the place up again.

        Raises:
            TooManyListeners: 503.
            FeedNotReady: 503.
        """
        if self._admitted >= MOST_LISTENERS:
            raise TooManyListeners("Too many clients follow the stream.", "Try again later.")
        self._admitted += 1
        self._wanted.set()
        try:
            async with asyncio.timeout(READY_WITHIN):
                await self._ready.wait()
        except BaseException as error:
            self._leave()
            if isinstance(error, TimeoutError):
                raise FeedNotReady("The database does not answer.", "Try again later.") from None
            raise
        return self._leave

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Hands events to the listener, from `head` on."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def _leave(self) -> None:
        self._admitted -= 1
        if self._admitted == 0:
            self._wanted.clear()
            self._ready.clear()
            self._news.set()

    async def _run(self) -> None:
        told = False
        while True:
            await self._wanted.wait()
            try:
                async with self._waking(self.wake):
                    await self._follow()
                told = False
            except TROUBLE as error:
                if not told:
                    logger.warning("stream_waits", extra={"fields": {"error": first_line(error)}})
                told = True
                await asyncio.sleep(TRY_AGAIN)

    async def _follow(self) -> None:
        """Reads until nobody listens any more. Goes on where it was after trouble."""
        if not self._ready.is_set():
            self._gap, head = None, await self._begin()
            self._head, self._settled = head, head.position
            self._ready.set()
        while self._ready.is_set():  # it is not any more when nobody listens
            self._news.clear()
            again = await self._look()
            if again is None:
                await asyncio.sleep(LOOK_EVERY)
                with suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_LOOK):
                        await self._news.wait()
            else:
                await asyncio.sleep(again)

    async def _begin(self) -> Place:
        """The last position, once all before it are stored or never will be."""
        async with self._engine.connect() as connection:
            head = await newest(connection)
        left = await self._writers()
        while left:
            await asyncio.sleep(GAP_LOOK)
            left &= await self._writers()
        return head

    async def _look(self) -> float | None:
        """Hands on what is new. Returns after how many seconds to look again, or None to wait for news."""
        if self._gap is not None:  # asked before the rows are read: what has ended by now is among them
            left = self._gap.writers & await self._writers()
            self._gap = self._gap._replace(writers=left)
            if not left:
                self._settled, self._gap = self._gap.until, None
        async with self._engine.connect() as connection:
            rows = await stored_after(connection, self._head.position, limit=PAGE)
            if not rows and (await newest(connection)).position < self._head.position:
                self._head = await newest(connection, until=self._head.id)  # SQLite gives rowids again
                return LOOK_EVERY
        ready = _without_gap(rows, self._head.position, self._settled)
        if ready:
            last = ready[-1]
            self._head = Place(last.position or 0, last.event.id)
            for listener in self._listeners:
                listener.put(ready)
        if len(ready) < len(rows):
            if self._gap is None:
                self._gap = _Gap(rows[-1].position or 0, await self._writers())
            return GAP_LOOK
        return LOOK_EVERY if len(rows) == PAGE else None

    async def _writers(self) -> frozenset[str]:
        async with self._engine.connect() as connection:
            return await writers(connection)


def _without_gap(rows: list[Placed], position: int, settled: int) -> list[Placed]:
    """The first rows, up to a missing position that is not settled."""
    for count, row in enumerate(rows):
        assert row.position is not None  # noqa: S101 - rows were selected by it
        if row.position != position + 1 and row.position > settled:
            return rows[:count]
        position = row.position
    return rows

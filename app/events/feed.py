"""Hands on events as they are committed: one reader for all who listen in this process.

The reader works only while somebody listens. It reads by position (see `app.events.positions`), so that nothing is
left out or handed on twice, whatever the order of commits and the clocks of receivers. Where a position is missing, it
waits until the transactions have ended that may still store it.

If the last event that was handed on is gone or has another position, the database has another history: a backup was
restored, a standby without the last commits took over, or the newest events were deleted. Then all listeners end and
resume, and each finds its own place again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
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
MOST_OF_CLIENT = 32
MOST_WAITING = 1000
"""How many events wait for one listener. They are the same objects for all."""

PAGE = 100
"""The most that one look hands on. In a burst the stream falls behind: reading an event back takes a fifth of the work
of receiving it."""

LOOK_EVERY = 0.1  # seconds from one look to the next: many commits cost one look
IDLE_LOOK = 1.0  # seconds: another process may have stored events, and nothing may have told
GAP_LOOK = 0.02  # seconds
TRY_AGAIN = 1.0  # seconds
READY_WITHIN = 5.0  # seconds
TROUBLE = (DBAPIError, NoConnection, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class TooManyListeners(Unavailable):
    """Too many follow the stream of events in this process, of all clients or of this one."""


class FeedNotReady(Unavailable):
    """The database does not answer, or a transaction that writes events does not end."""

    reason = "database"


class _Gap(NamedTuple):
    """Missing positions up to `until`, and the transactions that may still store them."""

    until: int
    writers: frozenset[str]


class Listener:
    """One who listens. If `ended` is true, it must end, and may resume."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.ended = False
        self._after: int | None = None
        self._waiting: deque[Placed] = deque()
        self._news = asyncio.Event()

    def begin(self, after: int) -> None:
        """From now on it gets the events after this position."""
        self._after = after

    def put(self, rows: list[Placed]) -> None:
        """Takes events, in the order of positions. Ends if too many wait."""
        after = self._after
        if after is None or self.ended:
            return
        self._waiting.extend(row for row in rows if row.position is not None and row.position > after)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.clear()
            self.ended = True
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
        engine: The database, on a host that takes writes: a standby may lag, and knows of no transactions that write.
        waking: Gives what calls its argument when another process may have stored events, as long as it is open.

    Attributes:
        paging: Whoever reads a page of earlier events holds it, so that many who resume cost as much as one.
    """

    def __init__(
        self, engine: AsyncEngine, *, waking: Callable[[Callable[[], None]], AbstractAsyncContextManager[None]]
    ) -> None:
        self.engine = engine
        self.paging = asyncio.Lock()
        self._waking = waking
        self._listeners: set[Listener] = set()
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
            self._end_all()
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    async def admit(self, client: str) -> Listener:
        """A listener of this client, once `head` is known. `leave` gives its place up again.

        Raises:
            TooManyListeners: 503.
            FeedNotReady: 503.
        """
        if len(self._listeners) >= MOST_LISTENERS:
            raise TooManyListeners("Too many clients follow the stream.", "Try again later.")
        if sum(each.client == client for each in self._listeners) >= MOST_OF_CLIENT:
            raise TooManyListeners("This client follows the stream too many times.", "End another one first.")
        listener = Listener(client)
        self._listeners.add(listener)
        self._wanted.set()
        try:
            async with asyncio.timeout(READY_WITHIN):
                await self._ready.wait()
        except BaseException as error:
            self.leave(listener)
            if isinstance(error, TimeoutError):
                raise FeedNotReady("The stream cannot begin yet.", "Try again later.") from None
            raise
        return listener

    def leave(self, listener: Listener) -> None:
        """Hands nothing more to the listener."""
        self._listeners.discard(listener)
        if not self._listeners:
            self._wanted.clear()
            self._ready.clear()
            self._news.set()

    def _end_all(self) -> None:
        for listener in self._listeners:
            listener.end()

    async def _run(self) -> None:
        told = False
        while True:
            await self._wanted.wait()
            try:
                async with self._waking(self.wake):
                    await self._follow()
                told = False
            except Exception as error:  # else nobody would be told of an event any more
                if not told:
                    unforeseen = not isinstance(error, TROUBLE)
                    logger.warning("stream_waits", extra={"fields": {"error": first_line(error)}}, exc_info=unforeseen)
                told = True
                await asyncio.sleep(TRY_AGAIN)

    async def _follow(self) -> None:
        """Reads until nobody listens any more, or history has changed. Goes on where it was after trouble."""
        if not self._ready.is_set():
            self._gap, head = None, await self._begin()
            if not self._wanted.is_set():
                return
            self._head, self._settled = head, head.position
            self._ready.set()
        while self._ready.is_set():
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
        async with self.engine.connect() as connection:
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
        head = self._head
        async with self.engine.connect() as connection:
            rows = await stored_after(connection, head.position - 1, limit=PAGE + 1)
        if rows and rows[0].event.id == head.id:
            del rows[0]
        elif head.position and (not rows or rows[0].position == head.position):
            self._ready.clear()
            self._end_all()
            return LOOK_EVERY
        ready = _without_gap(rows, head.position, self._settled)
        if ready:
            last = ready[-1]
            self._head = Place(last.position or 0, last.event.id)
            for listener in self._listeners:
                listener.put(ready)
        if len(ready) < len(rows):
            if self._gap is None:
                self._gap = _Gap(rows[-1].position or 0, await self._writers())
            return GAP_LOOK
        return LOOK_EVERY if len(rows) >= PAGE else None

    async def _writers(self) -> frozenset[str]:
        async with self.engine.connect() as connection:
            return await writers(connection)


def _without_gap(rows: list[Placed], position: int, settled: int) -> list[Placed]:
    """The first rows, up to a missing position that is not settled."""
    for count, row in enumerate(rows):
        assert row.position is not None  # noqa: S101 - rows were selected by it
        if row.position != position + 1 and row.position > settled:
            return rows[:count]
        position = row.position
    return rows

"""Wakes a worker when there is something to do: by PostgreSQL's LISTEN and NOTIFY, or by the SQLite file's bell."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.bell import listening, ring
from app.database.engines import is_sqlite, sqlite_path
from app.database.postgres import close, connect_postgres, takes_writes

logger = logging.getLogger(__name__)

EVENTS, DELIVERIES = "priohook_events", "priohook_deliveries"
"""PostgreSQL's channels: events were stored, with the number of those that wait for the next commit, which earlier
releases leave out; deliveries, replays or destinations changed."""

LISTEN_CHECK = 20.0  # seconds between checks of the connection that listens
LISTEN_AGAIN = 1.0  # seconds before another attempt to listen
NOTIFY_EVERY = 0.02  # seconds
NOTIFY_WITHIN = timedelta(seconds=2)
"""How long a statement of these connections may take."""


async def notify(connection: AsyncConnection) -> None:
    """Tells all workers, when the transaction commits, that deliveries changed. On SQLite `writing` does it."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text(f"NOTIFY {DELIVERIES}"))


@asynccontextmanager
async def waking(url: str, *, events: Callable[[int], None], deliveries: Callable[[], None]) -> AsyncIterator[None]:
    """Calls `events` or `deliveries` within milliseconds of a commit that may have changed them.

    A notification can be lost with its connection, so the caller must look from time to time anyway.

    Args:
        url: The database's.
        events: Gets the number of events that wait in their receiver for the next commit.
        deliveries: Is called for all other changes, and for what changed before it listened.
    """
    hear = _hear(sqlite_path(url), events, deliveries) if is_sqlite(url) else _listen(url, events, deliveries)
    hearing = asyncio.create_task(hear)
    try:
        yield
    finally:
        hearing.cancel()
        with suppress(asyncio.CancelledError):
            await hearing


def waking_readers(url: str, wake: Callable[[], None]) -> AbstractAsyncContextManager[None]:
    """Calls `wake` when another process stored events. The bell of a SQLite file rings for its worker only."""
    return nullcontext() if is_sqlite(url) else waking(url, events=lambda _: wake(), deliveries=wake)


class Notifier:
    """Tells workers that events were stored, and how many more wait in this receiver.

    It does so after the commit: NOTIFY in the transaction would make all commits of the database wait for each other.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting = 0
        self._again = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Ends it at the end. Workers find events that were not notified when they look by themselves."""
        try:
            yield self
        finally:
            if self._task is not None:
                self._task.cancel()
                with suppress(asyncio.CancelledError):
                    await self._task
            if self._connection is not None:
                self._connection.terminate()

    def stored(self, waiting: int) -> None:
        """Notifies at once, or within `NOTIFY_EVERY` if it has just notified.

        Args:
            waiting: How many events wait for the next commit. Of several numbers between two notifications the largest
                is told: one commit often takes all that wait, and the next one finds as many again.
        """
        self._waiting = max(self._waiting, waiting)
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._notify())

    async def _notify(self) -> None:
        while self._again:
            waiting, self._waiting, self._again = self._waiting, 0, False
            if is_sqlite(self._url):
                ring(sqlite_path(self._url), waiting)
            elif not await self._notified(waiting):
                await self._leave()
                await asyncio.sleep(LISTEN_AGAIN)
            await asyncio.sleep(NOTIFY_EVERY)

    async def _notified(self, waiting: int) -> bool:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect_postgres(self._url, within=NOTIFY_WITHIN)
            await self._connection.execute(f"NOTIFY {EVENTS}, '{waiting}'")
            return takes_writes(self._connection)
        except Exception:  # noqa: BLE001 - the driver may raise anything at bytes that are not PostgreSQL's
            return False

    async def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)


async def _listen(url: str, events: Callable[[int], None], deliveries: Callable[[], None]) -> None:
    def heard(_: Any, __: int, channel: str, waiting: str) -> None:
        if channel == EVENTS:
            events(int(waiting) if waiting.isdecimal() else 0)
        else:
            deliveries()

    told = False  # logs once for each lost connection, not for each attempt to listen again
    while True:
        connection: asyncpg.Connection | None = None
        try:
            ended = asyncio.Event()
            connection = await connect_postgres(url, within=NOTIFY_WITHIN)
            connection.add_termination_listener(lambda _, ended=ended: ended.set())
            for channel in (EVENTS, DELIVERIES):
                await connection.add_listener(channel, heard)
            told = False
            deliveries()  # for notifications before it listened
            await _until_lost(connection, ended)
        except Exception as error:  # noqa: BLE001 - as above; a worker that heard nothing any more would be slow
            if not told:
                logger.warning("listen_failed", extra={"fields": {"error": str(error)}})
            told = True
        finally:
            if connection is not None:
                connection.terminate()
        await asyncio.sleep(LISTEN_AGAIN)


async def _until_lost(connection: asyncpg.Connection, ended: asyncio.Event) -> None:
    """Returns when the connection has ended, or when its host has become read-only and so sends no notifications.

    Raises:
        TimeoutError: the server does not answer.
    """
    while not ended.is_set() and takes_writes(connection):
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_CHECK):
                await ended.wait()
                return
        await connection.execute("SELECT 1")  # a dead connection may never end by itself


async def _hear(path: Path, events: Callable[[int], None], deliveries: Callable[[], None]) -> None:
    def heard(waiting: int | None) -> None:
        if waiting is not None:
            events(waiting)
        else:
            deliveries()

    told = False
    while True:
        try:
            with listening(path, heard) as can_be_rung:
                told = False
                deliveries()  # for what was committed before it listened
                while can_be_rung():  # noqa: ASYNC110 - nobody tells that the socket was removed
                    await asyncio.sleep(LISTEN_CHECK)
            continue
        except OSError as error:
            if not told:
                logger.warning("listen_failed", extra={"fields": {"error": str(error)}})
            told = True
        await asyncio.sleep(LISTEN_AGAIN)

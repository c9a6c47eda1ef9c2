"""Wakes a worker when there is something to do: by PostgreSQL's LISTEN and NOTIFY, or when the SQLite file changes."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from datetime import timedelta
from urllib.parse import quote

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.engines import is_sqlite, sqlite_path
from app.database.postgres import close, connect_postgres, takes_writes

logger = logging.getLogger(__name__)

EVENTS, DELIVERIES = "priohook_events", "priohook_deliveries"
"""PostgreSQL's channels: events were stored; deliveries, replays or destinations changed."""

LOOK_EVERY = 0.025  # seconds between looks at the SQLite file's change counter
LISTEN_CHECK = 20.0  # seconds between checks of the connection that listens
LISTEN_AGAIN = 1.0  # seconds before another attempt to listen
NOTIFY_EVERY = 0.02  # seconds
TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
NOTIFY_WITHIN = timedelta(seconds=2)
"""How long a statement of these connections may take."""


async def notify(connection: AsyncConnection) -> None:
    """Tells all workers, when the transaction commits, that deliveries changed. On SQLite the commit itself does."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text(f"NOTIFY {DELIVERIES}"))


@asynccontextmanager
async def waking(url: str, *, events: Callable[[], None], deliveries: Callable[[], None]) -> AsyncIterator[None]:
    """Calls `events` or `deliveries` within milliseconds of a commit that may have changed them.

    A notification can be lost with its connection, so the caller must look from time to time anyway.
    """
    wakers = {EVENTS: events, DELIVERIES: deliveries}
    listening = asyncio.create_task(_watch_file(url, wakers) if is_sqlite(url) else _listen(url, wakers))
    try:
        yield
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


class Notifier:
    """Tells workers, on PostgreSQL, that events were stored.

    It does so after the commit: NOTIFY in the transaction would make all commits of the database wait for each other.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def stored(self) -> None:
        """Notifies at once, or within `NOTIFY_EVERY` if it has just notified."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._notify())

    async def close(self) -> None:
        """Ends it. Workers find events that were not notified when they look by themselves."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None:
            self._connection.terminate()

    async def _notify(self) -> None:
        while self._again:
            self._again = False
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await connect_postgres(self._url, within=NOTIFY_WITHIN)
                await self._connection.execute(f"NOTIFY {EVENTS}")
                well = takes_writes(self._connection)
            except TROUBLE:
                well = False
            if not well:
                await self._leave()
                await asyncio.sleep(LISTEN_AGAIN)
            await asyncio.sleep(NOTIFY_EVERY)

    async def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)


async def _listen(url: str, wakers: Mapping[str, Callable[[], None]]) -> None:
    told = False  # logs once for each lost connection, not for each attempt to listen again
    while True:
        connection: asyncpg.Connection | None = None
        try:
            ended = asyncio.Event()
            connection = await connect_postgres(url, within=NOTIFY_WITHIN)
            connection.add_termination_listener(lambda _, ended=ended: ended.set())
            for channel in wakers:
                await connection.add_listener(channel, lambda _, __, channel, ___: wakers[channel]())
            told = False
            _wake_all(wakers)  # for notifications before it listened
            await _until_lost(connection, ended)
        except TROUBLE as error:
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


async def _watch_file(url: str, wakers: Mapping[str, Callable[[], None]]) -> None:
    # It reads a counter in shared memory, which takes 10 us and holds no lock that others wait for.
    path = f"file:{quote(str(sqlite_path(url)))}?mode=ro"
    while True:
        try:
            with closing(sqlite3.connect(path, uri=True, isolation_level=None, timeout=0)) as connection:
                await _watch_counter(connection, wakers)
        except sqlite3.Error as error:
            logger.warning("watch_failed", extra={"fields": {"error": str(error)}})
        await asyncio.sleep(LISTEN_AGAIN)


async def _watch_counter(connection: sqlite3.Connection, wakers: Mapping[str, Callable[[], None]]) -> None:
    seen = None
    while True:
        version = connection.execute("PRAGMA data_version").fetchone()
        if version != seen:
            seen = version
            _wake_all(wakers)
        await asyncio.sleep(LOOK_EVERY)


def _wake_all(wakers: Mapping[str, Callable[[], None]]) -> None:
    for wake in wakers.values():
        wake()

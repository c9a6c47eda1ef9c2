"""The spool: acknowledged events that wait in a local file while PostgreSQL takes none, and are moved there later.

    direct    events go to PostgreSQL
      │  a commit or a trial fails or takes too long, or another process left events
      ▼
    active    new events go to this process's file; the events in the files are moved, the oldest first
      │  the last events are moved while new ones wait for a moment
      ▼
    direct

So no event overtakes an earlier one of this receiver. A worker takes committed events in the order of their ids, so it
delivers them in order. An event is moved twice if the outcome of the first attempt is unknown, or if the event could
not be deleted from its file. It has the same id both times, so it is stored once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic

from app.database.health import Health
from app.events.moving import Mover
from app.events.postgres import PostgresWriter
from app.events.rows import NewEvent, Stored
from app.events.spool_folder import SpoolFolder
from app.events.spool_problems import SpoolProblem
from app.events.store import EventStore, StoreFull, Waiting, Writer, reason_of

logger = logging.getLogger(__name__)

TRY_EVERY = 0.5  # seconds between attempts to move events
ADOPT_EVERY = 10.0  # seconds between looks for files that another process left
HOLD_FOR = 1.0  # seconds that new events wait at most while the last ones are moved, unless half the timeout is less


class SpoolFull(StoreFull):
    """The spool has reached its bound."""

    reason = "spool_full"


class EventSpool:
    """Implements `app.events.store.Spool`.

    Args:
        folder: On a durable local disk. Other processes may have files there too.
        max_bytes: The most that this process writes there until it is moved. What other processes left does not count:
            a receiver that adopts a large file must have room for its own events.
        max_batch: As in `EventStore`.
        max_waiting: As in `EventStore`, but twice as many wait here: all that wait there may come over at once.
        max_waiting_bytes: As in `EventStore`, and twice as many too.
        timeout: As in `EventStore`, for a commit into the spool.
        unread: Turns an event whose content the database refuses into a quarantined one, with its bytes only.
        health: Is told whether events can be moved.
        before: Called before the first event goes to the database; if it fails, all events go to the spool, and it is
            tried again. None if the database was found as it should be.
        moved: Called after each commit of moved events, with their number.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        max_batch: int,
        max_waiting: int,
        max_waiting_bytes: int,
        timeout: timedelta,
        unread: Callable[[NewEvent], NewEvent],
        health: Health,
        before: Callable[[], Awaitable[None]] | None = None,
        moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._folder = SpoolFolder(folder)
        self._max_bytes = max_bytes
        self._max_batch = max_batch
        self._unread = unread
        self._health = health
        self._before = before
        self._moved = moved
        self._hold_for = min(HOLD_FOR, timeout.total_seconds() / 2)
        self._store = EventStore(
            self._folder,
            max_batch=max_batch,
            max_waiting=2 * max_waiting,
            max_waiting_bytes=2 * max_waiting_bytes,
            timeout=timeout,
        )
        self._active = False
        self._since = 0.0
        self._count = 0  # of events moved since `_since`
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self._primary: EventStore
        self._writer: PostgresWriter
        self._mover: Mover

    @property
    def active(self) -> bool:
        """Implements `Spool.active`."""
        return self._active

    @property
    def events(self) -> int:
        """How many events wait in files of this process."""
        return sum(file.events for file in self._folder.files)

    @property
    def size(self) -> int:
        """About how many bytes these events take."""
        return sum(file.size for file in self._folder.files)

    @property
    def takes_events(self) -> bool:
        """Whether an event could be committed to the spool now, as far as this process knows."""
        own = self._folder.own
        return own is not None and own.problem is None and not self._is_full()

    async def append(self, event: NewEvent) -> Stored:
        """Implements `Spool.append`."""
        if self._is_full():
            raise SpoolFull("The spool is full, and the database takes no events.")
        return await self._store.append(event)

    def divert(self, waiting: Iterable[Waiting], *, reason: str) -> None:
        """Implements `Spool.divert`."""
        logger.warning("spool_started", extra={"fields": {"reason": reason, "events": self.events}})
        self._active = True
        self._since, self._count = monotonic(), 0
        self._store.take_over(waiting)
        self._begin(self._move_all())

    async def begin(self, store: EventStore, writer: Writer) -> None:
        """Implements `Spool.begin`.

        Raises:
            SpoolProblem: this process may not write in the folder.
        """
        assert isinstance(writer, PostgresWriter)  # noqa: S101 - the settings refuse a spool beside SQLite
        self._primary, self._writer = store, writer
        self._mover = Mover(writer, unread=self._unread, moved=self._committed)
        await self._folder.open()
        self._health.spool = self
        await self._stack.enter_async_context(self._store.running())
        if self._folder.left:
            self.divert((), reason="An earlier process left events.")
        elif self._before is not None:
            self.divert((), reason="The database was away at the start.")
        self._begin(self._look())

    async def end(self) -> None:
        """Implements `Spool.end`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._store.resume()
        await self._stack.aclose()
        await self._folder.close_files()

    def _is_full(self) -> bool:
        own = self._folder.own
        return own is not None and own.size >= self._max_bytes

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        """Adopts the files that other processes leave while this one runs, for example when they are killed."""
        while True:
            await asyncio.sleep(ADOPT_EVERY)
            with suppress(OSError):  # of the folder; it is looked at again
                await self._folder.adopt()
            if self._folder.own is None and not self._active:
                await self._folder.renew()
            if self._folder.left and not self._active:
                self._primary.divert("Another process left events.")

    async def _move_all(self) -> None:
        """Moves events until none is left, and tries again after each failure. Then new events go directly again."""
        failed: Exception | None = None
        while True:
            try:
                if failed is not None:
                    await asyncio.sleep(TRY_EVERY)
                    if isinstance(failed, SpoolProblem):
                        await self._folder.go_on_without(failed)
                    await self._folder.renew()
                await self._primary.idle()  # a write under way may still be committed, and uses the connection
                await self._prepare()
                await self._move_left()
                await self._writer.probe(thorough=True)  # new events must not wait for a database that is away
                self._health.works("commits")
                if await self._move_last():
                    return
                failed = None
            except Exception as error:  # noqa: BLE001 - whatever failed, events must be moved later
                failed = error
                if not isinstance(error, SpoolProblem):
                    self._health.fails("commits", reason_of(error), error=error)

    async def _prepare(self) -> None:
        if self._before is not None:
            await self._before()
            self._before = None

    async def _move_left(self) -> None:
        """Moves the events that other processes left, and all but the last of this process's own."""
        folder = self._folder
        while folder.left:
            file = folder.left[0]
            await self._mover.move_all(file)
            await folder.finish(file)
        while folder.own is not None and folder.own.events > self._max_batch and (kept := await folder.own.oldest()):
            await self._mover.move(folder.own, kept)

    async def _move_last(self) -> bool:
        """Moves the last events while new ones wait. True if none is left: new ones then go directly to the database.

        If moving takes too long, or too many wait, new events go to the spool again.
        """
        self._store.hold()
        last = asyncio.ensure_future(self._move_own())
        try:
            await asyncio.wait((last,), timeout=self._hold_for)
            if last.done() and last.exception() is None and not self._folder.left and self._store.is_held:
                self._go_direct()
                return True
        except asyncio.CancelledError:
            last.cancel()
            await asyncio.gather(last, return_exceptions=True)
            raise
        finally:
            self._store.resume()
        await last
        return False

    async def _move_own(self) -> None:
        await self._store.idle()
        own = self._folder.own
        if own is not None:
            await self._mover.move_all(own)
        if own is not None and own is self._folder.own and own.is_spent and self._store.is_held:
            await self._folder.replace()

    def _go_direct(self) -> None:
        fields = {"events": self._count, "seconds": round(monotonic() - self._since, 1)}
        logger.warning("spool_ended", extra={"fields": fields})
        self._active = False
        self._primary.take_over(self._store.hand_over())

    def _committed(self, events: int) -> None:
        self._health.works("commits")
        self._count += events
        self._moved(events)

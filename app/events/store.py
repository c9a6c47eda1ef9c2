"""Group commit: many events, one transaction, and an answer to each only after COMMIT returned.

`append` puts the event on a bounded queue. All waiting events are written and committed together, then their callers
wake up. The store waits for no timer: while one batch commits, the next one gathers. A single event is written at once.

A callback starts the next write as soon as the last one ends. A task in a loop would wake up some turns of the event
loop later. Each turn may serve dozens of requests, and the database would have nothing to do meanwhile.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

import asyncpg

from app.database.away import is_away
from app.database.health import Health, first_line
from app.database.leaving import Moved
from app.database.problems import DatabaseProblem
from app.events.rows import NewEvent, Row, Stored
from app.web.problems import Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_EVERY = 0.5  # seconds between checks for events that have waited too long
TRY_EVERY = 1.0  # seconds without a commit before a trial
SHUTDOWN = timedelta(seconds=20)


class BadRow(Exception):
    """The database refused the content of one row; the other rows of its batch may be good."""


class Writer(Protocol):
    """Writes batches into one kind of database."""

    def write(self, rows: Sequence[Row]) -> Awaitable[Mapping[bytes, UUID]]:
        """Commits all rows or none, and returns the id under which each row is stored, by `dedup_key`.

        What an operator's own trigger leaves out has no id.

        No two rows have the same key, and rows are sorted by key: two processes that write the same events in
        different orders would wait for each other's locks. Before the insert, each event that must give up its key
        (see `outlived_keys`) gets its id as its key.

        Raises:
            BadRow: one of the rows cannot be stored as it is.
            Exception: the database is in trouble. The rows may have been committed or not; a caller that tries again
                gets a duplicate at worst.
        """

    def probe(self, *, thorough: bool) -> Awaitable[None]:
        """Returns if events could be committed: runs the statement that inserts them, without effect.

        Args:
            thorough: Whether to write to the disk too. Without that, a full disk goes unnoticed.

        Raises:
            Exception: the database is in trouble.
        """

    async def close(self) -> None:
        """Closes connections and ends threads."""


class StoreFull(Unavailable):
    """Too many events are waiting for a commit."""

    reason = "queue_full"


class StoreUnavailable(Unavailable):
    """The database did not confirm the commit. The event may be stored or not; sending it again is safe."""

    reason = "database"


class StoreLate(StoreUnavailable):
    """The commit took too long."""

    reason = "commit_timeout"


class Meter(Protocol):
    """Counts commits; see `app.telemetry.meter`."""

    def committed(self, events: int, seconds: float, *, failed: bool) -> None:
        """Counts a commit, or one that failed."""


class Spool(Protocol):
    """Takes events while the database does not, and moves them into it later; see `app.events.spool`."""

    @property
    def active(self) -> bool:
        """Whether new events go to the spool."""

    async def append(self, event: NewEvent) -> Stored:
        """As `EventStore.append`."""

    def divert(self, waiting: Iterable["Waiting"], *, reason: str) -> None:
        """Takes what waits, and from now on every new event, until all that the spool holds is in the database."""

    async def begin(self, store: "EventStore", writer: Writer) -> None:
        """Opens the spool. Events of an earlier run are moved into the database first, before new ones."""

    async def end(self) -> None:
        """Commits what waits, and closes the spool."""


class Successor(Protocol):
    """Takes events once all that is in a SQLite file was moved to PostgreSQL; see `app.events.handover`."""

    @property
    def active(self) -> bool:
        """Whether events go there, which they then do for good."""

    async def append(self, event: NewEvent) -> Stored:
        """As `EventStore.append`."""

    def take(self, waiting: Iterable["Waiting"]) -> None:
        """Takes what waits, and from now on every new event."""


class StoreRefused(StoreUnavailable):
    """The database refuses this event and takes others. The event was not stored."""

    reason = "refused_by_database"


@dataclass(slots=True)
class Waiting:
    """An event whose caller waits for its commit."""

    event: NewEvent
    stored: asyncio.Future[Stored]
    since: float


class EventStore:
    """Stores events; use as `async with store.running()`.

    Args:
        writer: Writes into the database.
        max_batch: The most events in one transaction.
        max_waiting: The most events that may wait for a transaction.
        max_waiting_bytes: The most bytes of bodies that may wait for a transaction.
        timeout: How long an event may wait before its caller is told that the database is unavailable.
        stored: Called after each commit, with the number of events that wait for the next one.
        health: Is told the outcome of each commit, and after a second without a commit the outcome of a trial.
        spool: Gets the events that the database does not take within `timeout`, and all that come after them.
        successor: Gets all events once the database is another one.
        meter: Counts the commits.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        max_batch: int,
        max_waiting: int,
        max_waiting_bytes: int,
        timeout: timedelta,
        stored: Callable[[int], None] = lambda _: None,
        health: Health | None = None,
        spool: Spool | None = None,
        successor: Successor | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._writer = writer
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._timeout = timeout.total_seconds()
        self._stored = stored
        self._health = health
        self._spool = spool
        self._successor = successor
        self._meter = meter
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self._alone: deque[Waiting] = deque()  # events of a batch that failed because of one of them
        self._batch: list[Waiting] = []  # what is being written
        self._writing: asyncio.Future[Any] | None = None
        self._changed = monotonic()  # when a write began or ended
        self._thorough = False  # the last write of events failed
        self._closing = False
        self._held = False
        self._loop: asyncio.AbstractEventLoop  # from the start on

    async def append(self, event: NewEvent) -> Stored:
        """Returns once the event, or an earlier copy of it, is committed.

        If the caller is cancelled meanwhile, the event is stored all the same.

        Raises:
            StoreFull: too many events are waiting; this one was not stored.
            StoreRefused: the database refuses the event; it was not stored.
            StoreUnavailable: the event may be stored or not.
        """
        return await self._queued(event)  # a local future would, with its error, be a cycle that keeps the body

    def _queued(self, event: NewEvent) -> Awaitable[Stored]:
        if self._successor is not None and self._successor.active:
            return self._successor.append(event)
        if self._closing:
            raise StoreUnavailable("The receiver is shutting down.")
        if self._spool is not None and self._spool.active:
            return self._spool.append(event)
        size = len(event.body)
        if len(self._waiting) >= self._max_waiting or (
            self._waiting and self._waiting_bytes + size > self._max_waiting_bytes
        ):
            if self._held:
                self.resume()
                return self._queued(event)
            if self._spool is not None:  # its sender may never send the event again
                self.divert(f"{len(self._waiting)} events wait for the database.")
                return self._spool.append(event)
            raise StoreFull("Too many events are waiting to be stored.")
        stored: asyncio.Future[Stored] = self._loop.create_future()
        self._waiting.append(Waiting(event, stored, monotonic()))
        self._waiting_bytes += size
        if self._writing is None:
            self._loop.call_soon(self._write_next)  # not at once, so that events of the same turn of the loop join it
        return stored

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Stores events. At the end, first commits everything that still waits."""
        self._loop = asyncio.get_running_loop()
        if self._spool is not None:
            await self._spool.begin(self, self._writer)
        watch = asyncio.create_task(self._watch())
        if self._health is not None and not self._diverted:
            self._try()
        try:
            yield self
        finally:
            self._closing = True
            try:
                async with asyncio.timeout(SHUTDOWN.total_seconds()):
                    await self._drain()
            except TimeoutError:
                logger.exception("store_not_drained", extra={"fields": {"events": len(self._waiting)}})
                self._expire(monotonic())
            watch.cancel()
            if self._spool is not None:
                await self._spool.end()
            await self._writer.close()

    def hold(self) -> None:
        """Begins no further write until `resume`, or until too many events wait."""
        self._held = True

    @property
    def events(self) -> int:
        """How many events wait for their commit."""
        return len(self._batch) + len(self._alone) + len(self._waiting)

    @property
    def is_held(self) -> bool:
        """Whether no write has begun since `hold`."""
        return self._held

    def resume(self) -> None:
        """Goes on after `hold`."""
        self._held = False
        self._write_next()

    async def idle(self) -> None:
        """Returns when no write is under way."""
        while self._writing is not None:
            await asyncio.wait((self._writing,))

    def hand_over(self) -> list[Waiting]:
        """Gives up all events whose callers wait, in order of arrival. A write under way may commit some of them."""
        everything = (*self._batch, *self._alone, *self._waiting)
        self._batch = []
        self._alone.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        return [waiting for waiting in everything if waiting.stored.cancelled() or not waiting.stored.done()]

    def take_over(self, handed: Iterable[Waiting]) -> None:
        """Stores events that another store handed over. They have the whole timeout again."""
        now = monotonic()
        for waiting in handed:
            self._waiting.append(Waiting(waiting.event, waiting.stored, now))
            self._waiting_bytes += len(waiting.event.body)
        self._loop.call_soon(self._write_next)

    @property
    def _diverted(self) -> bool:
        return any(other is not None and other.active for other in (self._spool, self._successor))

    def divert(self, reason: str) -> None:
        """Hands all waiting events to the spool, if there is one. New events go there too until the spool is empty."""
        if self._spool is not None and not self._spool.active:
            self._spool.divert(self.hand_over(), reason=reason)

    def _fail_over(self, error: BaseException | None) -> None:
        """Lets others take the events, if they can, that the database does not take."""
        if isinstance(error, Moved) and self._successor is not None:
            self._successor.take(self.hand_over())
        elif error is not None and not isinstance(error, BadRow):
            self.divert(reason_of(error))

    async def _drain(self) -> None:
        self._write_next()
        while self._writing is not None:
            await asyncio.wait((self._writing,))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY)
            now = monotonic()
            self._expire(now - self._timeout)
            if self._health is None or self._closing or self._diverted:
                continue
            if self._writing is None and now - self._changed > TRY_EVERY:
                self._try()
            elif self._writing is not None and now - self._changed > self._timeout:
                # A slower commit than this is of no use to its sender; until then the database may only be slow.
                why = f"A commit has taken more than {self._timeout:g} seconds."
                self._health.fails("commits", why)
                self.divert(why)

    def _try(self) -> None:
        """Finds out whether a commit would succeed. No events are written meanwhile."""
        trial = self._begin(self._writer.probe(thorough=self._thorough))
        trial.add_done_callback(self._tried)

    def _tried(self, trial: asyncio.Future[None]) -> None:
        self._fail_over(self._end(trial, wrote=False))
        self._write_next()

    def _write_next(self) -> None:
        if self._writing is None and not self._held and (batch := self._take()):
            self._batch = batch
            self._begin(self._writer.write(_rows(batch))).add_done_callback(self._written)

    def _begin(self, writing: Awaitable[T]) -> asyncio.Future[T]:
        future = asyncio.ensure_future(writing)
        self._writing, self._changed = future, monotonic()
        return future

    def _end(self, writing: asyncio.Future[Any], *, wrote: bool) -> BaseException | None:
        """Notes the outcome of a write or trial, and returns its error."""
        self._writing, self._changed = None, monotonic()
        error = asyncio.CancelledError() if writing.cancelled() else writing.exception()
        works = error is None or isinstance(error, BadRow)
        if isinstance(error, Moved) and self._successor is not None:  # which takes events in the database's place
            return error
        self._thorough = not works and (self._thorough or wrote)
        if self._health is not None and works:
            self._health.works("commits")
        elif self._health is not None:
            self._health.fails("commits", reason_of(error), error=error)
        return error

    def _take(self) -> list[Waiting]:
        while self._alone:
            waiting = self._alone.popleft()
            if waiting.stored.cancelled() or not waiting.stored.done():
                return [waiting]
        batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        self._waiting_bytes -= sum(len(waiting.event.body) for waiting in batch)
        return batch

    def _written(self, writing: asyncio.Future[Mapping[bytes, UUID]]) -> None:
        took = monotonic() - self._changed
        error = self._end(writing, wrote=True)
        if self._meter is not None:
            self._meter.committed(len(self._batch), took, failed=error is not None)
        self._fail_over(error)
        batch, self._batch = self._batch, []  # empty if another has it
        try_alone = isinstance(error, BadRow) and len(batch) > 1
        if try_alone:  # one bad row fails the whole transaction, but the others can be stored
            self._alone.extend(batch)
        self._write_next()  # before the callers go on, so that the database does not wait for their answers
        if error is None:
            _resolve(batch, writing.result())
            self._stored(len(self._batch) + len(self._waiting))
        elif batch and not try_alone:
            refused = isinstance(error, BadRow)
            fields = {"events": len(batch), "event_id": str(batch[0].event.id), "error": first_line(error)}
            # While the database is lost, every batch fails, and `database_lost` has been logged once.
            logger.log(logging.ERROR if refused else logging.INFO, "commit_failed", extra={"fields": fields})
            why = StoreRefused if refused else StoreUnavailable
            for waiting in batch:
                _give_up(waiting, why)

    def _expire(self, latest: float) -> None:
        """Fails all that have waited since `latest` or longer, in the transaction under way and in the queue.

        If there is a spool, it gets all events instead: later ones must not overtake these.
        """
        if self._spool is not None and not self._spool.active:
            queue = (*self._batch, *self._alone, *self._waiting)
            if any(waiting.since <= latest and not waiting.stored.done() for waiting in queue):
                self.divert(f"A commit has taken more than {self._timeout:g} seconds.")
            return
        for waiting in (*self._batch, *self._alone):
            if waiting.since <= latest:
                _give_up(waiting, StoreLate)
        while self._waiting and self._waiting[0].since <= latest:
            late = self._waiting.popleft()
            self._waiting_bytes -= len(late.event.body)
            _give_up(late, StoreLate)


def reason_of(error: BaseException | None) -> str:
    """Why events cannot be committed, for anyone who asks."""
    if isinstance(error, DatabaseProblem):
        return str(error)
    if isinstance(error, asyncpg.PostgresError) and not is_away(error):
        return "The database refuses this receiver: its user, password, rights or database are wrong. The log says why."
    return "The last commit failed; the log says why."


def _rows(batch: Sequence[Waiting]) -> list[Row]:
    """One row for each key of the batch, sorted by key."""
    rows: dict[bytes, Row] = {}
    for waiting in batch:
        row = rows.setdefault(waiting.event.dedup_key, Row(waiting.event))
        if row.event is not waiting.event:
            row.duplicates += 1
            row.last_duplicate_at = waiting.event.received_at
    return [rows[key] for key in sorted(rows)]


def _resolve(batch: Sequence[Waiting], ids: Mapping[bytes, UUID]) -> None:
    for waiting in batch:
        stored_as = ids.get(waiting.event.dedup_key)
        if stored_as is None:
            fields = {"events": 1, "event_id": str(waiting.event.id), "error": "A trigger on the table left it out."}
            logger.error("commit_failed", extra={"fields": fields})
            _give_up(waiting, StoreRefused)
        elif not waiting.stored.done():
            waiting.stored.set_result(Stored(stored_as, duplicate=stored_as != waiting.event.id))


def _give_up(waiting: Waiting, why: type[StoreUnavailable] = StoreUnavailable) -> None:
    with suppress(asyncio.InvalidStateError):  # its caller may be gone
        waiting.stored.set_exception(why("The event could not be stored."))

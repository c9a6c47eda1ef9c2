"""Group commit: many events, one transaction, and an answer to each only after COMMIT returned.

`append` puts the event on a bounded queue. All that wait are written and committed together, then their callers are
woken. There is no timer: while one batch commits the next one gathers, and a lone event waits for nothing.

Callbacks instead of a task that loops: behind a commit a task wakes only after some turns of the event loop, each of
which may serve dozens of requests, while the database has nothing to do.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, NamedTuple, Protocol, Self, TypeVar
from uuid import UUID

from app.database.health import Health, first_line
from app.database.postgres import DatabaseProblem
from app.events.tables import Status
from app.web.problems import Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_EVERY = 0.5  # seconds between looks for events whose commit takes too long
TRY_EVERY = 1.0  # seconds without a commit after which one is tried
STUCK = 2.0  # seconds that a commit may take before this process says that it is not ready
SHUTDOWN = timedelta(seconds=20)

ANOTHER_AFTER = timedelta(minutes=10)
NOTIFYING = ("notification", "both")  # shapes


class NewEvent(NamedTuple):
    """An event on its way into the table `events`, whose columns say what each field is.

    A named tuple, since one is made for each request and costs a third of a frozen dataclass.
    """

    id: UUID
    received_at: datetime
    client: str
    headers: bytes
    """As lines of `name: value`, separated by CRLF."""
    body: bytes
    body_bytes: int
    dedup_key: bytes
    status: str = Status.ACCEPTED.value
    reason: str | None = None
    type: str | None = None
    reference: str | None = None
    order_version: int | None = None
    order_modified: datetime | None = None
    notification_id: str | None = None
    api_version: str | None = None
    shape: str | None = None

    @property
    def copies_within(self) -> timedelta | None:
        """How long after this event the same bytes are a copy of it; None for ever."""
        return copies_within(self.shape, self.notification_id)


def copies_within(shape: str | None, notification_id: str | None) -> timedelta | None:
    """As `NewEvent.copies_within`: the same notification without an id says, later, that something changed again."""
    return ANOTHER_AFTER if shape in NOTIFYING and notification_id is None else None


class Stored(NamedTuple):
    """Where an event is kept: under its own id, or under that of the first copy."""

    id: UUID
    duplicate: bool


COLUMNS = (*NewEvent._fields, "duplicates", "last_duplicate_at")


@dataclass(slots=True)
class Row:
    """An event, and how many more copies of it are in the same batch."""

    event: NewEvent
    duplicates: int = 0
    last_duplicate_at: datetime | None = None

    def values(self) -> tuple[object, ...]:
        """In the order of `COLUMNS`."""
        return (*self.event, self.duplicates, self.last_duplicate_at)


def outlived_keys(rows: Iterable[Row]) -> list[tuple[bytes, datetime]]:
    """Keys that events from before these times have no more: what has one of them now is no copy, but another event."""
    return [
        (row.event.dedup_key, row.event.received_at - within)
        for row in rows
        if (within := row.event.copies_within) is not None
    ]


class BadRow(Exception):
    """The database refused what a row holds; its neighbours are not to blame."""


class Writer(Protocol):
    """Writes batches into one kind of database."""

    def write(self, rows: Sequence[Row]) -> Awaitable[Mapping[bytes, UUID]]:
        """Commits all rows, or none, and gives by `dedup_key` the id under which each is stored.

        The keys are different from each other, and sorted: two processes that store the same events in two orders
        would wait for each other's locks. An event that `outlived_keys` takes its key from gets its id instead, before.

        Raises:
            BadRow: one of the rows cannot be stored as it is.
            Exception: the database is in trouble. What was written may have been committed or not; a caller that
                tries again gets a duplicate at worst.
        """

    def probe(self, *, thorough: bool) -> Awaitable[None]:
        """Returns when events could be committed: their own statement, without any effect.

        Args:
            thorough: Whether something must reach the disk: a full one takes a statement without rows.

        Raises:
            Exception: the database is in trouble.
        """

    async def close(self) -> None:
        """Gives back connections and threads."""


class StoreFull(Unavailable):
    """More events wait for a commit than may."""


class StoreUnavailable(Unavailable):
    """The database did not commit; the event may be stored or not, and sending it again is safe."""


class StoreRefused(StoreUnavailable):
    """The database will never take the event as it is, and takes others; nothing was stored."""


@dataclass(slots=True)
class _Waiting:
    event: NewEvent
    stored: asyncio.Future[Stored]
    since: float


class EventStore:
    """Stores events; use as `async with store.running()`.

    Args:
        writer: The database's.
        max_batch: The most events in one transaction.
        max_waiting: The most events that wait for one.
        max_waiting_bytes: The most bytes of bodies that wait for one.
        timeout: How long an event may wait before its caller hears that the database is away.
        stored: Called after each commit.
        health: Hears what became of each commit; after a second without one, of a trial.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        max_batch: int,
        max_waiting: int,
        max_waiting_bytes: int,
        timeout: timedelta,
        stored: Callable[[], None] = lambda: None,
        health: Health | None = None,
    ) -> None:
        self._writer = writer
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._timeout = timeout.total_seconds()
        self._stored = stored
        self._health = health
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._alone: deque[_Waiting] = deque()  # those of a batch that failed because of one of them
        self._batch: list[_Waiting] = []  # what is being written
        self._writing: asyncio.Future[Any] | None = None
        self._changed = monotonic()  # when a write began or ended
        self._thorough = False  # the last write of events failed
        self._closing = False

    async def append(self, event: NewEvent) -> Stored:
        """Returns once the event, or an earlier copy of it, is committed.

        A caller that is cancelled meanwhile changes nothing: the event is stored all the same.

        Raises:
            StoreFull: nothing was stored.
            StoreRefused: nor was it then.
            StoreUnavailable: the event may be stored or not.
        """
        if self._closing:
            raise StoreUnavailable("The receiver is about to end.")
        size = len(event.body)
        if len(self._waiting) >= self._max_waiting or (
            self._waiting and self._waiting_bytes + size > self._max_waiting_bytes
        ):
            raise StoreFull("Too many events wait to be stored.")
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[Stored] = loop.create_future()
        self._waiting.append(_Waiting(event, stored, monotonic()))
        self._waiting_bytes += size
        if self._writing is None:
            loop.call_soon(self._write_next)  # not at once: what else arrived in this turn of the loop goes along
        return await stored

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Stores until the end, where everything that waits is committed first."""
        watch = asyncio.create_task(self._watch())
        if self._health is not None:
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
            await self._writer.close()

    async def _drain(self) -> None:
        self._write_next()
        while self._writing is not None:
            await asyncio.wait((self._writing,))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY)
            now = monotonic()
            self._expire(now - self._timeout)
            if self._health is None or self._closing:
                continue
            if self._writing is None and now - self._changed > TRY_EVERY:
                self._try()
            elif self._writing is not None and now - self._changed > STUCK:
                self._health.fails("commits", f"A commit has taken more than {STUCK:.0f} seconds.")

    def _try(self) -> None:
        """Finds out whether a commit would succeed, in the place of one."""
        trial = self._begin(self._writer.probe(thorough=self._thorough))
        trial.add_done_callback(self._tried)

    def _tried(self, trial: asyncio.Future[None]) -> None:
        self._end(trial, wrote=False)
        self._write_next()

    def _write_next(self) -> None:
        if self._writing is None and (batch := self._take()):
            self._batch = batch
            self._begin(self._writer.write(_rows(batch))).add_done_callback(self._written)

    def _begin(self, writing: Awaitable[T]) -> asyncio.Future[T]:
        future = asyncio.ensure_future(writing)
        self._writing, self._changed = future, monotonic()
        return future

    def _end(self, writing: asyncio.Future[Any], *, wrote: bool) -> BaseException | None:
        """Notes what became of it."""
        self._writing, self._changed = None, monotonic()
        error = asyncio.CancelledError() if writing.cancelled() else writing.exception()
        works = error is None or isinstance(error, BadRow)
        self._thorough = not works and (self._thorough or wrote)
        if self._health is not None and works:
            self._health.works("commits")
        elif self._health is not None:
            why = str(error) if isinstance(error, DatabaseProblem) else "The last commit failed; the log says why."
            self._health.fails("commits", why, error=error)
        return error

    def _take(self) -> list[_Waiting]:
        while self._alone:
            each = self._alone.popleft()
            if each.stored.cancelled() or not each.stored.done():
                return [each]
        batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        self._waiting_bytes -= sum(len(each.event.body) for each in batch)
        return batch

    def _written(self, writing: asyncio.Future[Mapping[bytes, UUID]]) -> None:
        batch, self._batch = self._batch, []
        error = self._end(writing, wrote=True)
        try_alone = isinstance(error, BadRow) and len(batch) > 1
        if try_alone:  # one bad row fails a whole transaction, and its neighbours must not pay
            self._alone.extend(batch)
        self._write_next()  # before the callers go on: the database should not wait for their answers
        if error is None:
            _resolve(batch, writing.result())
            self._stored()
        elif not try_alone:
            refused = isinstance(error, BadRow)
            fields = {"events": len(batch), "event_id": str(batch[0].event.id), "error": first_line(error)}
            # While the database is lost every batch says this, and `database_lost` was told once.
            logger.log(logging.ERROR if refused else logging.INFO, "commit_failed", extra={"fields": fields})
            why = StoreRefused if refused else StoreUnavailable
            for each in batch:
                _give_up(each, why)

    def _expire(self, latest: float) -> None:
        """Answers those that have waited since `latest` or longer, in the stuck transaction and behind it."""
        for each in (*self._batch, *self._alone):
            if each.since <= latest:
                _give_up(each)
        while self._waiting and self._waiting[0].since <= latest:
            late = self._waiting.popleft()
            self._waiting_bytes -= len(late.event.body)
            _give_up(late)


def _rows(batch: Sequence[_Waiting]) -> list[Row]:
    """The batch with each key once, in the order of the keys."""
    rows: dict[bytes, Row] = {}
    for each in batch:
        row = rows.setdefault(each.event.dedup_key, Row(each.event))
        if row.event is not each.event:
            row.duplicates += 1
            row.last_duplicate_at = each.event.received_at
    return [rows[key] for key in sorted(rows)]


def _resolve(batch: Sequence[_Waiting], ids: Mapping[bytes, UUID]) -> None:
    for each in batch:
        if not each.stored.done():
            stored_as = ids[each.event.dedup_key]
            each.stored.set_result(Stored(stored_as, duplicate=stored_as != each.event.id))


def _give_up(waiting: _Waiting, why: type[StoreUnavailable] = StoreUnavailable) -> None:
    with suppress(asyncio.InvalidStateError):  # its caller may be gone
        waiting.stored.set_exception(why("The event could not be stored."))

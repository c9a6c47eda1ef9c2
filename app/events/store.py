"""Group commit: many events, one transaction, and an answer to each only after COMMIT returned.

`append` puts the event on a bounded queue. One loop takes all that wait, has them written and committed together, and
wakes their callers. There is no timer: while one batch commits the next one gathers, and a lone event waits
for nothing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import NamedTuple, Protocol, Self
from uuid import UUID

from app.events.tables import Status
from app.problems import Unavailable

logger = logging.getLogger(__name__)

CHECK_EVERY = 0.5  # seconds between looks for events whose commit takes too long
SHUTDOWN = timedelta(seconds=20)


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


class BadRow(Exception):
    """The database refused what a row holds; its neighbours are not to blame."""


class Writer(Protocol):
    """Writes batches into one kind of database."""

    async def write(self, rows: Sequence[Row]) -> Mapping[bytes, UUID]:
        """Commits all rows, or none, and gives by `dedup_key` the id under which each is stored.

        The keys are different from each other, and sorted: two processes that store the same events in two orders
        would wait for each other's locks.

        Raises:
            BadRow: one of the rows cannot be stored as it is.
            Exception: the database is in trouble. What was written may have been committed or not; a caller that
                tries again gets a duplicate at worst.
        """

    async def close(self) -> None:
        """Gives back connections and threads."""


class StoreFull(Unavailable):
    """More events wait for a commit than may."""


class StoreUnavailable(Unavailable):
    """The database did not commit; the event may be stored or not, and sending it again is safe."""


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
    """

    def __init__(
        self, writer: Writer, *, max_batch: int, max_waiting: int, max_waiting_bytes: int, timeout: timedelta
    ) -> None:
        self._writer = writer
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._timeout = timeout.total_seconds()
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._closing = False

    async def append(self, event: NewEvent) -> Stored:
        """Returns once the event, or an earlier copy of it, is committed.

        A caller that is cancelled meanwhile changes nothing: the event is stored all the same.

        Raises:
            StoreFull: nothing was stored.
            StoreUnavailable: the event may be stored or not.
        """
        if self._closing:
            raise StoreUnavailable("The receiver is about to end.")
        size = len(event.body)
        if len(self._waiting) >= self._max_waiting or (
            self._waiting and self._waiting_bytes + size > self._max_waiting_bytes
        ):
            raise StoreFull("Too many events wait to be stored.")
        stored: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(event, stored, monotonic()))
        self._waiting_bytes += size
        self._arrived.set()
        return await stored

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Runs the writing loop; at the end everything that waits is committed first."""
        task = asyncio.create_task(self._work())
        try:
            yield self
        finally:
            self._closing = True
            self._arrived.set()
            try:
                async with asyncio.timeout(SHUTDOWN.total_seconds()):
                    await task
            except TimeoutError:
                logger.exception("store_not_drained", extra={"fields": {"events": len(self._waiting)}})
                for each in self._waiting:
                    _give_up(each)
            await self._writer.close()

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._commit(self._take())
            if self._closing:
                return

    def _take(self) -> list[_Waiting]:
        batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        self._waiting_bytes -= sum(len(each.event.body) for each in batch)
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        writing = asyncio.create_task(self._write(batch))
        while not writing.done():
            await asyncio.wait((writing,), timeout=CHECK_EVERY)
            if not writing.done():
                self._expire(batch)
        try:
            ids = writing.result()
        except Exception as error:  # noqa: BLE001 - the loop must survive whatever the driver raises
            await self._failed(batch, error)
            return
        for each in batch:
            if not each.stored.done():
                stored_as = ids[each.event.dedup_key]
                each.stored.set_result(Stored(stored_as, duplicate=stored_as != each.event.id))

    async def _write(self, batch: Sequence[_Waiting]) -> Mapping[bytes, UUID]:
        rows: dict[bytes, Row] = {}
        for each in batch:
            row = rows.setdefault(each.event.dedup_key, Row(each.event))
            if row.event is not each.event:
                row.duplicates += 1
                row.last_duplicate_at = each.event.received_at
        return await self._writer.write([rows[key] for key in sorted(rows)])

    async def _failed(self, batch: list[_Waiting], error: Exception) -> None:
        """One bad row fails a whole transaction: then each event gets its own, so that its neighbours don't pay."""
        if isinstance(error, BadRow) and len(batch) > 1:
            for each in batch:
                self._expire(batch)  # the database may go away meanwhile, and each try takes its time
                if each.stored.cancelled() or not each.stored.done():
                    await self._commit([each])
            return
        # No traceback: while a database is away every batch says this.
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        fields = {"events": len(batch), "first": str(batch[0].event.id), "error": why}
        logger.error("commit_failed", extra={"fields": fields})
        for each in batch:
            _give_up(each)

    def _expire(self, batch: Sequence[_Waiting]) -> None:
        """Answers those that waited too long, both in the stuck transaction and behind it."""
        latest = monotonic() - self._timeout
        for each in batch:
            if each.since < latest:
                _give_up(each)
        while self._waiting and self._waiting[0].since < latest:
            late = self._waiting.popleft()
            self._waiting_bytes -= len(late.event.body)
            _give_up(late)


def _give_up(waiting: _Waiting) -> None:
    with suppress(asyncio.InvalidStateError):  # its caller may be gone
        waiting.stored.set_exception(StoreUnavailable("The event could not be stored."))

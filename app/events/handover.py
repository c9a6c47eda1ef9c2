"""What a receiver on SQLite does when its database becomes PostgreSQL: nobody who sends notices more than a wait.

    stays ──the command asks──▶ rests ──the file refuses a commit──▶ waits ──PostgreSQL is open──▶ follows
      ▲                           │
      └──the command has ended────┘

rests    workers have ended; events are stored in the file as before
waits    events wait in memory, as they do for a commit; nobody is answered before the commit in PostgreSQL
follows  all that waited, and each new event, goes to the store of the new database
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from time import monotonic

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.health import first_line
from app.database.leaving import Move, Phase, read_move, say_ready
from app.database.postgres import close, connect_postgres
from app.events.rows import NewEvent, Stored
from app.events.store import EventStore, StoreFull, StoreUnavailable, Waiting

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds between looks whether a move is under way
LOOK_OFTEN = 0.1  # seconds, while one is
TROUBLE = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class Handover:
    """Implements `app.events.store.Successor`.

    Args:
        most: How many events may wait.
        most_bytes: How many bytes of their bodies.
        timeout: How long an event may wait.

    Attributes:
        name: The receiver's, as its row in `processes` has it.
        resting: Whether no worker may run.
        url: The new database's, once this process uses it.
    """

    def __init__(self, *, most: int, most_bytes: int, timeout: timedelta) -> None:
        self.name = ""
        self.resting = False
        self.url: str | None = None
        self._most = most
        self._most_bytes = most_bytes
        self._timeout = timeout
        self._waiting: dict[int, Waiting] = {}
        self._waiting_bytes = 0
        self._next: EventStore | None = None
        self._refused = asyncio.Event()
        self._said: str | None = None  # the URL that it has tried since it rests

    @property
    def active(self) -> bool:
        """Implements `Successor.active`."""
        return self._refused.is_set()

    async def append(self, event: NewEvent) -> Stored:
        """Implements `Successor.append`."""
        if self._next is not None:
            return await self._next.append(event)
        size = len(event.body)
        if len(self._waiting) >= self._most or (self._waiting and self._waiting_bytes + size > self._most_bytes):
            raise StoreFull("Too many events are waiting to be stored.")
        stored: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._keep(Waiting(event, stored, monotonic()))
        return await stored

    def take(self, waiting: Iterable[Waiting]) -> None:
        """Implements `Successor.take`."""
        if self._next is not None:  # the file's store found out later than this did
            self._next.take_over(waiting)
            return
        for each in waiting:
            self._keep(each)
        self._refused.set()

    async def until_moved(self, engine: AsyncEngine) -> str:
        """Returns the URL of the new database once the file says that all has left it.

        Raises:
            Moved: the file says so, and has the URL no more.
        """
        while True:
            try:
                async with engine.connect() as connection:
                    move = await read_move(connection)
            except TROUBLE:  # the file is locked or replaced: the store tells
                await self._rest(LOOK_OFTEN)
                continue
            if move is not None and move.phase == Phase.MOVED:
                if move.url is None:
                    raise move.refusal()
                return move.url
            await self._prepare(engine, move)
            await self._rest(LOOK_EVERY if move is None else LOOK_OFTEN)

    def follow(self, store: EventStore, url: str) -> None:
        """From now on, events go to the store of the new database."""
        waiting, self._waiting = list(self._waiting.values()), {}
        self._next = store
        self._refused.set()
        store.take_over(waiting)
        self.url, self.resting = url, False

    def _keep(self, waiting: Waiting) -> None:
        self._waiting[id(waiting)] = waiting
        self._waiting_bytes += len(waiting.event.body)
        asyncio.get_running_loop().call_later(self._timeout.total_seconds(), self._give_up, id(waiting))

    def _give_up(self, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return
        self._waiting_bytes -= len(waiting.event.body)
        if not waiting.stored.done():
            waiting.stored.set_exception(StoreUnavailable("The event could not be stored."))

    async def _rest(self, seconds: float) -> None:
        """Waits, but not once the file has refused a commit."""
        if self._refused.is_set():
            await asyncio.sleep(LOOK_OFTEN / 10)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._refused.wait()

    async def _prepare(self, engine: AsyncEngine, move: Move | None) -> None:
        """Says whether this receiver can use PostgreSQL, once it is asked."""
        rests = move is not None and move.rests()
        if rests and not self.resting and move is not None:
            logger.warning("move_rests", extra={"fields": {"target": move.target}})
        if self.resting and not rests and not self._refused.is_set():
            why = "The command has ended, or could not switch."
            logger.warning("move_resumed", extra={"fields": {"reason": why}})
        self.resting = rests or self._refused.is_set()
        if not rests or move is None or move.url is None:
            self._said = None
            return
        if self._said == move.url:
            return
        problem = None
        try:
            await close(await connect_postgres(move.url))
        except TROUBLE as error:
            problem = first_line(error)
        with suppress(*TROUBLE):  # it is tried again
            await say_ready(engine, self.name, problem)
            self._said = move.url

"""Whether an event could be committed now; checks the schema once a second."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Protocol

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.away import is_away
from app.database.engines import weaknesses
from app.database.leaving import Moved
from app.database.problems import DatabaseProblem
from app.database.schema import SchemaNotCurrent, check_schema
from app.database.standbys import Standbys, promised, read_standbys

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds between looks at the schema
LOOK_WITHIN = 5.0  # seconds


class Spool(Protocol):
    """What `Health` knows of the spool, which may take events while the database does not."""

    @property
    def active(self) -> bool:
        """Whether new events go there."""

    @property
    def events(self) -> int:
        """How many events are there."""

    @property
    def size(self) -> int:
        """About how many bytes they take."""

    @property
    def takes_events(self) -> bool:
        """Whether an event could be committed there now."""


class Health:
    """Whether an event could be committed now, as far as this process knows.

    Each part that can fail reports it under its own name (`commits`, `schema`), and reports when it works again.
    """

    def __init__(self) -> None:
        self.warnings: tuple[str, ...] = ()
        """What weakens a promise while events are still accepted."""

        self.spool: Spool | None = None

        self.leaving = False
        """Whether the process was told to end, and accepts events for a last few seconds."""

        self._standbys: Standbys | None = None
        self._problems: dict[str, str] = {}
        self._lost_at = 0.0
        self._refused = False  # since the database was lost

    @property
    def problem(self) -> str | None:
        """Why the database takes no event, or None when it does."""
        return next(iter(self._problems.values()), None)

    @property
    def is_ready(self) -> bool:
        """Whether an event could be committed now, to the database or to the spool."""
        if self.spool is not None and (self.spool.active or self.problem is not None):
            return self.spool.takes_events
        return self.problem is None

    def works(self, part: str) -> None:
        """Notes that this part works."""
        if self._problems.pop(part, None) is not None and not self._problems:
            self._refused = False
            fields = {"seconds": round(monotonic() - self._lost_at, 1)}
            logger.warning("database_back", extra={"fields": fields})

    def fails(self, part: str, why: str, *, error: BaseException | None = None) -> None:
        """Notes that this part does not work.

        Args:
            part: Its name.
            why: For anyone who asks: no names of hosts or users.
            error: For the log.
        """
        if not self._problems:
            self._lost_at = monotonic()
            fields = {"part": part, "reason": why} | ({"error": first_line(error)} if error else {})
            logger.warning("database_lost", extra={"fields": fields})
        if isinstance(error, asyncpg.PostgresError) and not is_away(error) and not self._refused:
            self._refused = True
            logger.error("database_refuses", extra={"fields": {"part": part, "error": first_line(error)}})
        self._problems[part] = why

    def warn(self, *warnings: str) -> None:
        """Replaces the warnings, and logs each new one."""
        for warning in warnings:
            if warning not in self.warnings:
                logger.warning("promise_weakened", extra={"fields": {"reason": warning}})
        self.warnings = warnings

    def follow(self, standbys: Standbys | None) -> None:
        """Logs what the standbys promise, at first and whenever it changes."""
        if standbys is not None and standbys != self._standbys:
            fields = {
                "wanted": standbys.wanted,
                "synchronous": standbys.synchronous,
                "promise": promised(standbys),
            }
            missing = standbys.are_missing
            logger.log(logging.WARNING if missing else logging.INFO, "standbys", extra={"fields": fields})
        self._standbys = standbys


@asynccontextmanager
async def watching(
    engine: AsyncEngine, health: Health, *, commits: bool, every: float = LOOK_EVERY
) -> AsyncIterator[None]:
    """Checks the schema, and what the server promises, now and then.

    Args:
        engine: The database's.
        health: Gets the results.
        commits: Whether `health` also gets the results of commits. They are better evidence: the connection that
            commits still works while others take all the rest.
        every: Seconds between two looks.
    """
    watch = asyncio.create_task(_watch(engine, health, commits=commits, every=every))
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _watch(engine: AsyncEngine, health: Health, *, commits: bool, every: float) -> None:
    behind = False
    while True:
        try:
            async with asyncio.timeout(LOOK_WITHIN):
                await check_schema(engine)
                behind = False
                await _look(engine, health, commits=commits)
        except SchemaNotCurrent as error:
            if not behind:
                logger.warning("schema_behind", extra={"fields": {"reason": str(error)}})
            behind = True
            health.fails("schema", str(error))
        except Moved as error:
            if not commits:  # else they tell whether events go to the new database
                health.fails("schema", str(error))
        except DatabaseProblem as error:
            health.fails("schema", str(error))
        except Exception as error:  # noqa: BLE001 - a driver may raise anything at bytes that are not PostgreSQL's
            if not commits:
                health.fails("schema", "The database does not answer.", error=error)
        else:
            health.works("schema")
        await asyncio.sleep(every)


async def _look(engine: AsyncEngine, health: Health, *, commits: bool) -> None:
    health.warn(*await weaknesses(engine))
    if commits:
        async with engine.connect() as connection:
            health.follow(await read_standbys(connection))


def first_line(error: BaseException) -> str:
    """The first line of an error: in further lines a driver quotes what was to be stored."""
    return f"{type(error).__name__}: {error}".splitlines()[0]

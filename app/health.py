"""Whether this process is alive, and whether it is ready: what is known is told at once, and looked at beside it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import TypedDict

import asyncpg
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.database import SchemaNotCurrent, check_schema, weaknesses
from app.operations import Answer, Operation
from app.postgres import DatabaseProblem
from app.problems import Unavailable

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds between looks at the schema
LOOK_WITHIN = 5.0  # seconds


class Health:
    """Whether an event could be committed now, as far as this process knows.

    Each part that can fail says so under its own name (`commits`, `schema`), and says when it works again.
    """

    def __init__(self) -> None:
        self.warnings: tuple[str, ...] = ()
        """What weakens a promise without keeping events out."""

        self._problems: dict[str, str] = {}
        self._lost_at = 0.0

    @property
    def problem(self) -> str | None:
        """Why no event can be committed, or None when one can."""
        return next(iter(self._problems.values()), None)

    def works(self, part: str) -> None:
        """This part does what it should."""
        if self._problems.pop(part, None) is not None and not self._problems:
            fields = {"seconds": round(monotonic() - self._lost_at, 1)}
            logger.warning("database_back", extra={"fields": fields})

    def fails(self, part: str, why: str, *, error: BaseException | None = None) -> None:
        """This part does not.

        Args:
            part: Its name.
            why: For anyone who asks: no names of hosts or users.
            error: For the log.
        """
        if not self._problems:
            self._lost_at = monotonic()
            fields = {"part": part, "reason": why} | ({"error": first_line(error)} if error else {})
            logger.warning("database_lost", extra={"fields": fields})
        self._problems[part] = why

    def warn(self, *warnings: str) -> None:
        """Replaces the warnings, and logs each new one."""
        for warning in warnings:
            if warning not in self.warnings:
                logger.warning("promise_weakened", extra={"fields": {"reason": warning}})
        self.warnings = warnings


class State(TypedDict):
    """What this module needs from the application's lifespan."""

    health: Health


class NotReady(Unavailable):
    """The database takes no event now, or its schema is not the one this release needs."""


class Status(BaseModel):
    """One word."""

    status: str


class Readiness(Status):
    """One word, and what weakens a promise, such as a server that does not fsync."""

    warnings: list[str] = []


ALIVE = Operation(
    summary="Whether it is alive",
    tag="health",
    answers={200: Answer(description="It is, whatever its database does.", model=Status)},
)
READY = Operation(
    summary="Whether it is ready",
    tag="health",
    answers={200: Answer(description="An event would be committed now, and the schema is current.", model=Readiness)},
    problems=(NotReady,),
)


async def healthz(_: Request) -> Response:
    """The process is alive, whatever its database does."""
    return JSONResponse({"status": "alive"})


async def readyz(request: Request) -> Response:
    """What the last commit, or the last trial of one, and the last look at the schema said."""
    health: Health = request.state.health
    if health.problem is not None:
        raise NotReady("The database takes no events now: they are answered 503.", health.problem)
    warnings = {"warnings": health.warnings} if health.warnings else {}
    return JSONResponse({"status": "ready", **warnings})


@asynccontextmanager
async def watching(engine: AsyncEngine, health: Health, *, commits: bool) -> AsyncIterator[None]:
    """Looks at the schema, and at what the server promises, from time to time.

    Args:
        engine: The database's.
        health: Hears it.
        commits: Whether it hears of commits too. Those say better whether the database can be used: while others take
            all other connections, the one that commits still works.
    """
    watch = asyncio.create_task(_watch(engine, health, commits=commits))
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _watch(engine: AsyncEngine, health: Health, *, commits: bool) -> None:
    while True:
        try:
            async with asyncio.timeout(LOOK_WITHIN):
                await check_schema(engine)
                health.warn(*await weaknesses(engine))
        except (SchemaNotCurrent, DatabaseProblem) as error:
            health.fails("schema", str(error))
        except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            if not commits:
                health.fails("schema", "The database does not answer.", error=error)
        else:
            health.works("schema")
        await asyncio.sleep(LOOK_EVERY)


def first_line(error: BaseException) -> str:
    """What an error says, in one line: a driver's further lines quote what was to be stored."""
    return f"{type(error).__name__}: {error}".splitlines()[0]

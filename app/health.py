"""Whether this process is alive, and whether it is ready."""

import asyncio
from typing import TypedDict

import asyncpg
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.database import SchemaNotCurrent, check_schema
from app.operations import Answer, Operation
from app.problems import Unavailable

READY_WITHIN = 2.0  # seconds; whoever asks does not wait much longer


class State(TypedDict):
    """What this module needs from the application's lifespan."""

    probe: AsyncEngine
    """Of its own: whatever holds the API's connections, a balancer must not take the receiver for dead."""


class NotReady(Unavailable):
    """The database is away, or its schema is not the one this release needs."""


class Health(BaseModel):
    """One word."""

    status: str


ALIVE = Operation(
    summary="Whether it is alive",
    tag="health",
    answers={200: Answer(description="It is, whatever its database does.", model=Health)},
)
READY = Operation(
    summary="Whether it is ready",
    tag="health",
    answers={200: Answer(description="The database answers and its schema is current.", model=Health)},
    problems=(NotReady,),
)


async def healthz(_: Request) -> Response:
    """The process is alive, whatever its database does."""
    return JSONResponse({"status": "alive"})


async def readyz(request: Request) -> Response:
    """The database answers and its schema is current."""
    engine: AsyncEngine = request.state.probe
    try:
        async with asyncio.timeout(READY_WITHIN):
            await check_schema(engine)
    except SchemaNotCurrent as error:
        raise NotReady("The schema is not current.", str(error)) from None
    except (SQLAlchemyError, asyncpg.PostgresError, OSError, TimeoutError):
        raise NotReady("The database does not answer.", "Events are answered 503 until it does.") from None
    return JSONResponse({"status": "ready"})

"""Whether this process is alive, and whether it is ready."""

from typing import TypedDict

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.database.health import Health
from app.web.openapi.operations import Answer, Operation
from app.web.problems import Unavailable


class State(TypedDict):
    """What this module needs from the application's lifespan."""

    health: Health


class NotReady(Unavailable):
    """The database takes no events now, or its schema is not the one that this release needs."""


class Status(BaseModel):
    """One word."""

    status: str


class Readiness(Status):
    """One word, and what weakens a promise, such as a server that does not fsync."""

    warnings: list[str] = []


@Operation(
    tag="health",
    answers={200: Answer(description="It is alive, whatever its database does.", model=Status)},
)
async def healthz(_: Request[State]) -> Response:
    """Whether the process is alive."""
    return JSONResponse({"status": "alive"})


@Operation(
    tag="health",
    answers={200: Answer(description="An event would be committed now, and the schema is current.", model=Readiness)},
    problems=(NotReady,),
)
async def readyz(request: Request[State]) -> Response:
    """Whether the process is ready."""
    health = request.state["health"]
    if health.problem is not None:
        raise NotReady("The database takes no events now: they are answered 503.", health.problem)
    warnings = {"warnings": health.warnings} if health.warnings else {}
    return JSONResponse({"status": "ready", **warnings})

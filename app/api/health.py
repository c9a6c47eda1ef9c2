"""Whether this process is alive, and whether it is ready."""

from typing import TypedDict

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.database.health import Health
from app.web.openapi.operations import Answer, Operation
from app.web.problems import Unavailable


class State(TypedDict):
    """What this module needs from the application's lifespan."""

    health: Health


class NotReady(Unavailable):
    """The receiver is about to end; or the database takes no events now, and no spool takes them.

    The database takes none either if its schema is not what this release needs.
    """


class Status(BaseModel):
    """One word."""

    status: str


class Readiness(Status):
    """One word, and what weakens a promise, such as a server that does not fsync."""

    warnings: list[str] = []
    reason: str | None = Field(
        default=None, description="Why the database takes no events. Given while the status is `spooling`."
    )
    spooled: int | None = Field(
        default=None,
        description="How many events wait in the spool. Given while the status is `spooling`: the database takes no "
        "events, or has only just come back.",
    )


@Operation(
    tag="health",
    answers={200: Answer(description="It is alive, whatever its database does.", model=Status)},
)
async def healthz(_: Request[State]) -> Response:
    """Whether the process is alive."""
    return JSONResponse({"status": "alive"})


@Operation(
    tag="health",
    answers={
        200: Answer(description="An event would be committed now, to the database or to the spool.", model=Readiness)
    },
    problems=(NotReady,),
)
async def readyz(request: Request[State]) -> Response:
    """Whether the process is ready."""
    health = request.state["health"]
    spool = health.spool
    if health.leaving:
        raise NotReady("This receiver is about to end.", "It accepts events for a few more seconds: send to another.")
    if not health.is_ready:
        where = "Neither the database nor the spool takes" if spool is not None else "The database takes no"
        why = health.problem or "The spool is full, or its disk fails."
        raise NotReady(f"{where} events now: they are answered 503.", why)
    warnings = {"warnings": health.warnings} if health.warnings else {}
    if spool is not None and (spool.active or health.problem is not None):
        reason = {"reason": health.problem} if health.problem else {}
        return JSONResponse({"status": "spooling", "spooled": spool.events, **reason, **warnings})
    return JSONResponse({"status": "ready", **warnings})

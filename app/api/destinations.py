"""/api/destinations: where events go, with their queues, and the controls."""

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from functools import partial

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from app.api.acting import Why, acting, reason_of
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.database.clock import shared_time
from app.deliveries import operations
from app.deliveries.destination_queries import ListedDestination, count_undispatched, list_destinations
from app.deliveries.operations import NobodyKnows
from app.deliveries.registering import register
from app.deliveries.stuck import MOST_SHOWN, Stuck, stuck_deliveries
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import BODY_PROBLEMS, InvalidParameter, Text, answer, read_json
from app.web.problems import NotFound
from app.web.transactions import DatabaseAway, reading


class NoSuchDestination(NotFound):
    """There is no destination with this name."""

    def __init__(self) -> None:
        super().__init__("There is no destination with this name.", "GET /api/destinations lists them all.")


class DestinationShown(BaseModel):
    """A destination and its queue. Its URL is for the operator only, and not shown."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    configured: bool = Field(description="Whether this receiver's settings have it.")
    since: datetime | None = Field(
        default=None, description="It gets events that arrived since then; null until a worker has seen it."
    )
    paused_at: datetime | None = None
    paused_reason: str | None = None
    failures: int = Field(default=0, description="Failed attempts since the last success.")
    failing_since: datetime | None = None
    probe_at: datetime | None = Field(
        default=None, description="While the circuit is open: when one delivery may be tried."
    )
    pending: int = 0
    due: int = 0
    in_flight: int = 0
    failing: int = Field(default=0, description="Deliveries that have failed and are tried again.")
    dead: int = 0
    oldest_pending_at: datetime | None = Field(
        default=None,
        description="When the event of the oldest pending delivery arrived, or when the replay made the delivery.",
    )
    stuck: list[Stuck] = Field(
        default=[],
        description=f"The oldest failing deliveries, at most {MOST_SHOWN}. Later ones of their references wait.",
    )


class DestinationList(BaseModel):
    """All destinations, by name."""

    destinations: list[DestinationShown]
    undispatched: int = Field(
        description="Accepted events without deliveries: the destinations have enough to do, or no worker runs."
    )


class PauseRequest(BaseModel):
    """Why it is paused."""

    model_config = ConfigDict(extra="forbid")

    reason: Text | None = None


@Operation(
    tag="destinations",
    answers={200: Answer(description="All destinations with their queues.", model=DestinationList)},
    problems=(DatabaseAway,),
)
async def show_all(request: Request[State]) -> Response:
    """List destinations."""
    async with reading(request.state["engine"]) as connection:
        destinations = await all_destinations(connection, request.state["destinations"])
        undispatched = await count_undispatched(connection)
    return answer(DestinationList(destinations=destinations, undispatched=undispatched))


@Operation(
    tag="destinations",
    description="Nothing more is sent to it; its queue is kept and grows.",
    body=PauseRequest,
    body_required=False,
    answers={200: Answer(description="The destination.", model=DestinationShown)},
    problems=(NoSuchDestination, *BODY_PROBLEMS, DatabaseAway),
)
async def pause(request: Request[State]) -> Response:
    """Pause a destination."""
    wanted = await read_json(request, PauseRequest)
    await pause_destination(
        request,
        request.path_params["name"],
        reason=wanted.reason,
        shown=wanted.reason or f"Paused by {request.state['client'].name} over the API.",
    )
    return await _with_queue(request)


async def pause_destination(request: Request[State], name: str, *, reason: str | None, shown: str) -> None:
    """Stops sending to a destination. Lists show why as `shown`.

    Raises:
        NoSuchDestination: 404.
        DatabaseAway: 503.
    """
    act = Act(action=Action.PAUSE, kind=Kind.DESTINATION, target=name, reason=reason)
    await _change(request, act, partial(operations.pause, reason=shown))


@Operation(
    tag="destinations",
    description="Sends to it again at once, even during a back-off.",
    query=Why,
    answers={200: Answer(description="The destination.", model=DestinationShown)},
    problems=(NoSuchDestination, InvalidParameter, DatabaseAway),
)
async def resume(request: Request[State]) -> Response:
    """Resume a destination."""
    await resume_destination(request, request.path_params["name"], reason=reason_of(request))
    return await _with_queue(request)


async def resume_destination(request: Request[State], name: str, *, reason: str | None) -> None:
    """Sends to a destination again at once.

    Raises:
        NoSuchDestination: 404.
        DatabaseAway: 503.
    """
    await _change(
        request, Act(action=Action.RESUME, kind=Kind.DESTINATION, target=name, reason=reason), operations.resume
    )


async def _change(request: Request[State], act: Act, operation: Callable[..., Awaitable[None]]) -> None:
    name = act.target or ""
    if not name.isprintable():
        raise NoSuchDestination
    try:
        async with acting(request, act) as connection:
            now = await shared_time(connection)
            if name in request.state["destinations"]:
                await register(connection, [name], now=now)
            await operation(connection, name, now=now)
    except NobodyKnows:
        raise NoSuchDestination from None


async def _with_queue(request: Request[State]) -> Response:
    configured, name = request.state["destinations"], request.path_params["name"]
    try:
        async with reading(request.state["engine"]) as connection:  # counting takes long, so not while it is locked
            destinations = await all_destinations(connection, configured)
    except DatabaseAway:
        raise DatabaseAway("It is done, but its queue cannot be counted now.", "Look again later.") from None
    return answer(next(each for each in destinations if each.name == name))


async def all_destinations(connection: AsyncConnection, configured: Collection[str]) -> list[DestinationShown]:
    """The destinations in the database, and those in the settings that no worker has seen yet."""
    rows = {row.name: row for row in await list_destinations(connection, now=datetime.now(UTC))}
    stuck = await stuck_deliveries(connection, [row.name for row in rows.values() if row.failing])
    return [_shown(name, rows.get(name), configured, stuck.get(name, [])) for name in sorted({*rows, *configured})]


def _shown(
    name: str, row: ListedDestination | None, configured: Collection[str], stuck: list[Stuck]
) -> DestinationShown:
    known = {} if row is None else row._asdict() | {"oldest_pending_at": row.oldest_pending_at}
    return DestinationShown.model_validate({"name": name, **known, "configured": name in configured, "stuck": stuck})

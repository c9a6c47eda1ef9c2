"""/api/replays: the progress of each, and the controls."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, computed_field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from app.api.acting import Why, acting, reason_of
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.database.clock import shared_time
from app.deliveries.replay_queries import get_replay, list_replays
from app.deliveries.replays import ReplayHasEnded, set_status
from app.deliveries.tables import ReplayStatus
from app.web.openapi.operations import Answer, Operation
from app.web.pagination import LINK, CursorNotUsable, PageQuery, link, next_page
from app.web.parameters import InvalidParameter, answer, read_id, read_query
from app.web.problems import NotFound, Problem
from app.web.transactions import DatabaseAway, reading

AFTER = {
    Action.PAUSE: ReplayStatus.PAUSED,
    Action.RESUME: ReplayStatus.RUNNING,
    Action.CANCEL: ReplayStatus.CANCELLED,
}
"""The status of a replay after each control."""


class NoSuchReplay(NotFound):
    """There is no replay with this id."""

    def __init__(self) -> None:
        super().__init__("There is no replay with this id.", "GET /api/replays lists them all.")


class HasEnded(Problem):
    """The replay is done or cancelled."""

    status = 409


class ReplayShown(BaseModel):
    """A replay and its progress."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    status: ReplayStatus
    destination: str
    filter: dict[str, Any] = Field(validation_alias="narrowed", description="Which events; empty if ids were given.")
    rate: float
    events: int = Field(description="How many events the plan counted.")
    made: int = Field(description="Deliveries made so far.")
    pending: int
    dead: int
    finished_at: datetime | None

    @computed_field
    def delivered_or_dropped(self) -> int:
        return self.made - self.pending - self.dead


class ReplayPage(BaseModel):
    """Replays, newest first."""

    replays: list[ReplayShown]
    next: str | None


@Operation(
    tag="replays",
    query=PageQuery,
    answers={200: Answer(description="A page, newest first.", model=ReplayPage, headers=LINK)},
    problems=(InvalidParameter, CursorNotUsable, DatabaseAway),
)
async def list_page(request: Request[State]) -> Response:
    """List replays."""
    page = await listed(request, read_query(request, PageQuery))
    return answer(page, headers=link(page.next))


async def listed(request: Request[State], query: PageQuery) -> ReplayPage:
    """A page of replays.

    Raises:
        CursorNotUsable: 400.
        DatabaseAway: 503.
    """
    before = query.before()
    async with reading(request.state["engine"]) as connection:
        rows = await list_replays(connection, limit=query.limit + 1, before=before)
    last = rows[query.limit - 1].id if len(rows) > query.limit else None
    shown = [ReplayShown.model_validate(row) for row in rows[: query.limit]]
    return ReplayPage(replays=shown, next=next_page(request.scope["path"], query, last))


@Operation(
    tag="replays",
    answers={200: Answer(description="The replay.", model=ReplayShown)},
    problems=(NoSuchReplay, DatabaseAway),
)
async def show(request: Request[State]) -> Response:
    """Show a replay."""
    return answer(await found(request))


async def found(request: Request[State]) -> ReplayShown:
    """The replay whose id is in the path.

    Raises:
        NoSuchReplay: 404.
        DatabaseAway: 503.
    """
    async with reading(request.state["engine"]) as connection:
        return await _found(connection, read_id(request, "replay_id", NoSuchReplay))


def _control(description: str) -> Operation:
    """The description of a control."""
    return Operation(
        tag="replays",
        description=description,
        query=Why,
        answers={200: Answer(description="The replay.", model=ReplayShown)},
        problems=(NoSuchReplay, InvalidParameter, HasEnded, DatabaseAway),
    )


@_control("No more deliveries are made; those already made are sent.")
async def pause(request: Request[State]) -> Response:
    """Pause a replay."""
    return answer(await controlled(request, Action.PAUSE, reason=reason_of(request)))


@_control("It goes on where it was paused.")
async def resume(request: Request[State]) -> Response:
    """Resume a replay."""
    return answer(await controlled(request, Action.RESUME, reason=reason_of(request)))


@_control("It ends; its deliveries are dropped, except those being sent now.")
async def cancel(request: Request[State]) -> Response:
    """Cancel a replay."""
    return answer(await controlled(request, Action.CANCEL, reason=reason_of(request)))


async def controlled(request: Request[State], action: Action, *, reason: str | None) -> ReplayShown:
    """The replay after it was paused, resumed or cancelled.

    Raises:
        NoSuchReplay: 404.
        HasEnded: 409.
        DatabaseAway: 503.
    """
    replay_id = read_id(request, "replay_id", NoSuchReplay)
    act = Act(action=action, kind=Kind.REPLAY, target=str(replay_id), reason=reason)
    try:
        async with acting(request, act) as connection:
            await _found(connection, replay_id)
            await set_status(connection, replay_id, AFTER[action], now=await shared_time(connection))
            return await _found(connection, replay_id)
    except ReplayHasEnded as error:
        raise HasEnded(str(error), "POST /api/replays starts a new one.") from None


async def _found(connection: AsyncConnection, replay_id: UUID) -> ReplayShown:
    row = await get_replay(connection, replay_id)
    if row is None:
        raise NoSuchReplay
    return ReplayShown.model_validate(row)

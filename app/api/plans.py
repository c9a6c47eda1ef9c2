"""POST /api/replays: a filter or ids, the plan, and the job that workers carry out."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from app.api.acting import Reason, acting
from app.api.events import EventChoice
from app.api.replay import UnknownDestination
from app.api.replays import ReplayShown
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.deliveries.destination_queries import known_destinations
from app.deliveries.plans import InQuarantine, NotReplayable, plan
from app.deliveries.replay_queries import get_replay
from app.deliveries.replays import start
from app.events.queries import EventFilter
from app.settings.model import DestinationSettings
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import BODY_PROBLEMS, Text, answer, read_json
from app.web.problems import Problem, Unavailable, Unprocessable
from app.web.transactions import DatabaseAway, reading

MOST_IDS = 10_000
FASTEST, SLOWEST = 10_000, 0.01  # deliveries a second
DEFAULT_RATE = 50.0
MOST_PLANS = 2
"""How many plans may be counted at once: each holds a connection for as long."""

PLANNED_WITHIN = timedelta(seconds=30)
"""For counting all events that match, which no index makes quick."""


class NothingToReplay(Problem):
    """There is nothing to replay; the message says why."""

    status = 409


class PlanChanged(Problem):
    """Other events match than when the plan was made."""

    status = 409


class TooManyPlans(Unavailable):
    """Too many replays are being planned at once."""


class ReplayRequest(BaseModel):
    """What to deliver again: a filter, or ids."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filter: EventChoice | None = None
    ids: Annotated[list[UUID] | None, Field(min_length=1, max_length=MOST_IDS)] = None
    to: Annotated[Text | None, Field(description="A destination's name; may be left out if there is only one.")] = None
    rate: Annotated[float, Field(ge=SLOWEST, le=FASTEST, description="Deliveries a second, at most.")] = DEFAULT_RATE
    dry_run: Annotated[bool, Field(description="Only make the plan.")] = False
    expected: Annotated[
        int | None,
        Field(description="How many events an earlier plan counted. If it is another number now, nothing is started."),
    ] = None
    reason: Reason = None


class PlanShown(BaseModel):
    """What would be delivered."""

    model_config = ConfigDict(from_attributes=True)

    events: int
    types: dict[str, int] = Field(description="How many events of each type.")
    oldest: datetime | None
    newest: datetime | None
    quarantined: int = Field(description="How many quarantined events match too; they are left out.")
    erased: int = Field(description="How many erased events match too; they are left out.")


class ReplayAnswer(BaseModel):
    """A plan, and the replay that carries it out; null on a dry run."""

    to: str
    seconds: float = Field(description="How long it takes at this rate.")
    plan: PlanShown
    replay: ReplayShown | None


@Operation(
    tag="replays",
    description=(
        "Counts the events that match. Without `dry_run`, workers then deliver them; live events go first. Send either "
        "`filter` or `ids`."
    ),
    body=ReplayRequest,
    examples={
        "yesterday's cancellations, counted": {
            "filter": {"type": "ORDER_CANCEL", "since": "2026-08-11", "until": "2026-08-12"},
            "dry_run": True,
        }
    },
    answers={
        200: Answer(description="The plan of a dry run.", model=ReplayAnswer),
        202: Answer(
            description="The replay is stored, and workers carry it out.",
            model=ReplayAnswer,
            headers={"Location": "The replay's address."},
        ),
    },
    problems=(NothingToReplay, PlanChanged, UnknownDestination, *BODY_PROBLEMS, TooManyPlans, DatabaseAway),
)
async def create(request: Request[State]) -> Response:
    """Replay events."""
    shown = await replay_of(request, await read_json(request, ReplayRequest))
    if shown.replay is None:
        return answer(shown)
    return answer(shown, status=202, headers={"Location": f"/api/replays/{shown.replay.id}"})


async def replay_of(request: Request[State], wanted: ReplayRequest) -> ReplayAnswer:
    """The plan, and the replay that carries it out, unless it is a dry run.

    Raises:
        Problem: one of those of `create`.
    """
    if (wanted.filter is None) == (wanted.ids is None):
        raise Unprocessable("Send either filter or ids, not both.", "An empty filter means all events.")
    narrowed = wanted.filter.narrowed() if wanted.filter is not None else EventFilter()
    if request.state["plans"].locked():
        raise TooManyPlans("Other replays are being planned.", "Ask again in a moment: nothing was started.")
    try:
        # Counted before anything is locked: on SQLite nobody else can write during a transaction that may write.
        async with request.state["plans"], reading(request.state["engine"], within=PLANNED_WITHIN) as connection:
            name = await _target(connection, wanted.to, request.state["destinations"])
            planned = await plan(connection, narrowed, wanted.ids)
    except NotReplayable as error:
        raise NothingToReplay(str(error), _what_now(error)) from None
    seconds = planned.events / wanted.rate
    shown = ReplayAnswer(to=name, seconds=seconds, plan=PlanShown.model_validate(planned), replay=None)
    if wanted.dry_run:
        return shown
    if not planned.events:
        raise NothingToReplay("No accepted event matches.", "Send `dry_run: true` to see what a filter selects.")
    if wanted.expected not in (None, planned.events):
        raise PlanChanged(
            f"The plan has changed: it is {planned.events} events instead of {wanted.expected}.",
            "Nothing was started. Look at the new plan.",
        )
    act = Act(action=Action.REPLAY, kind=Kind.REPLAY, reference=narrowed.reference, reason=wanted.reason)
    async with acting(request, act) as connection:
        replay_id = await start(
            connection,
            narrowed,
            ids=wanted.ids,
            destination=name,
            rate=wanted.rate,
            planned=planned,
            now=datetime.now(UTC),
        )
        act.target = str(replay_id)
        act.details = {"to": name, "events": planned.events}
        shown.replay = ReplayShown.model_validate(await get_replay(connection, replay_id))
    return shown


async def _target(connection: AsyncConnection, to: str | None, configured: Mapping[str, DestinationSettings]) -> str:
    """The destination's name.

    Raises:
        UnknownDestination: 422.
    """
    if to is None:
        if len(configured) != 1:
            raise UnknownDestination("There is more than one destination, or none.", "Name one with `to`.")
        return next(iter(configured))
    if to not in configured and to not in await known_destinations(connection):
        raise UnknownDestination(f"There is no destination {to}.", "GET /api/destinations lists them.")
    return to


def _what_now(error: NotReplayable) -> str:
    if isinstance(error, InQuarantine):
        return "Nothing was started. POST /api/events/{event_id}/release judges a quarantined event again."
    return "Nothing was started. GET /api/events lists all events."

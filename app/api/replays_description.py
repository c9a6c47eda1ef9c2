"""What /api/replays takes and answers, for the OpenAPI document."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.api.replay import UnknownDestination
from app.deliveries.tables import ReplayStatus
from app.events.queries import EventFilter
from app.events.tables import Status
from app.web.openapi.operations import Answer, Operation
from app.web.pagination import CursorNotUsable, PageQuery
from app.web.parameters import BODY_PROBLEMS, InvalidParameter, Moment, Text
from app.web.problems import NotFound, Problem, Unavailable
from app.web.transactions import DatabaseAway

MOST_IDS = 10_000
FASTEST, SLOWEST = 10_000.0, 0.01  # deliveries a second
DEFAULT_RATE = 50.0


class NoSuchReplay(NotFound):
    """There is no replay with this id."""

    def __init__(self) -> None:
        super().__init__("There is no replay with this id.", "GET /api/replays lists those there are.")


class NothingToReplay(Problem):
    """Nothing can be replayed so; the message says why."""

    status = 409


class HasEnded(Problem):
    """The replay is done or cancelled."""

    status = 409


class TooManyPlans(Unavailable):
    """As many replays are being planned as may be at once."""


class ReplayPath(BaseModel):
    """One replay."""

    replay_id: UUID


class EventChoice(BaseModel):
    """Which events, as in the list of events; an empty one means all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Text | None = None
    reference: Text | None = None
    status: Status | None = None
    client: Text | None = None
    since: Moment | None = None
    until: Moment | None = None

    def narrowed(self) -> EventFilter:
        """As queries take it."""
        return EventFilter(**dict(self))


class ReplayRequest(BaseModel):
    """What to deliver again: a filter, or ids."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filter: EventChoice | None = None
    ids: Annotated[list[UUID] | None, Field(min_length=1, max_length=MOST_IDS)] = None
    to: Annotated[Text | None, Field(description="A destination's name; may be left out where there is one only.")] = (
        None
    )
    rate: Annotated[float, Field(ge=SLOWEST, le=FASTEST, description="Deliveries a second, at most.")] = DEFAULT_RATE
    dry_run: Annotated[bool, Field(description="The plan only.")] = False


class PlanShown(BaseModel):
    """What would be delivered."""

    model_config = ConfigDict(from_attributes=True)

    events: int
    types: dict[str, int] = Field(description="How many of each type.")
    oldest: datetime | None
    newest: datetime | None
    quarantined: int = Field(description="How many more match, and are left out.")


class ReplayShown(BaseModel):
    """A replay, and how far it is."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    status: ReplayStatus
    destination: str
    rate: float
    events: int = Field(description="How many the plan counted.")
    made: int = Field(description="Deliveries made so far.")
    pending: int
    dead: int
    delivered_or_dropped: int
    finished_at: datetime | None


class ReplayAnswer(BaseModel):
    """A plan, and the replay that carries it out; null on a dry run."""

    to: str
    seconds: float = Field(description="What it takes at this rate.")
    plan: PlanShown
    replay: ReplayShown | None


class ReplayPage(BaseModel):
    """Replays, newest first."""

    replays: list[ReplayShown]
    next: str | None


LINK = {"Link": 'The next page, `rel="next"`; none on the last one.'}
CREATE = Operation(
    summary="Replay events",
    tag="replays",
    description=(
        "Counts what matches; without `dry_run` workers then deliver it, live events first. Send either filter or ids."
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
            description="The replay is stored, and on its way.",
            model=ReplayAnswer,
            headers={"Location": "The replay's address."},
        ),
    },
    problems=(NothingToReplay, UnknownDestination, *BODY_PROBLEMS, TooManyPlans, DatabaseAway),
)
LIST = Operation(
    summary="List replays",
    tag="replays",
    query=PageQuery,
    answers={200: Answer(description="A page, newest first.", model=ReplayPage, headers=LINK)},
    problems=(InvalidParameter, CursorNotUsable, DatabaseAway),
)
SHOW = Operation(
    summary="Show a replay",
    tag="replays",
    path=ReplayPath,
    answers={200: Answer(description="The replay.", model=ReplayShown)},
    problems=(NoSuchReplay, DatabaseAway),
)


def control(summary: str, description: str) -> Operation:
    """The description of a control."""
    return Operation(
        summary=summary,
        tag="replays",
        description=description,
        path=ReplayPath,
        answers={200: Answer(description="The replay.", model=ReplayShown)},
        problems=(NoSuchReplay, HasEnded, DatabaseAway),
    )


PAUSE = control("Pause a replay", "No more deliveries are made; those made are sent.")
RESUME = control("Resume a replay", "It goes on where it was paused.")
CANCEL = control("Cancel a replay", "It ends; what it made and is not being sent is dropped.")

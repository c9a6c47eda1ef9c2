"""Groups of deliveries that failed alike: GET /api/deliveries/groups, and what is done to a whole group."""

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.acting import acting
from app.api.deliveries import DeliverySummary
from app.api.destinations import NoSuchDestination
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.database.counting import MOST_COUNTED
from app.deliveries import operations
from app.deliveries.batches import Change, change_in_batches
from app.deliveries.groups import Alike, count_alike, failure_groups, oldest_alike
from app.deliveries.queries import get_delivery
from app.deliveries.tables import AttemptResult, DeliveryStatus
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import InvalidParameter, Text, answer, read_query
from app.web.transactions import DatabaseAway, reading

MOST_GROUPED = 10_000
"""Of each kind; more would be slow."""

CHANGED_WITHIN = timedelta(seconds=2)
"""No batch begins after this time. A request that does not finish a group says so, and the next one goes on."""


class GroupQuery(BaseModel):
    """Which groups; without a filter, all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    destination: Annotated[Text | None, Field(description="Only deliveries to this destination.")] = None


class GroupShown(BaseModel):
    """Deliveries of one destination whose last attempts ended alike."""

    model_config = ConfigDict(from_attributes=True)

    destination: str
    status: DeliveryStatus = Field(description="`dead`, or `pending` if they are tried again.")
    last_result: AttemptResult | None = Field(description="The result of the last attempt.")
    last_status: int | None = Field(description="The status of the destination's last answer.")
    last_error: str | None = Field(description="The first line of what went wrong.")
    type: str | None = Field(description="The events' type.")
    deliveries: int = Field(description="How many they are.")
    first: UUID = Field(description="The oldest of them, as an example.")
    first_at: datetime = Field(description="When the oldest was made.")
    last_at: datetime = Field(description="When the newest was made.")


class Groups(BaseModel):
    """Groups, the largest first."""

    groups: list[GroupShown]


@Operation(
    tag="deliveries",
    description=(
        "The dead deliveries, and those that have failed and are tried again, in groups that failed alike. Counts the "
        f"newest {MOST_GROUPED:,} of each of the two."
    ),
    query=GroupQuery,
    answers={200: Answer(description="The groups, the largest first.", model=Groups)},
    problems=(InvalidParameter, DatabaseAway),
)
async def list_groups(request: Request[State]) -> Response:
    """List groups of failed deliveries."""
    return answer(await grouped(request, read_query(request, GroupQuery)))


async def grouped(request: Request[State], query: GroupQuery) -> Groups:
    """The groups.

    Raises:
        DatabaseAway: 503.
    """
    async with reading(request.state["engine"]) as connection:
        groups = await failure_groups(connection, destination=query.destination, most=MOST_GROUPED)
    return Groups(groups=[GroupShown.model_validate(group) for group in groups])


class GroupChoice(BaseModel):
    """Which deliveries to change: all of a destination that are dead or pending, or those whose last attempts ended so.

    The options of `priohook deliveries retry` and `drop`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    destination: Text
    status: Literal["dead", "pending"] = "dead"
    outcome: AttemptResult | None = None
    answer: Annotated[int | None, Field(ge=0, le=999)] = None
    type: Text | None = None
    replay: UUID | None = None

    def alike(self) -> Alike:
        """How their last attempts ended, the type of their events, and the replay that asked for them."""
        return Alike(self.outcome and self.outcome.value, self.answer, self.type, self.replay)


class GroupPlan(BaseModel):
    """What a change of the group would concern now."""

    deliveries: int = Field(description="How many, at most `MOST_COUNTED + 1`.")
    example: DeliverySummary | None = Field(description="The oldest of them.")


async def planned(request: Request[State], group: GroupChoice) -> GroupPlan:
    """What the group has now.

    Raises:
        DatabaseAway: 503.
    """
    chosen = (group.destination, group.status, group.alike())
    async with reading(request.state["engine"]) as connection:
        number = await count_alike(connection, *chosen, most=MOST_COUNTED)
        oldest = await oldest_alike(connection, *chosen)
        example = None if oldest is None else await get_delivery(connection, oldest)
    return GroupPlan(deliveries=number, example=example and DeliverySummary.model_validate(example))


async def retry_group(request: Request[State], group: GroupChoice, *, reason: str | None) -> bool:
    """Makes the dead deliveries of a group pending again, as many as fit into `CHANGED_WITHIN`. Returns whether all.

    Raises:
        NoSuchDestination: 404.
        DatabaseAway: 503.
    """
    return await _change(request, group, Action.RETRY, operations.retry_dead, reason=reason)


async def drop_group(request: Request[State], group: GroupChoice, *, reason: str | None) -> bool:
    """Gives the deliveries of a group up, as many as fit into `CHANGED_WITHIN`. Returns whether all.

    Raises:
        NoSuchDestination: 404.
        DatabaseAway: 503.
    """
    dead = group.status == "dead"
    return await _change(
        request, group, Action.DROP, operations.drop_dead if dead else operations.drop_pending, reason=reason
    )


async def _change(
    request: Request[State], group: GroupChoice, action: Action, change: Change, *, reason: str | None
) -> bool:
    act = Act(action=action, kind=Kind.DESTINATION, target=group.destination, reason=reason)
    act.details = group.model_dump(mode="json", exclude={"destination"}, exclude_none=True)
    try:
        return await change_in_batches(
            partial(acting, request),
            act,
            partial(change, alike=group.alike()),
            group.destination,
            within=CHANGED_WITHIN,
        )
    except operations.NobodyKnows:
        raise NoSuchDestination from None

"""/api/deliveries: what was delivered where, every attempt, and the controls."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from app.api.acting import Why, acting, reason_of
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.database.clock import shared_time
from app.deliveries import operations
from app.deliveries.operations import NotDone, WaitsBehind, WasDelivered
from app.deliveries.queries import DeliveryFilter, get_delivery, list_attempts, list_deliveries
from app.deliveries.tables import AttemptResult, DeliveryStatus
from app.web.openapi.operations import Answer, Operation
from app.web.pagination import LINK, CursorNotUsable, PageQuery, link, next_page
from app.web.parameters import InvalidParameter, Moment, Text, answer, read_id, read_query
from app.web.problems import NotFound, Problem
from app.web.transactions import DatabaseAway, reading

OPERATIONS: Mapping[Action, Callable[..., Awaitable[None]]] = {
    Action.RETRY: operations.retry,
    Action.DROP: operations.drop,
}


class NoSuchDelivery(NotFound):
    """There is no delivery with this id."""

    def __init__(self) -> None:
        super().__init__("There is no delivery with this id.", "GET /api/deliveries lists them all.")


class StaysAsItIs(Problem):
    """The delivery's state does not allow this; the message says why."""

    status = 409


class Phase(StrEnum):
    """Where a pending delivery is that has not failed."""

    WAITING = "waiting"
    IN_FLIGHT = "in_flight"


class DeliveryQuery(PageQuery):
    """Which deliveries; without a filter, all of them."""

    status: Annotated[DeliveryStatus | None, Field(description="Only deliveries with this status.")] = None
    destination: Annotated[Text | None, Field(description="Only deliveries to this destination.")] = None
    event_id: Annotated[UUID | None, Field(description="Only deliveries of this event.")] = None
    reference: Annotated[Text | None, Field(description="Only deliveries of this order or other object.")] = None
    replay_id: Annotated[UUID | None, Field(description="Only deliveries of this replay.")] = None
    failing: Annotated[bool, Field(description="Only deliveries that have failed and are tried again.")] = False
    phase: Annotated[
        Phase | None,
        Field(
            description="Only pending deliveries that wait for their first attempt, or that a worker is sending now."
        ),
    ] = None
    since: Annotated[Moment | None, Field(description="Only deliveries made at this time or later.")] = None
    until: Annotated[Moment | None, Field(description="Only deliveries made before this time.")] = None

    def narrowed(self) -> DeliveryFilter:
        """The filters without the page."""
        now = datetime.now(UTC)
        return DeliveryFilter(
            **self.model_dump(exclude={"limit", "cursor", "phase"}),
            waiting=self.phase is Phase.WAITING,
            in_flight_at=now if self.phase is Phase.IN_FLIGHT else None,
        )


class DeliverySummary(BaseModel):
    """One event for one destination."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    event_id: UUID
    type: str | None = Field(description="The event's type.")
    reference: str | None = Field(
        description="The event's reference. Deliveries of one reference are sent one after another."
    )
    destination: str
    replay_id: UUID | None = Field(description="The replay that asked for it.")
    status: DeliveryStatus
    due_at: datetime | None = Field(
        description="When the next attempt is due. Without it, the delivery waits for an earlier one of its reference."
    )
    claimed_at: datetime | None = Field(description="Since when a worker has been sending it.")
    attempts: int = Field(description="How many attempts have begun.")
    last_status: int | None = Field(description="The status of the destination's last answer.")
    last_result: AttemptResult | None = Field(description="The result of the last attempt.")
    last_error: str | None = Field(description="What went wrong in the last attempt.")
    finished_at: datetime | None


def _readable(answer: bytes | None) -> str | None:
    return None if answer is None else answer.decode("utf-8", "replace")


class AttemptShown(BaseModel):
    """One attempt that has ended."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    started_at: datetime
    duration_ms: int | None = Field(description="null if its worker ended before it knew the answer.")
    status: int | None
    result: AttemptResult = Field(description="`lost`: its worker ended before it knew the answer.")
    error: str | None
    answer: Annotated[str | None, BeforeValidator(_readable)] = Field(description="The first 2 KiB of the answer.")


class DeliveryDetail(BaseModel):
    """A delivery with its attempts."""

    delivery: DeliverySummary
    attempts: list[AttemptShown]


class DeliveryPage(BaseModel):
    """Deliveries, newest first."""

    deliveries: list[DeliverySummary]
    next: str | None = Field(description="The next page's address, as in the Link header; null on the last page.")


@Operation(
    tag="deliveries",
    description="Newest first; those of one replay in the order of its events.",
    query=DeliveryQuery,
    answers={200: Answer(description="A page.", model=DeliveryPage, headers=LINK)},
    problems=(InvalidParameter, CursorNotUsable, DatabaseAway),
)
async def list_page(request: Request[State]) -> Response:
    """List deliveries."""
    async with reading(request.state["engine"]) as connection:
        page = await listed(connection, read_query(request, DeliveryQuery), request.scope["path"])
    return answer(page, headers=link(page.next))


async def listed(connection: AsyncConnection, query: DeliveryQuery, path: str) -> DeliveryPage:
    """A page of deliveries.

    Raises:
        CursorNotUsable: 400.
    """
    before = query.before()
    rows = await list_deliveries(connection, query.narrowed(), limit=query.limit + 1, before=before)
    last = rows[query.limit - 1].id if len(rows) > query.limit else None
    shown = [DeliverySummary.model_validate(row) for row in rows[: query.limit]]
    return DeliveryPage(deliveries=shown, next=next_page(path, query, last))


@Operation(
    tag="deliveries",
    answers={200: Answer(description="The delivery and its attempts.", model=DeliveryDetail)},
    problems=(NoSuchDelivery, DatabaseAway),
)
async def show(request: Request[State]) -> Response:
    """Show a delivery."""
    async with reading(request.state["engine"]) as connection:
        return answer(await detail(connection, read_id(request, "delivery_id", NoSuchDelivery)))


async def detail(connection: AsyncConnection, delivery_id: UUID) -> DeliveryDetail:
    """A delivery and its attempts.

    Raises:
        NoSuchDelivery: 404.
    """
    delivery = await get_delivery(connection, delivery_id)
    if delivery is None:
        raise NoSuchDelivery
    return DeliveryDetail(
        delivery=DeliverySummary.model_validate(delivery),
        attempts=[AttemptShown.model_validate(each) for each in await list_attempts(connection, delivery_id)],
    )


@Operation(
    tag="deliveries",
    description="Sends a pending delivery now, and a dead or dropped one again with all its retries.",
    query=Why,
    answers={200: Answer(description="The delivery.", model=DeliverySummary)},
    problems=(NoSuchDelivery, InvalidParameter, StaysAsItIs, DatabaseAway),
)
async def retry(request: Request[State]) -> Response:
    """Try a delivery again."""
    return await _change(request, Action.RETRY)


@Operation(
    tag="deliveries",
    description="Gives up a pending or dead delivery. The next one of its reference goes on.",
    query=Why,
    answers={200: Answer(description="The delivery.", model=DeliverySummary)},
    problems=(NoSuchDelivery, InvalidParameter, StaysAsItIs, DatabaseAway),
)
async def drop(request: Request[State]) -> Response:
    """Give a delivery up."""
    return await _change(request, Action.DROP)


async def _change(request: Request[State], action: Action) -> Response:
    delivery_id = read_id(request, "delivery_id", NoSuchDelivery)
    try:
        delivery = await changed(request, action, delivery_id, reason=reason_of(request))
    except NotDone as error:
        raise StaysAsItIs(str(error), _what_now(error)) from None
    return answer(delivery)


async def changed(request: Request[State], action: Action, delivery_id: UUID, *, reason: str | None) -> DeliverySummary:
    """The delivery after a retry or a drop.

    Raises:
        NoSuchDelivery: 404.
        NotDone: its state does not allow this; the surface says what to do.
        DatabaseAway: 503.
    """
    act = Act(action=action, kind=Kind.DELIVERY, target=str(delivery_id), reason=reason)
    async with acting(request, act) as connection:
        before = await get_delivery(connection, delivery_id)
        if before is None:
            raise NoSuchDelivery
        act.event_id, act.reference = before.event_id, before.reference
        act.details = {"destination": before.destination, "was": before.status}
        await OPERATIONS[action](connection, delivery_id, now=await shared_time(connection))
        return DeliverySummary.model_validate(await get_delivery(connection, delivery_id))


def _what_now(error: NotDone) -> str:
    if isinstance(error, WasDelivered):
        return f"POST /api/events/{error.event_id}/replay delivers its event again."
    if isinstance(error, WaitsBehind):
        query = urlencode({"status": "pending", "destination": error.destination, "reference": error.reference})
        return f"Retry the delivery that has a due_at: GET /api/deliveries?{query} lists it."
    return "It stays as it is."

"""What /api/deliveries and /api/destinations take and answer, for the OpenAPI document."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.deliveries.queries import DeliveryFilter
from app.deliveries.tables import DeliveryStatus
from app.web.openapi.operations import Answer, Operation
from app.web.pagination import CursorNotUsable, PageQuery
from app.web.parameters import BODY_PROBLEMS, InvalidParameter, Text
from app.web.problems import NotFound, Problem
from app.web.transactions import DatabaseAway


class NoSuchDelivery(NotFound):
    """There is no delivery with this id."""

    def __init__(self) -> None:
        super().__init__("There is no delivery with this id.", "GET /api/deliveries lists those there are.")


class NoSuchDestination(NotFound):
    """Nobody knows a destination of this name."""

    def __init__(self) -> None:
        super().__init__("There is no destination of this name.", "GET /api/destinations lists those there are.")


class StaysAsItIs(Problem):
    """The delivery is not in a state for it; the message says why."""

    status = 409


class DeliveryPath(BaseModel):
    """One delivery."""

    delivery_id: UUID


class DestinationPath(BaseModel):
    """One destination."""

    name: str = Field(min_length=1)


class DeliveryQuery(PageQuery):
    """Which deliveries; what is left out does not narrow."""

    status: Annotated[DeliveryStatus | None, Field(description="Only those.")] = None
    destination: Annotated[Text | None, Field(description="Only this destination's.")] = None
    event_id: Annotated[UUID | None, Field(description="Only this event's.")] = None
    reference: Annotated[Text | None, Field(description="Only this order's, or other object's.")] = None
    replay_id: Annotated[UUID | None, Field(description="Only this replay's.")] = None

    def narrowed(self) -> DeliveryFilter:
        """All but the page."""
        return DeliveryFilter(
            status=self.status,
            destination=self.destination,
            event_id=self.event_id,
            reference=self.reference,
            replay_id=self.replay_id,
        )


class DeliverySummary(BaseModel):
    """One event for one destination."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    event_id: UUID
    type: str | None = Field(description="The event's.")
    reference: str | None = Field(description="Deliveries with one go one after the other.")
    destination: str
    replay_id: UUID | None = Field(description="The replay that asked for it.")
    status: DeliveryStatus
    due_at: datetime | None = Field(description="The next attempt; a pending one without it waits behind another.")
    claimed_at: datetime | None = Field(description="Since when a worker sends it.")
    attempts: int = Field(description="Those begun.")
    last_status: int | None = Field(description="What the destination answered last.")
    last_error: str | None = Field(description="What went wrong last.")
    finished_at: datetime | None


class AttemptShown(BaseModel):
    """One try, over."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    started_at: datetime
    duration_ms: int | None = Field(description="null where its worker ended before it knew the answer.")
    status: int | None
    error: str | None
    answer: str | None = Field(description="The first 2 KiB.")


class DeliveryDetail(BaseModel):
    """A delivery with its attempts."""

    delivery: DeliverySummary
    attempts: list[AttemptShown]


class DeliveryPage(BaseModel):
    """Deliveries, newest first."""

    deliveries: list[DeliverySummary]
    next: str | None = Field(description="The next page's address, as in the Link header; null on the last page.")


class DestinationShown(BaseModel):
    """A destination and its queue. Its URL is the operator's alone, and not shown."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    configured: bool = Field(description="It is in the settings of this receiver.")
    since: datetime | None = Field(
        default=None, description="It gets what arrived from then on; null until a worker has seen it."
    )
    paused_at: datetime | None = None
    paused_reason: str | None = None
    failures: int = Field(default=0, description="Failed attempts since the last success.")
    failing_since: datetime | None = None
    probe_at: datetime | None = Field(default=None, description="While the circuit is open: when one may try.")
    pending: int = 0
    due: int = 0
    in_flight: int = 0
    dead: int = 0


class DestinationList(BaseModel):
    """All of them, by name."""

    destinations: list[DestinationShown]


class PauseRequest(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid")

    reason: Text | None = None


LINK = {"Link": 'The next page, `rel="next"`; none on the last one.'}
LIST = Operation(
    summary="List deliveries",
    tag="deliveries",
    description="Newest first; of one replay in the order of its events.",
    query=DeliveryQuery,
    answers={200: Answer(description="A page.", model=DeliveryPage, headers=LINK)},
    problems=(InvalidParameter, CursorNotUsable, DatabaseAway),
)
SHOW = Operation(
    summary="Show a delivery",
    tag="deliveries",
    path=DeliveryPath,
    answers={200: Answer(description="The delivery and its attempts.", model=DeliveryDetail)},
    problems=(NoSuchDelivery, DatabaseAway),
)
RETRY = Operation(
    summary="Try a delivery again",
    tag="deliveries",
    description="A pending one now; a dead or dropped one with all its retries.",
    path=DeliveryPath,
    answers={200: Answer(description="The delivery.", model=DeliverySummary)},
    problems=(NoSuchDelivery, StaysAsItIs, DatabaseAway),
)
DROP = Operation(
    summary="Give a delivery up",
    tag="deliveries",
    description="A pending or dead one; what waits behind it goes on.",
    path=DeliveryPath,
    answers={200: Answer(description="The delivery.", model=DeliverySummary)},
    problems=(NoSuchDelivery, StaysAsItIs, DatabaseAway),
)
DESTINATIONS = Operation(
    summary="List destinations",
    tag="destinations",
    answers={200: Answer(description="All, with their queues.", model=DestinationList)},
    problems=(DatabaseAway,),
)
PAUSE = Operation(
    summary="Pause a destination",
    tag="destinations",
    description="Nothing more is sent; its queue is kept and grows.",
    path=DestinationPath,
    body=PauseRequest,
    body_required=False,
    answers={200: Answer(description="The destination.", model=DestinationShown)},
    problems=(NoSuchDestination, *BODY_PROBLEMS, DatabaseAway),
)
RESUME = Operation(
    summary="Resume a destination",
    tag="destinations",
    description="At once, without the rest of any back-off.",
    path=DestinationPath,
    answers={200: Answer(description="The destination.", model=DestinationShown)},
    problems=(NoSuchDestination, DatabaseAway),
)

"""GET /api/orders/{reference}: the events of one order, sorted by its versions, and what changed between them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.acting import Why, acting, reason_of
from app.api.events import KEEP_PRIVATE, EventSummary
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.events.differences import MOST_CHANGES, Differences, differences, in_words
from app.events.queries import EventBody, EventFilter, ListedEvent, get_bodies, list_events
from app.events.timeline import Placed, timeline
from app.prioticket.contents import Contained, read_object
from app.prioticket.payloads import UNPRINTABLE
from app.prioticket.telling import Rest, Told, tell
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import InvalidParameter, answer
from app.web.problems import NotFound
from app.web.transactions import DatabaseAway, reading

MOST_EVENTS = 500
MOST_BODIES = 50
MOST_WORDS = 50  # sentences
MOST_BYTES = 4 * 1024 * 1024
"""For all bodies that are compared together, stored as well as decoded."""


class NoSuchOrder(NotFound):
    """No event has this reference."""


class ChangeShown(BaseModel):
    """One place that changed."""

    model_config = ConfigDict(from_attributes=True)

    path: str = Field(description="A JSON Pointer into the object.")
    kind: Literal["added", "removed", "changed"]
    old: Any = Field(description="null if it was not there, or is too long to show.")
    new: Any
    shortened: bool = Field(description="Whether a value is too long to show, and null here.")


class OrderEvent(EventSummary):
    """An event, and how it changed the order."""

    late: bool = Field(description="Whether it arrived after a newer version.")
    twice: bool = Field(description="Whether copies of it arrived: see `duplicates`.")
    changes: list[ChangeShown] | None = Field(
        description=(
            "What changed since the previous event that holds the same order, payment or other object; null if there "
            "is nothing to compare: this event holds no object, no earlier one holds it, or its body was not read."
        )
    )
    more_changes: bool = Field(description=f"Whether there are more changes than the {MOST_CHANGES} shown.")
    words: list[str] | None = Field(
        description=(
            "The changes in words, such as `Booking B-2: CONFIRMED → CANCELLED`, without those of the version and the "
            "time; bookings are compared by their references. null as `changes`."
        )
    )


class Order(BaseModel):
    """The events of one reference, and what they say."""

    reference: str
    events: list[OrderEvent] = Field(description="By order_version, then order_modified, then arrival.")
    more_events: bool = Field(description=f"Whether more than {MOST_EVENTS} events arrived; only the latest are shown.")
    compared: int = Field(description="How many bodies, of the newest versions, were read for `changes` and `state`.")
    not_compared: int = Field(
        description=f"How many bodies were not read; at most {MOST_BODIES} bodies or {MOST_BYTES} bytes are."
    )
    state: Any = Field(
        description="The order in the newest version that was read; without an order, the newest object; null if none."
    )
    state_event_id: UUID | None = Field(description="The event that holds it.")


@Operation(
    tag="orders",
    description=(
        "All events of one reference, sorted by version, whatever order they arrived in. The audit keeps who "
        "read bodies in this way."
    ),
    query=Why,
    path={"reference": "A slash in it may be sent as it is, or as %2F."},
    answers={200: Answer(description="The order.", model=Order)},
    problems=(NoSuchOrder, InvalidParameter, DatabaseAway),
)
async def show(request: Request[State]) -> Response:
    """Show an order."""
    reason = reason_of(request)
    return answer(await order_of(request, request.path_params["reference"], reason=reason), headers=KEEP_PRIVATE)


async def order_of(request: Request[State], reference: str, *, reason: str | None = None, bodies: bool = True) -> Order:
    """The events of one reference, and what they say.

    Args:
        request: The request that asks for them.
        reference: The order's, or another object's.
        reason: Why bodies are read.
        bodies: Whether to read bodies; without them nothing is compared.

    Raises:
        NoSuchOrder: 404.
        DatabaseAway: 503.
    """
    if UNPRINTABLE.search(reference):  # no stored reference has these, and PostgreSQL takes no NUL
        raise _no_such_order()
    async with reading(request.state["engine"]) as connection:
        rows = await list_events(connection, EventFilter(reference=reference), limit=MOST_EVENTS + 1)
    if not rows:
        raise _no_such_order()
    placed = timeline(rows[:MOST_EVENTS])
    holding = [each.event for each in placed if each.event.shape in ("object", "both") and not each.event.erased_at]
    chosen = _newest(holding) if bodies else []
    found = await _bodies(request, reference, chosen, reason=reason) if chosen else []
    order = await asyncio.to_thread(_order, reference, placed, found)
    order.more_events = len(rows) > MOST_EVENTS
    order.not_compared = len(holding) - order.compared
    return order


async def _bodies(
    request: Request[State], reference: str, chosen: Sequence[UUID], *, reason: str | None
) -> list[EventBody]:
    """The bodies of these events, in their order. That they were read is committed before anything of them goes out."""
    act = Act(action=Action.READ, kind=Kind.ORDER, target=reference, reference=reference, reason=reason)
    act.details = {"bodies": len(chosen)}
    async with acting(request, act) as connection:
        found = {row.id: row for row in await get_bodies(connection, chosen)}
    return [found[each] for each in chosen if each in found]


class Compared(NamedTuple):
    """What changed between two versions of an object, twice: by place, and in words."""

    found: Differences
    words: list[str]


def compare(name: str, before: dict[str, Any], after: dict[str, Any]) -> Compared:
    """What changed between two versions of an object, such as an `order`."""
    told = tell(before, after) if name == "order" else Told([], [Rest("", before, after)])
    words = told.words
    for rest in told.rest:
        if len(words) > MOST_WORDS:
            break
        lines = map(in_words, differences(rest.before, rest.after).changes)
        words += (f"{rest.name}: {line.removeprefix('/')}" if rest.name else line for line in lines)
    if len(words) > MOST_WORDS:
        words = [*words[:MOST_WORDS], "and more"]
    return Compared(differences(before, after), words)


def _order(reference: str, placed: Sequence[Placed], bodies: Sequence[EventBody]) -> Order:
    objects = _objects(bodies)
    changed: dict[UUID, Compared] = {}
    newest: dict[tuple[str, str | None], tuple[UUID, Contained]] = {}
    state: tuple[UUID, Contained] | None = None
    for entry in placed:
        found = objects.get(entry.event.id)
        if found is None:
            continue
        before = newest.get((found.name, found.reference))
        newest[found.name, found.reference] = now = (entry.event.id, found)
        if before is not None:
            changed[entry.event.id] = compare(found.name, before[1].values, found.values)
        if found.name == "order" or state is None or state[1].name != "order":
            state = now
    return Order(
        reference=reference,
        events=[_shown(each, changed) for each in placed],
        more_events=False,
        compared=len(objects),
        not_compared=0,
        state=state and state[1].values,
        state_event_id=state and state[0],
    )


def _objects(bodies: Sequence[EventBody]) -> dict[UUID, Contained | None]:
    """The objects of as many bodies as there is room for once decoded: a small body may decode to a large one."""
    objects: dict[UUID, Contained | None] = {}
    room = MOST_BYTES
    for row in bodies:
        found, size = read_object(row.headers, row.body, limit=room)
        room -= size
        if room < 0:
            break
        objects[row.id] = found
    return objects


def _no_such_order() -> NoSuchOrder:
    return NoSuchOrder("No event has this reference.", "References are case-sensitive; GET /api/events?q=… searches.")


def _newest(events: Sequence[ListedEvent]) -> list[UUID]:
    """The events whose bodies are read: the newest versions, within bounds."""
    chosen, room = [], MOST_BYTES
    for event in reversed(events[-MOST_BODIES:]):
        room -= event.body_bytes
        if room < 0:
            break
        chosen.append(event.id)
    return chosen


def _shown(placed: Placed, changed: Mapping[UUID, Compared]) -> OrderEvent:
    event, compared = placed.event, changed.get(placed.event.id)
    return OrderEvent(
        **EventSummary.model_validate(event).model_dump(),
        late=placed.late,
        twice=event.duplicates > 0,
        changes=None if compared is None else [ChangeShown.model_validate(each) for each in compared.found.changes],
        more_changes=compared is not None and compared.found.more,
        words=None if compared is None else compared.words,
    )

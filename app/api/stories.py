"""What became of an order or of one event: deliveries, fetches, and who looked at it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request

from app.api.audit import EntryShown, shown_entry
from app.api.deliveries import DeliverySummary
from app.api.events import EventDetail, EventPage, FetchOutcome, NoSuchEvent, event_of
from app.api.orders import MOST_EVENTS, Order, OrderEvent, order_of
from app.api.plans import NothingToReplay, ReplayRequest, replay_of
from app.api.recipients import Deliveries, Standing, by_event, standings
from app.api.replays import ReplayShown
from app.api.state import State
from app.audit.queries import AuditFilter, list_entries
from app.deliveries.destination_queries import known_destinations
from app.deliveries.queries import deliveries_of
from app.deliveries.standings import undispatched_of
from app.deliveries.tables import DeliveryStatus
from app.events.fetches import outcomes_of
from app.events.queries import EventFilter, list_events
from app.events.tables import Status
from app.events.timeline import Placed, timeline
from app.prioticket.summary import Summary, summarize
from app.web.transactions import reading

MOST_DELIVERIES = 2000
"""The newest of all events that are shown together."""

MOST_ACTIONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """An order, and what became of it.

    Attributes:
        summary: Its newest state that was read, if it is an order.
        fetches: Of notifications without payload, by event.
        newest: The newest version of the order.
        from_here: The events that can be replayed from each one on.
        undispatched: The events at which no worker has looked yet.
        more_deliveries: Whether there are more deliveries than were read.
        actions: Who looked at it and who did what, the newest first.
        destinations: To which its events can be replayed.
    """

    order: Order
    summary: Summary | None
    deliveries: Deliveries
    fetches: Mapping[UUID, FetchOutcome]
    standings: list[Standing]
    newest: int | None
    from_here: Mapping[UUID, Sequence[UUID]]
    undispatched: frozenset[UUID]
    more_deliveries: bool
    actions: list[EntryShown]
    destinations: list[str]

    def waits_for(self, delivery: DeliverySummary) -> DeliverySummary | None:
        """The delivery that this one waits for."""
        if delivery.status != DeliveryStatus.PENDING or delivery.due_at is not None:
            return None
        return next((each.first for each in self.standings if each.destination == delivery.destination), None)


async def story_of(request: Request[State], reference: str, *, bodies: bool) -> Story:
    """The story of one reference.

    Args:
        request: The request that asks for it.
        reference: The order's, or another object's.
        bodies: Whether to read the bodies, which the audit keeps.

    Raises:
        NoSuchOrder: 404.
        DatabaseAway: 503.
    """
    order = await order_of(request, reference, bodies=bodies)
    ids = [event.id for event in order.events]
    async with reading(request.state["engine"]) as connection:
        unseen = await undispatched_of(connection, ids)  # before the deliveries that a worker may make meanwhile
        rows = await deliveries_of(connection, ids, most=MOST_DELIVERIES + 1)
        known = await known_destinations(connection)
        fetches = await outcomes_of(connection, [event.id for event in order.events if event.shape == "notification"])
        actions = await list_entries(connection, AuditFilter(reference=reference), limit=MOST_ACTIONS)
    deliveries = by_event([DeliverySummary.model_validate(row) for row in rows[-MOST_DELIVERIES:]])
    return Story(
        order=order,
        summary=await _summary(order),
        deliveries=deliveries,
        fetches={event_id: FetchOutcome.model_validate(each) for event_id, each in fetches.items()},
        standings=standings(order.events, deliveries, known, request.state["destinations"], unseen=unseen),
        newest=max((each.order_version for each in order.events if each.order_version is not None), default=None),
        from_here={event.id: _replayable(order.events[place:]) for place, event in enumerate(order.events)},
        undispatched=unseen,
        more_deliveries=len(rows) > MOST_DELIVERIES,
        actions=[shown_entry(each) for each in actions],
        destinations=sorted({*request.state["destinations"], *known}),
    )


async def _summary(order: Order) -> Summary | None:
    """What the order says. A body of a megabyte can take half a second, in which the receiver goes on."""
    if not isinstance(order.state, dict) or not _holds_order(order):
        return None
    return await asyncio.to_thread(summarize, order.state)


async def replay_from(
    request: Request[State], reference: str, event_id: UUID, *, to: str | None, reason: str | None
) -> ReplayShown:
    """Replays an event of an order and those after it in the order's own order.

    Raises:
        Problem: one of those of `POST /api/replays`, or 404.
    """
    order = await order_of(request, reference, bodies=False)
    place = next((number for number, event in enumerate(order.events) if event.id == event_id), None)
    if place is None:
        raise NoSuchEvent
    ids = _replayable(order.events[place:])
    if not ids:
        raise NothingToReplay("None of these events can be replayed.", "They are quarantined or erased.")
    started = await replay_of(request, ReplayRequest(ids=ids, to=to, reason=reason))
    if started.replay is None:
        raise AssertionError("only a dry run starts no replay")
    return started.replay


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStory:
    """One event, where it stands in its order, and what became of it.

    Attributes:
        before: The event before it in the order's own order.
        after: The event after it.
        compared_with: The version of the order before it.
        superseded_by: The newest event of the order, if it holds a newer version.
        late: Whether it arrived after a newer version.
    """

    event: EventDetail
    before: UUID | None
    after: UUID | None
    compared_with: UUID | None
    superseded_by: UUID | None
    late: bool
    deliveries: list[DeliverySummary]
    actions: list[EntryShown]
    destinations: list[str]


async def event_story(request: Request[State], event_id: UUID) -> EventStory:
    """One event's story. It reads no body.

    Raises:
        NoSuchEvent: 404.
        DatabaseAway: 503.
    """
    async with reading(request.state["engine"]) as connection:
        event = await event_of(connection, event_id)
        placed = await _around(connection, event.reference)
        rows = await deliveries_of(connection, [event_id], most=MOST_DELIVERIES)
        known = await known_destinations(connection)
        actions = await list_entries(connection, AuditFilter(event_id=event_id), limit=MOST_ACTIONS)
    at = next((number for number, each in enumerate(placed) if each.event.id == event_id), None)
    earlier, later = ([], []) if at is None else (placed[:at], placed[at + 1 :])
    holding = [each.event.id for each in earlier if _holds(each)]
    newer = [each.event.id for each in later if _is_newer(each, event)]
    return EventStory(
        event=event,
        before=earlier[-1].event.id if earlier else None,
        after=later[0].event.id if later else None,
        compared_with=holding[-1] if holding and event.shape in ("object", "both") else None,
        superseded_by=newer[-1] if newer else None,
        late=at is not None and placed[at].late,
        deliveries=[DeliverySummary.model_validate(row) for row in rows],
        actions=[shown_entry(each) for each in actions],
        destinations=sorted({*request.state["destinations"], *known}),
    )


async def deliveries_on(request: Request[State], page: EventPage) -> Deliveries:
    """The newest delivery to each destination of each event of a page.

    Raises:
        DatabaseAway: 503.
    """
    async with reading(request.state["engine"]) as connection:
        rows = await deliveries_of(connection, [event.id for event in page.events], most=MOST_DELIVERIES)
    newest: dict[tuple[UUID, str], DeliverySummary] = {}
    for row in rows:
        newest[row.event_id, row.destination] = DeliverySummary.model_validate(row)
    return by_event([newest[key] for key in sorted(newest, key=lambda key: key[1])])


async def _around(connection: AsyncConnection, reference: str | None) -> list[Placed]:
    if reference is None:
        return []
    return timeline(await list_events(connection, EventFilter(reference=reference), limit=MOST_EVENTS))


def _holds(placed: Placed) -> bool:
    return placed.event.shape in ("object", "both") and placed.event.erased_at is None


def _is_newer(placed: Placed, event: EventDetail) -> bool:
    version = placed.event.order_version
    return version is not None and event.order_version is not None and version > event.order_version


def _replayable(events: Sequence[OrderEvent]) -> list[UUID]:
    return [event.id for event in events if event.status == Status.ACCEPTED and event.erased_at is None]


def _holds_order(order: Order) -> bool:
    """Whether the state is that of an order, and not of a payment or another object."""
    state = order.state
    return any(str(name).startswith("order_") for name in state) if isinstance(state, dict) else False

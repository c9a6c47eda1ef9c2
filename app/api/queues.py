"""Deliveries and their queues: a page of deliveries with counts, and one delivery with those before and after it."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from starlette.requests import Request

from app.api.deliveries import DeliveryDetail, DeliveryPage, DeliveryQuery, detail, listed
from app.api.state import State
from app.deliveries.counts import Counts, count_states
from app.deliveries.destination_queries import KnownDestination, known_destination
from app.deliveries.tables import DeliveryStatus
from app.deliveries.waits import Behind, behind, first_of
from app.events.ids import made_at
from app.web.transactions import reading


class Queue(NamedTuple):
    """A page of deliveries, and the counts of all."""

    page: DeliveryPage
    counts: Counts
    before: Mapping[UUID, UUID]
    """For each delivery that waits for another one of its reference: that one."""


class Story(NamedTuple):
    """A delivery, and what its state depends on."""

    detail: DeliveryDetail
    received_at: datetime
    """When its event arrived."""
    destination: KnownDestination | None
    """None if it was removed, or belonged to a replay that has ended."""
    first: UUID | None
    """The delivery that goes first of its reference, if that is another one."""
    behind: Behind
    """What waits for it or for the first one."""


async def queue(request: Request[State], query: DeliveryQuery) -> Queue:
    """A page of deliveries.

    Raises:
        CursorNotUsable: 400.
        DatabaseAway: 503.
    """
    async with reading(request.state["engine"]) as connection:
        page = await listed(connection, query, request.scope["path"])
        waiting = [row for row in page.deliveries if row.status is DeliveryStatus.PENDING and row.due_at is None]
        first = await first_of(connection, waiting)
        counts = await count_states(connection, query.destination)
    places = {row.id: first.get((row.destination, row.reference or "")) for row in waiting}
    return Queue(page, counts, {waits: before for waits, before in places.items() if before is not None})


async def story(request: Request[State], delivery_id: UUID) -> Story:
    """A delivery with its attempts, and the deliveries before and after it in its queue.

    Raises:
        NoSuchDelivery: 404.
        DatabaseAway: 503.
    """
    async with reading(request.state["engine"]) as connection:
        shown = await detail(connection, delivery_id)
        delivery = shown.delivery
        destination = await known_destination(connection, delivery.destination)
        first = (await first_of(connection, [delivery])).get((delivery.destination, delivery.reference or ""))
        waiting = await behind(connection, delivery)
    return Story(shown, made_at(delivery.event_id), destination, None if first == delivery_id else first, waiting)

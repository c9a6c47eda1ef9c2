"""Notifications without payload: whether a destination gets them, the orders that are fetched for them, or both."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.deliveries.tables import Delivery
from app.events.fetches import FAILED, announced_as, announces_order, ask_for, asked_for
from app.events.tables import Event, Origin

DISPATCHED = select(Delivery.event_id, Delivery.destination).where(
    Delivery.event_id.in_(bindparam("ids", expanding=True)), Delivery.replay_id.is_(None)
)
STILL_FETCHED = (
    select(Event.id)
    .where(Event.id.in_(bindparam("ids", expanding=True)), Event.origin == Origin.FETCHED.value)
    .with_for_update(read=True, skip_locked=True)
)


class Following(NamedTuple):
    """What dispatch must know of notifications without payload and fetched orders.

    Attributes:
        left_out: The pairs of event and destination that are not to be delivered, or were before.
        announced: The types under which fetched events were announced: a destination that wants the notification wants
            its order too.
        only_fetched: Events that destinations do not get as no webhook has brought them.
    """

    left_out: set[tuple[Any, ...]]
    announced: dict[UUID, set[str]]
    only_fetched: set[UUID]


class Arrived(Protocol):
    """What must be known of an event to dispatch."""

    @property
    def id(self) -> UUID: ...
    @property
    def type(self) -> str | None: ...
    @property
    def reference(self) -> str | None: ...
    @property
    def shape(self) -> str | None: ...
    @property
    def origin(self) -> str: ...
    @property
    def cause(self) -> UUID | None: ...


async def follow(
    connection: AsyncConnection, events: Sequence[Arrived], thin: Mapping[str, str] | None, *, now: datetime
) -> Following:
    """Has the orders of notifications fetched. Does not commit.

    Args:
        connection: In the transaction that dispatches the events.
        events: The events.
        thin: What each destination gets; None if no orders are fetched.
        now: The time.
    """
    fetched = [event for event in events if event.origin != Origin.RECEIVED]
    left_out: set[tuple[Any, ...]] = set()
    only_fetched: set[UUID] = set()
    notifications = {
        event.id: event.reference
        for event in events
        if event.reference is not None and announces_order(event.type, event.shape, event.reference)
    }
    asked = await asked_for(connection, notifications)
    if thin is not None:
        await ask_for(connection, {key: notifications[key] for key in notifications.keys() - asked.keys()}, now=now)
    failed = {event_id for event_id, status in asked.items() if status in FAILED}
    for name, wanted in (thin or {}).items():
        if wanted == "snapshot":
            left_out |= {(event_id, name) for event_id in notifications.keys() - failed}
        elif wanted == "notification":
            only_fetched = {event.id for event in fetched if event.origin == Origin.FETCHED and event.cause is not None}
            left_out |= {(event_id, name) for event_id in only_fetched}
    # These may be dispatched for the second time.
    again = [*(event.id for event in fetched), *failed]
    if again:
        left_out |= {tuple(row) for row in await connection.execute(DISPATCHED, {"ids": again})}
    announced = await announced_as(connection, [event.id for event in fetched]) if fetched else {}
    return Following(left_out, announced, only_fetched)


async def received_meanwhile(connection: AsyncConnection, only_fetched: Collection[UUID]) -> set[UUID]:
    """Of these fetched events, those that a webhook has brought by now or is bringing: dispatch them again.

    A webhook that comes for another one waits until this transaction ends, and has it dispatched again then.
    """
    if not only_fetched:
        return set()
    return {*only_fetched} - set(await connection.scalars(STILL_FETCHED, {"ids": sorted(only_fetched)}))

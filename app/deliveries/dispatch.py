"""Dispatch: accepted events become deliveries, one for each destination that wants them."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import bindparam, delete, exists, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.writing import COMMIT_LATER
from app.deliveries.clocks import AHEAD
from app.deliveries.globs import wants
from app.deliveries.queue import lock, prefer_live
from app.deliveries.registering import DISPATCH_LOCK, register, registered
from app.deliveries.tables import PENDING, Delivery, Destination, PassedOver
from app.deliveries.thin import follow, received_meanwhile
from app.deliveries.transitions import HAS_TIME
from app.events.fetches import lock_fetches
from app.events.ids import made_at, new_id
from app.events.tables import Event, Undispatched

logger = logging.getLogger(__name__)

BATCH = 250
"""The most events that one transaction dispatches."""

MOST_MADE = 5000
"""The most deliveries that dispatch makes in one transaction; those of a single event may be more."""

ENOUGH = 4
"""A destination has enough to do with so many times as many due deliveries as one transaction dispatches events."""

HELD = 0.1  # seconds until it looks again whether a destination needs more; none sends what it has in less

NEWEST = select(Undispatched.event_id).order_by(Undispatched.event_id.desc()).limit(1)
OLDEST = select(Undispatched.event_id).order_by(Undispatched.event_id).limit(bindparam("most"))
# Not joined with OLDEST: neither database knows how few those are, and both might read all events to find them.
ARRIVED = select(Event.id, Event.type, Event.event_name, Event.reference, Event.shape, Event.origin, Event.cause).where(
    Event.id.in_(bindparam("ids", expanding=True))
)
PASSED_OVER = select(PassedOver.event_id, PassedOver.destination).where(
    PassedOver.event_id.in_(bindparam("ids", expanding=True))
)
_SENDS = select(Destination.name).where(
    Destination.name.in_(bindparam("names", expanding=True)),
    Destination.paused_at.is_(None),
    Destination.probe_at.is_(None),
)
_last_needed = (
    select(Delivery.due_at)
    .where(Delivery.destination == Destination.name, PENDING, HAS_TIME, Delivery.replay_id.is_(None))
    .where(Delivery.due_at <= bindparam("now"))
    .order_by(Delivery.due_at)
    .offset(bindparam("enough"))
    .limit(1)
    .scalar_subquery()
)
SENDS_AND_NEEDS = select(exists(_SENDS), exists(_SENDS.where(_last_needed.is_(None))))
"""Whether there is a destination that may send, and one that may and has fewer due deliveries than are enough."""


class Arrived(NamedTuple):
    """An event to dispatch."""

    id: UUID
    type: str | None
    event_name: str | None
    reference: str | None
    shape: str | None
    origin: str
    cause: UUID | None


class Wanted(NamedTuple):
    """An event that a destination shall get."""

    event_id: UUID
    reference: str | None


class Dispatcher:
    """Dispatches for one worker. Logs why it has to wait, and when event ids are ahead of the clock.

    Of many events it dispatches only those that the senders need next: to write, index and vacuum all their deliveries
    at the same time would slow the senders down. The others wait as events, whose order nothing can change.

    Args:
        wanted_types: The globs on the type or event name, by destination.
        thin: What each destination gets of a notification without payload and of the order that is fetched for it, as
            the setting `thin` says; None if no orders are fetched.
        most: The most events that one transaction dispatches; by default `events_at_once`.

    Attributes:
        held: Whether `has_work` found that no sender needs more for now. Nothing tells when one does.
    """

    def __init__(
        self,
        wanted_types: Mapping[str, Sequence[str]],
        thin: Mapping[str, str] | None = None,
        *,
        most: int | None = None,
    ) -> None:
        self.held = False
        self._most = events_at_once(len(wanted_types)) if most is None else most
        self._more = False
        self._wanted_types = wanted_types
        self._thin = thin
        self._known = frozenset(wanted_types)
        self._left_to: list[str] = []
        self._ahead = False

    async def begin(self, connection: AsyncConnection, *, now: datetime) -> None:
        """Registers the worker's destinations, and remembers all that are registered by now."""
        await register(connection, self._wanted_types, now=now)
        if self._wanted_types:
            self._known |= set(await registered(connection))

    async def has_work(self, connection: AsyncConnection, *, now: datetime) -> bool:
        """Whether events wait that this worker may dispatch.

        It may not if a destination was registered after it started, or if it has no destinations at all: it would
        dispatch the events without that destination. They wait for a worker that knows the destination.

        They also wait while a destination may send, and each one that may has enough to do. So neither a paused nor a
        slow destination holds up another one, and while none may send, all events become deliveries.
        """
        self.held = False
        newest = await connection.scalar(NEWEST)
        if newest is None:
            return False
        self._compare(newest, now)
        left_to = sorted(set(await registered(connection)) - self._known)
        if left_to and left_to != self._left_to:
            logger.warning("dispatch_waits", extra={"fields": {"destinations": left_to}})
        self._left_to = left_to
        self.held = not left_to and self._more and not await self._needed(connection, now=now)
        return not left_to and not self.held

    async def dispatch(self, connection: AsyncConnection, *, now: datetime) -> int:
        """Calls `dispatch` for the worker's destinations."""
        count = await dispatch(connection, self._wanted_types, most=self._most, now=now, thin=self._thin)
        self._more = count == self._most
        return count

    async def _needed(self, connection: AsyncConnection, *, now: datetime) -> bool:
        values = {"names": list(self._wanted_types), "now": now, "enough": ENOUGH * self._most - 1}
        sends, needs = (await connection.execute(SENDS_AND_NEEDS, values)).one()
        return needs or not sends

    def _compare(self, newest: UUID, now: datetime) -> None:
        ahead = made_at(newest) - now
        if ahead > AHEAD and not self._ahead:
            fields = {"event_id": str(newest), "seconds": int(ahead.total_seconds())}
            logger.warning("ids_ahead", extra={"fields": fields})
        self._ahead = ahead > AHEAD


def events_at_once(destinations: int) -> int:
    """How many events one transaction dispatches; few if there are many destinations, as SQLite is locked meanwhile."""
    return min(BATCH, max(1, MOST_MADE // max(1, destinations)))


async def dispatch(
    connection: AsyncConnection,
    wanted_types: Mapping[str, Sequence[str]],
    *,
    most: int,
    now: datetime,
    thin: Mapping[str, str] | None = None,
) -> int:
    """Makes the deliveries of up to `most` events, the oldest first, and returns how many. Does not commit.

    Returns 0 while another worker dispatches: that one goes on.

    Args:
        connection: In a transaction that may write.
        wanted_types: The globs on the type or event name, by destination; one of them must match.
        most: The most events to dispatch.
        now: The time.
        thin: As for `Dispatcher`.
    """
    if connection.dialect.name == "postgresql":
        free = await connection.scalar(select(func.pg_try_advisory_xact_lock(DISPATCH_LOCK), COMMIT_LATER))
        if not free:
            return 0
    if thin is not None:  # what a fetch that ends now says of these events must be known, or come after all this
        await lock_fetches(connection)
    ids = (await connection.scalars(OLDEST, {"most": most})).all()
    if not ids:
        return 0
    events = sorted(Arrived(*row) for row in await connection.execute(ARRIVED, {"ids": ids}))
    passed_over = {tuple(row) for row in await connection.execute(PASSED_OVER, {"ids": ids})}
    following = await follow(connection, events, thin, now=now)
    left_out = following.left_out | passed_over
    for name in sorted(wanted_types):
        matching = [
            event
            for event in events
            if wants(wanted_types[name], event.type, event.event_name, *following.announced.get(event.id, ()))
        ]
        if matching and await lock(connection, name) is not None:
            new = [Wanted(event.id, event.reference) for event in matching if (event.id, name) not in left_out]
            await add(connection, name, new, replay_id=None, now=now)
    again = await received_meanwhile(connection, following.only_fetched)
    done = [event_id for event_id in ids if event_id not in again]
    await connection.execute(delete(Undispatched).where(Undispatched.event_id.in_(done)))
    if passed_over:
        await connection.execute(delete(PassedOver).where(PassedOver.event_id.in_(done)))
    return len(ids)


async def add(
    connection: AsyncConnection, name: str, events: Sequence[Wanted], *, replay_id: UUID | None, now: datetime
) -> None:
    """Puts events in this order at the end of a destination's queue. The caller holds its lock."""
    if not events:
        return
    references = {event.reference for event in events if event.reference is not None}
    busy = await _busy(connection, name, references)
    waiting = set(busy)
    rows: list[dict[str, Any]] = []
    for event in events:
        waits = event.reference is not None and event.reference in busy
        rows.append(
            {
                "id": new_id(),
                "event_id": event.event_id,
                "destination": name,
                "reference": event.reference,
                "replay_id": replay_id,
                "due_at": None if waits else now,
            }
        )
        busy.add(event.reference)
    await connection.execute(insert(Delivery), rows)
    if replay_id is None:
        await prefer_live(connection, name, references & waiting, now=now)


async def _busy(connection: AsyncConnection, name: str, references: set[str]) -> set[str | None]:
    """The references that already have a pending delivery, one of which has a `due_at`."""
    if not references:
        return set()
    pending = select(Delivery.reference).where(
        Delivery.destination == name, PENDING, HAS_TIME, Delivery.reference.in_(sorted(references))
    )
    return set(await connection.scalars(pending))

"""Who has got what of an order: each destination, the newest event that it got, and those that it still lacks."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.api.deliveries import DeliverySummary
from app.api.orders import OrderEvent
from app.deliveries.destination_queries import KnownDestination
from app.deliveries.met import met
from app.deliveries.tables import DeliveryStatus
from app.events.tables import Status
from app.settings.model import DestinationSettings

Deliveries = Mapping[UUID, Sequence[DeliverySummary]]
"""By event, the oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a destination has got of an order.

    Attributes:
        has: The newest event in the order's own order that it got.
        lacks: The accepted events after that one which it has not got.
        unseen: Whether no worker has looked at an event after that one, which may be for it.
        first: The delivery that all others to it wait for, if any are pending.
        waiting: How many wait behind that one.
        dead: How many deliveries were given up after all attempts.
        paused_at: Since when nothing is sent to it.
        circuit_since: Since when it has failed so often that one delivery is tried at a time.
    """

    destination: str
    has: OrderEvent | None
    has_since: datetime | None
    lacks: list[OrderEvent]
    unseen: bool
    first: DeliverySummary | None
    waiting: int
    dead: int
    paused_at: datetime | None
    circuit_since: datetime | None

    @property
    def tone(self) -> str:
        """`good`, `warn`, `bad`, or nothing if no event was for it."""
        if not self.lacks:
            return "warn" if self.unseen else "good" if self.has else ""
        failing = self.first is not None and self.first.last_result is not None
        return "bad" if failing or self.dead or self.paused_at or self.first is None else "warn"

    @property
    def words(self) -> str:
        """What an operator says of it, in one sentence."""
        if not self.lacks and self.unseen:
            return "No worker has looked at the newest event yet."
        if not self.lacks:
            given_up = f" Earlier deliveries that failed for good: {self.dead}." if self.dead else ""
            return f"Has the newest event.{given_up}" if self.has else "No event was for it."
        if self.paused_at:
            return "It is paused: nothing is sent to it."
        if self.first is not None and self.first.last_result is not None:
            answer = met(self.first.last_status, self.first.last_error) or self.first.last_result
            return f"Failing: attempt {self.first.attempts} met {answer}."
        if self.first is not None:
            return "It failed before: one delivery is tried at a time." if self.circuit_since else "On its way."
        return "All attempts failed: it is not tried again." if self.dead else "Dropped: it is not sent again."


def by_event(deliveries: Sequence[DeliverySummary]) -> Deliveries:
    """The deliveries of each event, in the given order."""
    found = defaultdict[UUID, list[DeliverySummary]](list)
    for delivery in deliveries:
        found[delivery.event_id].append(delivery)
    return dict(found)


def standings(
    events: Sequence[OrderEvent],
    deliveries: Deliveries,
    known: Mapping[str, KnownDestination],
    configured: Mapping[str, DestinationSettings],
    *,
    unseen: Collection[UUID] = (),
) -> list[Standing]:
    """What each destination has got of an order, the ones with trouble first.

    Args:
        events: In the order's own order.
        deliveries: Of these events.
        known: The destinations that can be sent to.
        configured: Those of the settings.
        unseen: The events at which no worker has looked yet.
    """
    names = {*known, *configured, *(each.destination for some in deliveries.values() for each in some)}
    every = [_standing(name, events, deliveries, known.get(name), unseen) for name in sorted(names)]
    return sorted(every, key=lambda each: ("bad", "warn", "good", "").index(each.tone))


def _standing(
    name: str,
    events: Sequence[OrderEvent],
    deliveries: Deliveries,
    known: KnownDestination | None,
    unseen: Collection[UUID],
) -> Standing:
    has, has_since = None, None
    lacks: list[OrderEvent] = []
    is_unseen = False
    for event in events:
        is_unseen = is_unseen or event.id in unseen
        ours = [each for each in deliveries.get(event.id, ()) if each.destination == name]
        if not ours or event.status != Status.ACCEPTED:
            continue
        delivered = [each for each in ours if each.status == DeliveryStatus.DELIVERED]
        if delivered:
            has, has_since, lacks = event, delivered[-1].finished_at, []
            is_unseen = False
        else:
            lacks.append(event)
    ours = list(_to(name, deliveries))
    pending = [each for each in ours if each.status == DeliveryStatus.PENDING]
    return Standing(
        destination=name,
        has=has,
        has_since=has_since,
        lacks=lacks,
        unseen=is_unseen,
        first=next((each for each in pending if each.due_at is not None), None),
        waiting=sum(each.due_at is None for each in pending),
        dead=sum(each.status == DeliveryStatus.DEAD for each in ours),
        paused_at=known.paused_at if known else None,
        circuit_since=known.failing_since if known and known.probe_at else None,
    )


def _to(name: str, deliveries: Deliveries) -> Iterator[DeliverySummary]:
    return (each for some in deliveries.values() for each in some if each.destination == name)

"""The states of a delivery, and every change from one to another.

    made ──▶ waiting ──promoted──▶ due ──────claimed──────▶ in flight ──delivered──▶ delivered
      └────────────────────────────▲ ▲ ◀──retried·gone·lost────┘ └──────dead───────▶ dead
                                   │ └─────────────────revived──────────────────────┘ │
                                   └───────────────────revived──── dropped ◀─dropped──┘
                                                                    ▲
                                            waiting, due ──dropped──┘

    waiting     pending, no `due_at`: another delivery of its reference goes first
    due         pending, `due_at` says from when on it may be claimed
    in flight   pending, due, and claimed by a row of `claims` that has not run out
    delivered · dead · dropped     over, with `finished_at`

A claim that has run out stays until somebody looks: its attempt was lost with its worker.
"""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, String, and_, bindparam, case, exists, or_, select, update

from app.deliveries.tables import PENDING, Claimed, Delivery, DeliveryStatus, Destination

WAITS = Delivery.due_at.is_(None)
HAS_TIME = Delivery.due_at.is_not(None)

OF_DELIVERY = and_(Claimed.destination == Delivery.destination, Claimed.delivery_id == Delivery.id)
CLAIMED_BEFORE = Delivery.claimed_by.is_not(None)
"""Selects deliveries that a worker of a release before migration 0011 has claimed."""

UNCLAIMED = and_(Delivery.claimed_by.is_(None), ~exists().where(OF_DELIVERY))
NOT_CLAIMED: dict[str, Any] = {"claimed_by": None, "claimed_at": None}


def in_flight(now: datetime) -> ColumnElement[bool]:
    """Selects, of pending deliveries, those that a worker is sending now."""
    before = and_(CLAIMED_BEFORE, HAS_TIME, Delivery.due_at > now)
    return or_(before, exists().where(OF_DELIVERY, Claimed.ends_at > now))


def first_due(which: ColumnElement[bool]) -> ColumnElement[datetime | None]:
    """When the first delivery of a destination that no worker has claimed is due; of live or of replayed ones."""
    return _first(Delivery.due_at, which)


def first_delivery(which: ColumnElement[bool]) -> ColumnElement[UUID | None]:
    """The delivery whose time `first_due` gives."""
    return _first(Delivery.id, which)


def _first(column: Any, which: ColumnElement[bool]) -> ColumnElement[Any]:
    due = (Delivery.destination == Destination.name, PENDING, HAS_TIME, which, ~exists().where(OF_DELIVERY))
    return select(column).where(*due).order_by(Delivery.due_at).limit(1).scalar_subquery()


class Change(NamedTuple):
    """The new state of a delivery that is not claimed, or whose claim ends with it."""

    status: DeliveryStatus
    due_at: datetime | None
    finished_at: datetime | None

    def values(self) -> dict[str, Any]:
        """The values of an UPDATE."""
        return NOT_CLAIMED | {"status": self.status.value, "due_at": self.due_at, "finished_at": self.finished_at}


def delivered(*, now: datetime) -> Change:
    """The destination got the event."""
    return Change(DeliveryStatus.DELIVERED, None, now)


def dead(*, now: datetime) -> Change:
    """Its last attempt has failed."""
    return Change(DeliveryStatus.DEAD, None, now)


def dropped(*, now: datetime) -> Change:
    """A person gave the delivery up."""
    return Change(DeliveryStatus.DROPPED, None, now)


def retried(*, at: datetime) -> Change:
    """It is due again at this time."""
    return Change(DeliveryStatus.PENDING, at, None)


def gone(*, now: datetime) -> Change:
    """It is due at once, but a destination that answers 410 Gone is paused, so it waits until a person resumes that."""
    return Change(DeliveryStatus.PENDING, now, None)


def revived() -> dict[str, Any]:
    """A person retries a dead or dropped delivery: the values of an UPDATE that puts it back into the queue."""
    again = Change(DeliveryStatus.PENDING, None, None)
    return again.values() | {"attempts_before": Delivery.attempts}


END = (
    update(Delivery)
    .where(Delivery.id == bindparam("delivery_id"), PENDING)
    .values(
        status=bindparam("new_status", type_=String),
        due_at=bindparam("due"),
        finished_at=bindparam("finished"),
        # After a late success it may be more, since another worker has tried again meanwhile.
        attempts=case((Delivery.attempts > bindparam("number"), Delivery.attempts), else_=bindparam("number")),
        attempts_before=Delivery.attempts_before + bindparam("uncounted"),
        lost=bindparam("losses"),
        first_started_at=bindparam("started"),
        first_duration_ms=bindparam("duration"),
        first_status=bindparam("answered"),
        first_answer=bindparam("answer"),
        **NOT_CLAIMED,
    )
)
LOSE = (
    update(Delivery)
    .where(Delivery.id == bindparam("delivery_id"), PENDING)
    .values(
        due_at=bindparam("due"),
        attempts=bindparam("number"),
        attempts_before=Delivery.attempts_before + 1,
        lost=bindparam("losses"),
        **NOT_CLAIMED,
    )
)

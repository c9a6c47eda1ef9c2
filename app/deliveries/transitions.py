"""The states of a delivery, and every change from one to another.

    made ──▶ waiting ──promoted──▶ due ──────claimed──────▶ in flight ──delivered──▶ delivered
      └────────────────────────────▲ ▲ ◀──retried·gone·lost────┘ └──────dead───────▶ dead
                                   │ └─────────────────revived──────────────────────┘ │
                                   └───────────────────revived──── dropped ◀─dropped──┘
                                                                    ▲
                                            waiting, due ──dropped──┘

    waiting     pending, no `due_at`: another delivery of its reference goes first
    due         pending, `due_at` says from when on it may be claimed
    in flight   pending, `claimed_by`, `due_at` in the future says when the claim ends
    delivered · dead · dropped     over, with `finished_at`

A delivery that is due and still has `claimed_by` is one whose claim has run out: its attempt was lost with its worker.
"""

from datetime import datetime
from typing import Any, NamedTuple, Protocol

from sqlalchemy import BindParameter, ColumnElement, String, and_, bindparam, or_, update

from app.deliveries.tables import PENDING, Delivery, DeliveryStatus

CLAIMED = Delivery.claimed_by.is_not(None)
UNCLAIMED = Delivery.claimed_by.is_(None)
WAITS = Delivery.due_at.is_(None)
HAS_TIME = Delivery.due_at.is_not(None)

NOT_CLAIMED: dict[str, Any] = {"claimed_by": None, "claimed_at": None}


def in_flight(now: datetime | BindParameter[Any]) -> ColumnElement[bool]:
    """Selects, of pending deliveries, those that a worker is sending now."""
    return and_(CLAIMED, Delivery.due_at > now)


def idle(now: datetime) -> ColumnElement[bool]:
    """Selects, of pending deliveries, those that no worker is sending now."""
    return or_(UNCLAIMED, WAITS, Delivery.due_at <= now)


class Claimable(Protocol):
    """The columns of a delivery that say whether it is in flight."""

    @property
    def claimed_by(self) -> str | None: ...

    @property
    def due_at(self) -> datetime | None: ...


def is_in_flight(delivery: Claimable, *, now: datetime) -> bool:
    """Whether a worker is sending the delivery now; `in_flight` for a row that was read."""
    return delivery.claimed_by is not None and delivery.due_at is not None and delivery.due_at > now


class Change(NamedTuple):
    """The new state of a delivery. It ends the delivery's claim, if there is one."""

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


CLAIM = (
    update(Delivery)
    .where(Delivery.id.in_(bindparam("ids", expanding=True)))
    .values(
        claimed_by=bindparam("worker"),
        claimed_at=bindparam("at"),
        due_at=bindparam("until"),
        attempts=Delivery.attempts + 1,
    )
)
END = (
    update(Delivery)
    .where(
        Delivery.id == bindparam("delivery_id"),
        PENDING,
        # After its claim has run out, another worker may have claimed it; then only a success counts.
        or_(
            and_(Delivery.claimed_by == bindparam("worker"), Delivery.attempts == bindparam("number")),
            bindparam("new_status", type_=String) == DeliveryStatus.DELIVERED.value,
        ),
    )
    .values(
        status=bindparam("new_status"),
        due_at=bindparam("due"),
        finished_at=bindparam("finished"),
        lost=bindparam("losses"),
        attempts_before=Delivery.attempts_before + bindparam("uncounted"),
        **NOT_CLAIMED,
    )
)
LOSE = (
    update(Delivery)
    .where(Delivery.id == bindparam("delivery_id"))
    .values(
        due_at=bindparam("due"),
        attempts_before=Delivery.attempts_before + 1,
        lost=bindparam("losses"),
        **NOT_CLAIMED,
    )
)

"""The states of a delivery, and every change from one to another.

    made ──▶ waiting ──promoted──▶ due ──────claimed──────▶ in flight ──delivered──▶ delivered
      └────────────────────────────▲ ▲ ◀──retried·gone·lost────┘ └──────dead───────▶ dead
                                   │ └─────────────────revived──────────────────────┘ │
                                   └───────────────────revived──── dropped ◀─dropped──┘
                                                                    ▲
                                            waiting, due ──dropped──┘

    waiting     pending, no `due_at`: another delivery of its reference goes first
    due         pending, `due_at`: it may be claimed from then on
    in flight   pending, `claimed_by`, `due_at` in the future: when the claim ends
    delivered · dead · dropped     over, with `finished_at`

A claim that has run out leaves a delivery due that still says who claimed it: its attempt was lost with its worker.
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
    """Of pending deliveries, those that a worker sends now."""
    return and_(CLAIMED, Delivery.due_at > now)


def idle(now: datetime) -> ColumnElement[bool]:
    """Of pending deliveries, all others."""
    return or_(UNCLAIMED, WAITS, Delivery.due_at <= now)


class Claimable(Protocol):
    """A row of a delivery, as far as it says whether the delivery is in flight."""

    @property
    def claimed_by(self) -> str | None: ...

    @property
    def due_at(self) -> datetime | None: ...


def is_in_flight(delivery: Claimable, *, now: datetime) -> bool:
    """As `in_flight`, of a row that was read."""
    return delivery.claimed_by is not None and delivery.due_at is not None and delivery.due_at > now


class Change(NamedTuple):
    """What a delivery becomes when its claim, if it has one, ends."""

    status: DeliveryStatus
    due_at: datetime | None
    finished_at: datetime | None

    def values(self) -> dict[str, Any]:
        """For an UPDATE."""
        return NOT_CLAIMED | {"status": self.status.value, "due_at": self.due_at, "finished_at": self.finished_at}


def delivered(*, now: datetime) -> Change:
    """The destination has it."""
    return Change(DeliveryStatus.DELIVERED, None, now)


def dead(*, now: datetime) -> Change:
    """The last of its attempts has failed."""
    return Change(DeliveryStatus.DEAD, None, now)


def dropped(*, now: datetime) -> Change:
    """A person gave it up."""
    return Change(DeliveryStatus.DROPPED, None, now)


def retried(*, at: datetime) -> Change:
    """It is tried again from then on."""
    return Change(DeliveryStatus.PENDING, at, None)


def gone(*, now: datetime) -> Change:
    """It waits for a person: a destination that answers 410 Gone is paused, and the delivery goes first afterwards."""
    return Change(DeliveryStatus.PENDING, now, None)


def revived() -> dict[str, Any]:
    """A person asks for a dead or dropped one again: the values for an UPDATE, after which it waits in its turn."""
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
        # A claim that ran out may be another worker's by now; only a success counts then.
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

"""The tables of deliveries, their attempts, destinations and replays."""

from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ColumnElement,
    Index,
    LargeBinary,
    and_,
    case,
    func,
    literal_column,
    or_,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Base, UTCDateTime


class DeliveryStatus(StrEnum):
    """Pending until it is delivered, all its attempts failed, or a person dropped it."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    DROPPED = "dropped"


class ReplayStatus(StrEnum):
    """Running and paused replays can go on; cancelled and done ones have ended."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


class AttemptResult(StrEnum):
    """The result of an attempt.

    Three results are answers: delivered (2xx), gone (410) and refused (any other status, or an exception of a Python
    function). Three mean that no answer came: unreachable (no connection, a broken one, or no process for the
    function), timed out (also while connecting) and lost. A lost attempt ended with its process; it may have succeeded.
    """

    DELIVERED = "delivered"
    REFUSED = "refused"
    GONE = "gone"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    LOST = "lost"


def _index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(name, *columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


class PassedOver(Base):
    """An undispatched event that a destination does not get: it was stored before the destination became known."""

    __tablename__ = "passed_over"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    destination: Mapped[str] = mapped_column(primary_key=True)


class Destination(Base):
    """The state of a destination; its URL and limits are in the settings.

    All code that makes, claims or ends deliveries of a destination locks its row. This keeps the order of each
    reference, and makes `max_in_flight` and `rate` count for all workers together.
    """

    __tablename__ = "destinations"

    name: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str | None]
    """The URL of a replay to a URL; None for a destination of the settings."""
    since: Mapped[datetime] = mapped_column(UTCDateTime)
    """When it was registered, for people to read. `PassedOver` decides which events it does not get."""
    paused_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    paused_reason: Mapped[str | None]
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    """Failed attempts since the last success."""
    failing_since: Mapped[datetime | None] = mapped_column(UTCDateTime)
    probe_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """While the circuit is open: when one delivery may be tried."""
    next_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When `rate` allows the next attempt."""
    certificate_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """The end of its certificate, as the last connection met it."""
    unusable_reason: Mapped[str | None]
    """Why the worker that started last cannot use its settings."""


class Delivery(Base):
    """One event for one destination."""

    __tablename__ = "deliveries"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    """A UUIDv7, which holds the time when the delivery was made."""
    event_id: Mapped[UUID]
    destination: Mapped[str]
    reference: Mapped[str | None]
    """The event's reference. Deliveries of one reference go one after the other."""
    replay_id: Mapped[UUID | None]
    """The replay that made it; None for a live delivery. Live deliveries go first."""
    status: Mapped[str] = mapped_column(server_default=DeliveryStatus.PENDING.value)
    due_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When it may be claimed. None while it waits for another delivery of its reference."""
    claimed_by: Mapped[str | None]
    """The worker that sends it now, if it is one of a release before migration 0011; `due_at` is then when its claim
    ends, and `attempts` counts the attempt under way."""
    claimed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    """How many attempts are over."""
    attempts_before: Mapped[int] = mapped_column(server_default=text("0"))
    """How many attempts do not count towards dead: those before a person's retry, and those lost without its fault."""
    lost: Mapped[int] = mapped_column(server_default=text("0"))
    """How many attempts in a row were lost with their process. Above 0 it is sent alone, as it may be to blame."""
    finished_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    first_started_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When the first attempt began, if it delivered the event. It has no row in `attempts` then."""
    first_duration_ms: Mapped[int | None]
    first_status: Mapped[int | None]
    first_answer: Mapped[bytes | None] = mapped_column(LargeBinary)

    __table_args__ = (
        CheckConstraint("status IN ('pending', 'delivered', 'dead', 'dropped')", name="status"),
        _index("uq_deliveries_live", "event_id", "destination", where="replay_id IS NULL", unique=True),
        _index("uq_deliveries_replay", "replay_id", "event_id", where="replay_id IS NOT NULL", unique=True),
        _index("ix_deliveries_replay", "replay_id", where="status = 'pending' AND replay_id IS NOT NULL"),
        _index("ix_deliveries_event", "event_id", where="replay_id IS NOT NULL"),
        _index(
            "ix_deliveries_due",
            "destination",
            "due_at",
            where="status = 'pending' AND replay_id IS NULL AND due_at IS NOT NULL",
        ),
        _index(
            "ix_deliveries_due_replay",
            "destination",
            "due_at",
            where="status = 'pending' AND replay_id IS NOT NULL AND due_at IS NOT NULL",
        ),
        _index(
            "ix_deliveries_first",
            "destination",
            "reference",
            where="status = 'pending' AND reference IS NOT NULL AND due_at IS NOT NULL",
        ),
        _index(
            "ix_deliveries_waiting",
            "destination",
            "reference",
            "replay_id",
            "event_id",
            where="status = 'pending' AND reference IS NOT NULL AND due_at IS NULL",
        ),
        _index("ix_deliveries_failing", "destination", "id", where="status = 'pending' AND attempts > 0"),
        # For workers of a release before migration 0011, which would otherwise read all deliveries of a destination.
        _index("ix_deliveries_claimed", "destination", "claimed_by", where="claimed_by IS NOT NULL"),
        _index("ix_deliveries_dead", "destination", "id", where="status = 'dead'"),
        Index("ix_deliveries_destination", "destination", "id"),
        _index("ix_deliveries_dropped", "id", where="status = 'dropped'"),
    )


PENDING = Delivery.status == literal_column("'pending'")
FAILING = and_(PENDING, Delivery.attempts > literal_column("0"))
"""Deliveries whose last attempt failed and that are tried again. The later ones of their references wait."""

DEAD = Delivery.status == literal_column("'dead'")
DROPPED = Delivery.status == literal_column("'dropped'")
"""Literals, here and above: with parameters, neither database would use its partial indexes."""

LIVE, REPLAYED = Delivery.replay_id.is_(None), Delivery.replay_id.is_not(None)
"""Deliveries that dispatch made, and those of replays: most indexes have only one or the other."""

PENDING_PARTS = (
    and_(PENDING, Delivery.due_at.is_(None), Delivery.reference.is_not(None)),
    and_(PENDING, Delivery.due_at.is_not(None), Delivery.replay_id.is_(None)),
    and_(PENDING, Delivery.due_at.is_not(None), Delivery.replay_id.is_not(None)),
)
"""All pending deliveries, in parts that each have an index: those that wait for another, live ones, replayed ones."""


class Claimed(Base):
    """A claim: a worker alone may send the delivery, until the claim ends.

    It is a row of its own so that a delivery is written only twice: when it is made and when its attempt is over.
    """

    __tablename__ = "claims"

    destination: Mapped[str] = mapped_column(primary_key=True)
    delivery_id: Mapped[UUID] = mapped_column(primary_key=True)
    worker: Mapped[str]
    attempt: Mapped[int]
    """The number of the attempt."""
    lost: Mapped[int]
    """As the delivery's. Above 0 nothing else may be sent meanwhile."""
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime] = mapped_column(UTCDateTime)

    __table_args__ = ({"sqlite_with_rowid": False},)


class Attempt(Base):
    """One finished attempt of a delivery, unless it was the first and delivered the event."""

    __tablename__ = "attempts"

    delivery_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """From 1; sent as `Priohook-Attempt`."""
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    duration_ms: Mapped[int | None]
    """None if its worker ended before it knew the answer."""
    status: Mapped[int | None]
    """The HTTP status of the answer; None if there was no answer."""
    result: Mapped[str | None]
    """An `AttemptResult`; None if a release before migration 0008 wrote the row: see `RESULT`."""
    error: Mapped[str | None]
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The first 2 KiB of the answer's body."""


_ENDED_PROCESS = ("The function's process ended", "It did not return in time and held up")
_TOOK_TOO_LONG = ("It did not answer within", "It did not return within", "It could not be connected to within")


def _error_begins(*beginnings: str) -> ColumnElement[bool]:
    return or_(*(Attempt.error.startswith(beginning) for beginning in beginnings))


RESULT = func.coalesce(
    Attempt.result,
    case(
        (Attempt.status.between(200, 299), AttemptResult.DELIVERED.value),
        (Attempt.status == HTTPStatus.GONE, AttemptResult.GONE.value),
        (Attempt.status.is_not(None), AttemptResult.REFUSED.value),
        (or_(Attempt.duration_ms.is_(None), _error_begins(*_ENDED_PROCESS)), AttemptResult.LOST.value),
        (_error_begins(*_TOOK_TOO_LONG), AttemptResult.TIMED_OUT.value),
        (Attempt.answer.is_not(None), AttemptResult.REFUSED.value),  # the traceback of a function
        else_=AttemptResult.UNREACHABLE.value,
    ),
)
"""The result of an attempt. If a release before migration 0008 wrote the row, it follows from the other columns."""


class Replay(Base):
    """A replay: which events, where to, how fast, and how far it has come."""

    __tablename__ = "replays"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    destination: Mapped[str]
    narrowed: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The filter as fields of `EventFilter`; empty if ids were given, which `ReplayEvent` holds."""
    rate: Mapped[float]
    """The most deliveries that are made in a second."""
    status: Mapped[str] = mapped_column(server_default=ReplayStatus.RUNNING.value)
    events: Mapped[int]
    """How many events the plan counted."""
    made: Mapped[int] = mapped_column(server_default=text("0"))
    """How many deliveries were made so far."""
    last_event_id: Mapped[UUID | None]
    """The last event that got its delivery; the replay goes on after it."""
    next_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    __table_args__ = (
        CheckConstraint("status IN ('running', 'paused', 'cancelled', 'done')", name="status"),
        _index("ix_replays_running", "id", where="status = 'running'"),
    )


class ReplayEvent(Base):
    """One event of a replay that was asked for by ids."""

    __tablename__ = "replay_events"

    replay_id: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(primary_key=True)

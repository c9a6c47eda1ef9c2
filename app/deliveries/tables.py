"""What is to be delivered where, what came of it, and the replays that people asked for."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, CheckConstraint, Index, LargeBinary, and_, literal_column, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Base, UTCDateTime


class DeliveryStatus(StrEnum):
    """Pending until it is delivered, all its attempts failed, or a person dropped it."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    DROPPED = "dropped"


class ReplayStatus(StrEnum):
    """Running and paused ones go on; the others have ended."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


class AttemptResult(StrEnum):
    """What an attempt was.

    Delivered, gone and refused are answers: 2xx, 410, and any other status or an exception of a Python handler.
    The others have none: unreachable (no connection, or one that broke, or no process for the handler), timed out
    (while it connected too), and lost with the process that made it, which may have done everything but say so.
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


class Undispatched(Base):
    """An accepted event that has no deliveries yet.

    A trigger on `events` writes it in the transaction that stores the event: no clock and no order of commits can make
    dispatch overlook one, and the receiver's statement stays as it is.
    """

    __tablename__ = "undispatched"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)


class PassedOver(Base):
    """An undispatched event that a destination does not get: it was stored before the destination became known."""

    __tablename__ = "passed_over"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    destination: Mapped[str] = mapped_column(primary_key=True)


class Destination(Base):
    """What is known of a destination at run time; its URL and limits are settings.

    Whoever makes, claims or ends deliveries of a destination holds its row's lock: that is what keeps the order of each
    reference, and `max_in_flight` and `rate` for all workers together.
    """

    __tablename__ = "destinations"

    name: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str | None]
    """Of a replay's own destination, which is in no settings."""
    since: Mapped[datetime] = mapped_column(UTCDateTime)
    """When it became known, for people; `PassedOver` says which events are a replay's, if anybody asks for one."""
    paused_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    paused_reason: Mapped[str | None]
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    """Failed attempts since the last success."""
    failing_since: Mapped[datetime | None] = mapped_column(UTCDateTime)
    probe_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """While the circuit is open: when one delivery may try."""
    next_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When `rate` allows the next attempt."""


class Delivery(Base):
    """One event for one destination."""

    __tablename__ = "deliveries"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    """A UUIDv7: it says when the delivery was made."""
    event_id: Mapped[UUID]
    destination: Mapped[str]
    reference: Mapped[str | None]
    """The event's: deliveries with one go one after the other."""
    replay_id: Mapped[UUID | None]
    """The replay that asked for it; live ones go first."""
    status: Mapped[str] = mapped_column(server_default=DeliveryStatus.PENDING.value)
    due_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When it may be claimed. None behind another of its reference; while it is claimed, when the claim ends."""
    claimed_by: Mapped[str | None]
    """The worker that sends it now."""
    claimed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    """Those begun."""
    attempts_before: Mapped[int] = mapped_column(server_default=text("0"))
    """Those that do not count towards dead: begun before a person asked for it again, or lost without its fault."""
    lost: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts in a row that ended with their process; above 0 it is tried alone, as it may be to blame."""
    finished_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    __table_args__ = (
        CheckConstraint("status IN ('pending', 'delivered', 'dead', 'dropped')", name="status"),
        _index("uq_deliveries_live", "event_id", "destination", where="replay_id IS NULL", unique=True),
        _index("uq_deliveries_replay", "replay_id", "event_id", where="replay_id IS NOT NULL", unique=True),
        _index("ix_deliveries_replay", "replay_id", where="status = 'pending' AND replay_id IS NOT NULL"),
        Index("ix_deliveries_event", "event_id"),
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
        _index("ix_deliveries_claimed", "destination", "claimed_by", where="claimed_by IS NOT NULL"),
        _index("ix_deliveries_dead", "destination", "id", where="status = 'dead'"),
        Index("ix_deliveries_destination", "destination", "id"),
        _index("ix_deliveries_dropped", "id", where="status = 'dropped'"),
    )


PENDING = Delivery.status == literal_column("'pending'")
DEAD = Delivery.status == literal_column("'dead'")
DROPPED = Delivery.status == literal_column("'dropped'")
"""Written out, as neither database would use its partial indexes for a parameter."""

PENDING_PARTS = (
    and_(PENDING, Delivery.due_at.is_(None), Delivery.reference.is_not(None)),
    and_(PENDING, Delivery.due_at.is_not(None), Delivery.replay_id.is_(None)),
    and_(PENDING, Delivery.due_at.is_not(None), Delivery.replay_id.is_not(None)),
)
"""All that is pending, in parts that each have an index: what waits behind another one, live ones, those of replays."""


class Attempt(Base):
    """One try of a delivery, over."""

    __tablename__ = "attempts"

    delivery_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """From 1; `Priohook-Attempt`."""
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    duration_ms: Mapped[int | None]
    """None where its worker ended before it knew the answer."""
    status: Mapped[int | None]
    """The answer's HTTP status, where there was an answer."""
    result: Mapped[str | None]
    """An `AttemptResult`; None if a release before migration 0008 wrote the row: see `queries.RESULT`."""
    error: Mapped[str | None]
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Its first 2 KiB."""


class Replay(Base):
    """A bulk replay: which events, to where, how fast, and how far it is."""

    __tablename__ = "replays"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    destination: Mapped[str]
    narrowed: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The filter, as `EventFilter`'s fields; empty where ids were given, see `ReplayEvent`."""
    rate: Mapped[float]
    """Deliveries made a second, at most."""
    status: Mapped[str] = mapped_column(server_default=ReplayStatus.RUNNING.value)
    events: Mapped[int]
    """How many the plan counted."""
    made: Mapped[int] = mapped_column(server_default=text("0"))
    """Deliveries made so far."""
    last_event_id: Mapped[UUID | None]
    """The last event that has its delivery: where an interrupted replay goes on."""
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

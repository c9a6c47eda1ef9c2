"""The inbox: one row for each webhook, as it was received, and for each order, as it was fetched."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ColumnElement, Dialect, Index, LargeBinary, func, literal, text
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from app.database.columns import Base, UTCDateTime


class Status(StrEnum):
    """Whether an event was accepted, or authenticated but refused."""

    ACCEPTED = "accepted"
    QUARANTINED = "quarantined"


class Origin(StrEnum):
    """How an event came: from a client, fetched from Prioticket's API, or both with the same bytes."""

    RECEIVED = "received"
    FETCHED = "fetched"
    BOTH = "both"


class HeaderBlock(TypeDecorator[list[list[str]]]):
    """Headers, stored as lines of `name: value`, which takes less time than JSON, and read as pairs.

    Latin-1 keeps every byte (RFC 9110, section 5.5).
    """

    impl = LargeBinary
    cache_ok = True

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> list[list[str]] | None:  # noqa: ARG002
        return None if value is None else header_pairs(value)


def header_pairs(block: bytes) -> list[list[str]]:
    """Pairs of name and value from lines of `name: value`."""
    return [line.split(": ", 1) for line in block.decode("latin-1").split("\r\n") if line]


class Event(Base):
    """One webhook as received, or one order as fetched.

    The bytes, headers and time never change, except that an erasure takes bytes and headers away; a trigger refuses
    everything else. Four things can change: the count of copies, the status (by a release from quarantine), the key of
    a notification without an id, and the origin with its cause.
    """

    __tablename__ = "events"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    """A UUIDv7: ids sort by the time of arrival."""
    received_at: Mapped[datetime] = mapped_column(UTCDateTime)
    client: Mapped[str]
    status: Mapped[str]
    reason: Mapped[str | None]
    """Why it is quarantined: the HTTP status of the refusal and a sentence."""

    type: Mapped[str | None]
    """What happened: see docs/receiving.md."""
    event_name: Mapped[str | None]
    """The name under which the sender announced the event, if that is not the type."""
    reference: Mapped[str | None]
    order_version: Mapped[int | None] = mapped_column(BigInteger)
    order_modified: Mapped[datetime | None] = mapped_column(UTCDateTime)
    notification_id: Mapped[str | None]
    api_version: Mapped[str | None]
    shape: Mapped[str | None]

    address: Mapped[str | None]
    """The sender's, or what a trusted proxy says of it. With the two below, None if an earlier release stored it."""
    request_id: Mapped[str | None]
    """As in the answer's `X-Request-Id` and in the log."""
    trace: Mapped[str | None]
    """The `traceparent` of the request's span, W3C Trace Context. None if it follows from the request's id: `TRACE`."""

    headers: Mapped[list[list[str]]] = mapped_column(HeaderBlock)
    """Pairs of name and value in the order of arrival, without the headers that carry credentials."""
    body: Mapped[bytes] = mapped_column(LargeBinary)
    """The bytes as they arrived, still in their content coding. Of a larger body than is kept whole, 64 KiB."""
    body_bytes: Mapped[int] = mapped_column(BigInteger)
    """The size that arrived or was declared; of a body over the limit, it may be more than `body` holds."""

    dedup_key: Mapped[bytes] = mapped_column(LargeBinary)
    """16 bytes, the same for all copies of one event. The event's own id once it can have no more copies.

    They begin with a time that all copies carry: random keys would change another page of the index for each event.
    """
    duplicates: Mapped[int] = mapped_column(server_default=text("0"))
    """How many further copies arrived."""
    last_duplicate_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    released_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    erased_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When the body, and all else that may name a person, was taken away."""
    body_sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The SHA-256 of an erased body, as it was stored."""

    origin: Mapped[str] = mapped_column(server_default=Origin.RECEIVED.value)
    """An `Origin`."""
    cause: Mapped[UUID | None]
    """The notification because of which it was fetched."""
    fetched_for: Mapped[str | None]
    """Why it was fetched, if no notification was the cause."""

    position: Mapped[int | None] = mapped_column(BigInteger)
    """On PostgreSQL a number of a sequence; None for older events, and on SQLite. See `app.events.positions`."""

    __table_args__ = (
        CheckConstraint("status IN ('accepted', 'quarantined')", name="status"),
        Index("uq_events_dedup_key", "dedup_key", unique=True),
        Index(
            "ix_events_reference_id",
            "reference",
            "id",
            postgresql_where=text("reference IS NOT NULL"),
            sqlite_where=text("reference IS NOT NULL"),
        ),
        Index(
            "ix_events_type_id",
            "type",
            "id",
            postgresql_where=text("type IS NOT NULL"),
            sqlite_where=text("type IS NOT NULL"),
        ),
        Index(
            "ix_events_event_name_id",
            "event_name",
            "id",
            postgresql_where=text("event_name IS NOT NULL"),
            sqlite_where=text("event_name IS NOT NULL"),
        ),
        Index(
            "ix_events_version",
            "reference",
            "order_version",
            "order_modified",
            postgresql_where=text("reference IS NOT NULL AND order_version IS NOT NULL"),
            sqlite_where=text("reference IS NOT NULL AND order_version IS NOT NULL"),
        ),
        Index(
            "ix_events_notification_id",
            "notification_id",
            "id",
            postgresql_where=text("notification_id IS NOT NULL"),
            sqlite_where=text("notification_id IS NOT NULL"),
        ),
        Index(
            "ix_events_quarantined",
            "id",
            postgresql_where=text("status = 'quarantined'"),
            sqlite_where=text("status = 'quarantined'"),
        ),
        Index(
            "ix_events_position",
            "position",
            postgresql_where=text("position IS NOT NULL"),
            sqlite_where=text("position IS NOT NULL"),
        ),
    )


TRACE: ColumnElement[Any] = func.coalesce(
    Event.trace,
    literal("00-")
    + func.substr(Event.request_id, 1, 10)
    + Event.request_id
    + "-"
    + func.substr(Event.request_id, 7)
    + "-01",
).label("trace")
"""The `traceparent` of an event. One that began with its request is not stored: it would take 5 % of a notification."""


class Undispatched(Base):
    """An accepted event that has no deliveries yet, or that may be wanted by further destinations.

    A trigger on `events` writes it in the transaction that stores the event. So dispatch cannot miss an event, whatever
    the clocks and the order of commits, and the receiver's statement does not change.
    """

    __tablename__ = "undispatched"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)


class DeletedEvent(Base):
    """An event that was deleted for its age. Copies of it may still come: they are counted here and not stored."""

    __tablename__ = "deleted_events"

    dedup_key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    event_id: Mapped[UUID]
    deleted_at: Mapped[datetime] = mapped_column(UTCDateTime)
    duplicates: Mapped[int] = mapped_column(server_default=text("0"))
    """How many copies arrived after it was deleted."""
    last_duplicate_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    __table_args__ = (Index("ix_deleted_events_deleted_at", "deleted_at"), {"sqlite_with_rowid": False})

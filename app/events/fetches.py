"""The tables of fetches: which orders to ask Prioticket for, because notifications without payload announced them.

due ──claimed──▶ fetching ──stored──▶ done
▲                  │ │ └───refused──▶ refused
└──stale·waiting───┘ └──gave up─────▶ dead

due         `due_at` says from when on it may be claimed; a reference has one such row at most, and every further
notification becomes a cause of it
fetching    a worker asks now; if `ends_at` has passed, that worker has died
done        `snapshot_id` is the event that holds the order
refused     Prioticket said no, as `error` tells; it is not asked again
dead        Prioticket could not be asked for too long
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Base, UTCDateTime


class FetchStatus(StrEnum):
    """See the states above."""

    DUE = "due"
    FETCHING = "fetching"
    DONE = "done"
    REFUSED = "refused"
    DEAD = "dead"


def _index(name: str, column: str, where: str, *, unique: bool = False) -> Index:
    condition = text(where)
    return Index(name, column, unique=unique, postgresql_where=condition, sqlite_where=condition)


class Fetch(Base):
    """One order to ask Prioticket for, and the outcome."""

    __tablename__ = "fetches"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    """A UUIDv7, which holds the time when the first notification was dispatched."""
    reference: Mapped[str]
    """The order's; of a payment's notification it may be the id of the payment."""
    status: Mapped[str] = mapped_column(server_default=FetchStatus.DUE.value)
    due_at: Mapped[datetime] = mapped_column(UTCDateTime)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    """How often Prioticket was asked."""
    stale: Mapped[int] = mapped_column(server_default=text("0"))
    """How many answers were older than the notification."""
    worker: Mapped[str | None]
    """The worker that asks now."""
    ends_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When that worker's claim ends."""
    finished_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    error: Mapped[str | None]
    """Why the last attempt failed."""
    snapshot_id: Mapped[UUID | None]
    """The event that holds the order."""

    __table_args__ = (
        CheckConstraint("status IN ('due', 'fetching', 'done', 'refused', 'dead')", name="status"),
        _index("uq_fetches_due", "reference", "status = 'due'", unique=True),
        _index("ix_fetches_due", "due_at", "status = 'due'"),
        _index("ix_fetches_fetching", "reference", "status = 'fetching'"),
        _index("ix_fetches_snapshot", "snapshot_id", "snapshot_id IS NOT NULL"),
    )


class FetchCause(Base):
    """A notification, and the fetch that it caused."""

    __tablename__ = "fetch_causes"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    fetch_id: Mapped[UUID]

    __table_args__ = (Index("ix_fetch_causes_fetch_id", "fetch_id"),)


class FetchPace(Base):
    """One row: what all workers together must keep to when they ask Prioticket."""

    __tablename__ = "fetch_pace"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Always 1."""
    next_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When `rate` allows the next fetch."""
    refused_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """Since when Prioticket has given no token."""
    refused_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When one worker may try again."""

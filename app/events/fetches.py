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

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Base, UTCDateTime
from app.database.writing import insert_new
from app.events.ids import new_id
from app.events.tables import Event

AFTER = timedelta(seconds=2)
"""How long a fetch waits after its first notification, so that further ones of the order need none of their own."""

FETCH_LOCK = 7_092_717_265
"""An arbitrary number, the same in all processes: what changes fetches happens one after the other."""


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
        _index("ix_fetches_finished", "finished_at", "finished_at IS NOT NULL"),
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


FAILED = (FetchStatus.REFUSED.value, FetchStatus.DEAD.value)


class Outcome(NamedTuple):
    """What became of the fetch of a notification's order, for people to read."""

    status: str
    due_at: datetime
    attempts: int
    error: str | None
    snapshot_id: UUID | None


async def refused_since(connection: AsyncConnection) -> datetime | None:
    """Since when Prioticket has refused the credentials with which orders are fetched; None if it does not."""
    return await connection.scalar(select(FetchPace.refused_at))


async def lock_fetches(connection: AsyncConnection) -> None:
    """Makes this transaction the only one that changes fetches. On SQLite it is the only one that writes anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(FETCH_LOCK)))


def is_uuid(reference: str) -> bool:
    """Whether a reference is a UUID, as Prioticket's ids of payments are, and those of orders are not."""
    try:
        return str(UUID(reference)) == reference.lower()
    except ValueError:
        return False


def announces_order(event_type: str | None, shape: str | None, reference: str | None) -> bool:
    """Whether an accepted event is a notification without payload, whose order can be fetched by the reference."""
    if shape != "notification" or event_type is None or reference is None:
        return False
    if event_type.startswith("PAYMENT_"):
        return True
    return (event_type.startswith(("ORDER_", "VOUCHER_")) or event_type == "REDEMPTION") and not is_uuid(reference)


async def ask_for(connection: AsyncConnection, notifications: Mapping[UUID, str], *, now: datetime) -> None:
    """Makes a fetch for each reference, unless one is due that has not begun. Does not commit.

    Args:
        connection: In a transaction that may write.
        notifications: The reference of each notification.
        now: The time.
    """
    if not notifications:
        return
    await lock_fetches(connection)
    references = sorted(set(notifications.values()))
    # Not from the arrival on: of a backlog, notifications that are dispatched soon after each other share a fetch.
    fetches = [{"id": new_id(), "reference": reference, "due_at": now + AFTER} for reference in references]
    await insert_new(connection, Fetch, fetches)
    due = select(Fetch.reference, Fetch.id).where(
        Fetch.status == FetchStatus.DUE.value, Fetch.reference.in_(references)
    )
    ids = {reference: fetch_id for reference, fetch_id in await connection.execute(due)}  # noqa: C416 - for mypy a row is not a pair
    causes = [{"event_id": event_id, "fetch_id": ids[notifications[event_id]]} for event_id in sorted(notifications)]
    await insert_new(connection, FetchCause, causes)


async def asked_for(connection: AsyncConnection, notifications: Collection[UUID]) -> dict[UUID, str]:
    """Of these notifications, those that have a fetch, each with its status."""
    if not notifications:
        return {}
    query = (
        select(FetchCause.event_id, Fetch.status)
        .join(Fetch, Fetch.id == FetchCause.fetch_id)
        .where(FetchCause.event_id.in_(sorted(notifications)))
    )
    return {event_id: status for event_id, status in await connection.execute(query)}  # noqa: C416 - as above


async def announced_as(connection: AsyncConnection, snapshots: Sequence[UUID]) -> dict[UUID, set[str]]:
    """The types of the notifications for which each of these events was fetched."""
    names: dict[UUID, set[str]] = {}
    query = (
        select(Fetch.snapshot_id, Event.type)
        .join(FetchCause, FetchCause.fetch_id == Fetch.id)
        .join(Event, Event.id == FetchCause.event_id)
        .where(Fetch.snapshot_id.in_(snapshots))
    )
    for snapshot_id, event_type in await connection.execute(query):
        if snapshot_id is not None and event_type is not None:
            names.setdefault(snapshot_id, set()).add(event_type)
    return names


async def outcome_of(connection: AsyncConnection, event_id: UUID) -> Outcome | None:
    """What became of the fetch of a notification's order; None if there is none."""
    return (await outcomes_of(connection, [event_id])).get(event_id)


async def outcomes_of(connection: AsyncConnection, notifications: Sequence[UUID]) -> dict[UUID, Outcome]:
    """What became of the fetches of these notifications' orders; those without a fetch are left out."""
    if not notifications:
        return {}
    shown = (Fetch.status, Fetch.due_at, Fetch.attempts, Fetch.error, Fetch.snapshot_id)
    query = (
        select(FetchCause.event_id, *shown)
        .join(Fetch, FetchCause.fetch_id == Fetch.id)
        .where(FetchCause.event_id.in_(notifications))
    )
    return {row[0]: Outcome(*row[1:]) for row in await connection.execute(query)}

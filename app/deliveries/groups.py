"""Groups of deliveries that failed alike: what to look at first when thousands have failed."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, cast, exists, func, literal, literal_column, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.columns import ComparedId
from app.database.rows import read
from app.deliveries.queries import BEGUN
from app.deliveries.tables import DEAD, FAILING, PENDING, RESULT, Attempt, Delivery, DeliveryStatus
from app.events.ids import made_at
from app.events.tables import Event

LINE_END: tuple[ColumnElement[str], ColumnElement[str]] = literal_column("chr(10)"), literal_column("char(10)")
"""On PostgreSQL, and on SQLite."""

OF_LAST_ATTEMPT = and_(Attempt.delivery_id == Delivery.id, Attempt.number == Delivery.attempts - BEGUN)


class Alike(NamedTuple):
    """Which deliveries to choose by the outcome of their last attempt; None does not restrict them."""

    result: str | None = None
    answered: int | None = None
    """The status of the answer."""
    type: str | None = None
    """The event's."""
    replay_id: UUID | None = None
    """The replay's that asked for them."""

    @property
    def of_attempt(self) -> bool:
        """Whether only deliveries match that were attempted."""
        return self.result is not None or self.answered is not None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of a WHERE clause."""
        last: list[ColumnElement[bool]] = []
        if self.result is not None:
            last.append(RESULT.in_([self.result]))
        if self.answered is not None:
            last.append(Attempt.status == self.answered)
        found: list[ColumnElement[bool]] = [exists().where(OF_LAST_ATTEMPT, *last)] if last else []
        if self.type is not None:
            found.append(exists().where(Event.id == Delivery.event_id, Event.type == self.type))
        if self.replay_id is not None:
            found.append(Delivery.replay_id == self.replay_id)
        return found


class Group(NamedTuple):
    """Deliveries of one destination whose last attempts ended alike."""

    destination: str
    status: str
    """`dead`, or `pending` if they are tried again."""
    last_result: str | None
    last_status: int | None
    last_error: str | None
    """The first line of it."""
    type: str | None
    deliveries: int
    first: UUID
    """The oldest delivery of them; it serves as an example."""
    last: UUID

    @property
    def first_at(self) -> datetime:
        """When the oldest was made."""
        return made_at(self.first)

    @property
    def last_at(self) -> datetime:
        """When the newest was made."""
        return made_at(self.last)


async def failure_groups(
    connection: AsyncConnection, *, destination: str | None = None, most: int | None = None
) -> list[Group]:
    """Groups of the dead deliveries and of those that have failed and are tried again, the largest first.

    Args:
        connection: A connection to the database.
        destination: Only deliveries to this destination.
        most: How many of the newest dead ones and of the newest failing ones to look at; None for all.
    """
    parts = []
    for which in (DEAD, FAILING):
        query = select(Delivery.id).where(which)
        if destination is not None:
            query = query.where(Delivery.destination == destination)
        if most is not None:
            query = query.order_by(Delivery.id.desc()).limit(most)
        parts.append(select(query.subquery().c.id))
    failed = union_all(*parts).subquery()
    line = _first_line(connection).label("last_error")
    alike = (
        Delivery.destination,
        Delivery.status,
        RESULT.label("last_result"),
        Attempt.status.label("last_status"),
        line,
        Event.type,
    )
    rows = (
        select(*alike, cast(Delivery.id, ComparedId).label("id"))
        .join(failed, failed.c.id == Delivery.id)
        .outerjoin(Attempt, OF_LAST_ATTEMPT)
        .outerjoin(Event, Event.id == Delivery.event_id)
        .subquery()
    )
    names = [rows.c[column.name] for column in alike]
    number = func.count().label("deliveries")
    groups: Select[Any] = (
        select(*names, number, func.min(rows.c.id).label("first"), func.max(rows.c.id).label("last"))
        .group_by(*names)
        .order_by(number.desc(), rows.c.destination)
    )
    return await read(connection, groups, Group)


async def count_alike(
    connection: AsyncConnection, destination: str, status: str, alike: Alike, *, most: int | None = None
) -> int:
    """How many dead or pending deliveries of a destination have ended alike so far; with `most`, at most one more."""
    which = DEAD if status == DeliveryStatus.DEAD else FAILING if alike.of_attempt else PENDING
    query = select(literal(1)).select_from(Delivery)
    some = query.where(Delivery.destination == destination, which, *alike.conditions())
    number = select(func.count()).select_from(some.limit(None if most is None else most + 1).subquery())
    return await connection.scalar(number) or 0


async def oldest_alike(connection: AsyncConnection, destination: str, status: str, alike: Alike) -> UUID | None:
    """The oldest of these deliveries, if there is one that was attempted."""
    which = DEAD if status == DeliveryStatus.DEAD else FAILING
    query = select(Delivery.id).where(Delivery.destination == destination, which, *alike.conditions())
    return await connection.scalar(query.order_by(Delivery.id).limit(1))


def _first_line(connection: AsyncConnection) -> ColumnElement[Any]:
    if connection.dialect.name == "postgresql":
        return func.split_part(Attempt.error, LINE_END[0], literal_column("1"))
    return func.substr(Attempt.error, 1, func.instr(Attempt.error + LINE_END[1], LINE_END[1]) - literal(1))

"""The order in which events are stored.

Ids do not tell it: several receivers, each with its own clock, store events, and the spool stores them later.

Each row of `events` has a position. On SQLite it is the rowid: one transaction writes at a time, so that positions are
in the order of commits. On PostgreSQL it is a number of a sequence, which a transaction takes before it commits. So a
missing position may be one that still comes, or one that was rolled back or deleted: see `writers`. The sequence keeps
no numbers for a session (CACHE 1, the default): such numbers would come after any wait.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Select, literal_column, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns
from app.events.queries import EventFilter, ListedEvent
from app.events.tables import Event

ROWID: ColumnElement[int] = literal_column("events.rowid", Integer)
NOBODY = UUID(int=0)

WRITERS = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted "
    "AND relation = 'events'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@dataclass(slots=True)
class Placed:
    """An event with its position; None if it was stored before positions were. `rendered` is for whoever sends it."""

    position: int | None
    event: ListedEvent
    rendered: bytes | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """How far a reader has come: it has read all events up to this position, of which `id` is the last.

    While it reads what was stored before it came, sorted by id, `older` is true: it has then read the events up to the
    position whose ids are not greater.
    """

    position: int
    id: UUID = NOBODY
    older: bool = False


async def writers(connection: AsyncConnection) -> frozenset[str]:
    """The transactions under way that write events, or may have.

    A transaction has the lock before it takes a position. So once all of those have ended that were under way when a
    position was found to be missing, the position is stored or never will be. Transactions that write other tables, or
    only read, hold nothing up.
    """
    if connection.dialect.name != "postgresql":
        return frozenset()
    return frozenset((await connection.scalars(WRITERS)).all())


async def newest(connection: AsyncConnection) -> Place:
    """The last position that is stored."""
    position = _position(connection)
    query = select(position, Event.id).where(position.is_not(None)).order_by(position.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return Place(0) if row is None else Place(row[0], row[1])


async def stored_after(
    connection: AsyncConnection, position: int, *, limit: int, until: int | None = None
) -> list[Placed]:
    """Events with greater positions, by position."""
    column = _position(connection)
    query = select(column, *columns(Event, ListedEvent)).where(column > position).order_by(column).limit(limit)
    if until is not None:
        query = query.where(column <= until)
    return await _read(connection, query)


async def stored_until(connection: AsyncConnection, place: Place, narrowed: EventFilter, *, limit: int) -> list[Placed]:
    """Events with ids greater than the place's, up to its position or without one, by id."""
    column = _position(connection)
    stored = or_(column.is_(None), column <= place.position)
    where = narrowed.first(Event.id > place.id, stored, limit=limit, ascending=True)
    query = select(column, *columns(Event, ListedEvent)).where(*where).order_by(Event.id).limit(limit)
    return await _read(connection, query)


async def found(connection: AsyncConnection, place: Place, *, head: Place) -> Place:
    """The place in this database, which may have been restored or emptied since the place was noted.

    If another event has the position, or none has it yet, the event is looked for by its id. If it is gone too, what
    follows is sorted by id.
    """
    if place.older:
        return Place(min(place.position, head.position), place.id, older=True)
    column = _position(connection)
    holder = await connection.scalar(select(Event.id).where(column == place.position))
    reached = place.position <= (await newest(connection)).position
    if holder == place.id or (reached and (holder is None or place.id == NOBODY)):
        return place
    moved = await connection.scalar(select(column).where(Event.id == place.id))
    return Place(moved, place.id) if moved is not None else Place(head.position, place.id, older=True)


async def _read(connection: AsyncConnection, query: Select[Any]) -> list[Placed]:
    """The rows of a query that selects the position first."""
    result = await connection.execute(query)
    names = tuple(result.keys())[1:]
    return [Placed(row[0], ListedEvent(**dict(zip(names, row[1:], strict=True)))) for row in result]


def _position(connection: AsyncConnection) -> ColumnElement[int]:
    return Event.__table__.c.position if connection.dialect.name == "postgresql" else ROWID

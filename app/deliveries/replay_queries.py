"""Queries of replays."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns, read, read_one
from app.deliveries.tables import DEAD, PENDING, Delivery, Replay


class ListedReplay(NamedTuple):
    """A replay, and how far it has come."""

    id: UUID
    destination: str
    narrowed: dict[str, Any]
    rate: float
    status: str
    events: int
    made: int
    finished_at: datetime | None
    pending: int
    dead: int


def _of_each_replay(which: ColumnElement[bool]) -> ColumnElement[int]:
    of_this = and_(Delivery.replay_id == Replay.id, Delivery.destination == Replay.destination, which)
    return select(func.count()).select_from(Delivery).where(of_this).scalar_subquery()


_REPLAYS: Select[Any] = select(
    *columns(Replay, ListedReplay), _of_each_replay(PENDING).label("pending"), _of_each_replay(DEAD).label("dead")
)


async def list_replays(connection: AsyncConnection, *, limit: int, before: UUID | None = None) -> list[ListedReplay]:
    """Replays with their pending and dead deliveries, newest first; the last id, as `before`, gives the next page."""
    query = _REPLAYS.order_by(Replay.id.desc()).limit(limit)
    return await read(connection, query if before is None else query.where(Replay.id < before), ListedReplay)


async def get_replay(connection: AsyncConnection, replay_id: UUID) -> ListedReplay | None:
    """One replay, as in a list. The cost grows with the dead deliveries of its destination."""
    return await read_one(connection, _REPLAYS.where(Replay.id == replay_id), ListedReplay)

"""Which old events must stay: not dispatched, not delivered, not fetched yet, or still ahead of a replay."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns, read
from app.deliveries.replays import FILTER, Running
from app.deliveries.tables import DEAD, PENDING, Delivery, Replay, ReplayEvent, ReplayStatus
from app.events.fetches import Fetch, FetchCause, FetchStatus
from app.events.tables import Event, Undispatched

GOES_ON = Replay.status.in_([ReplayStatus.RUNNING.value, ReplayStatus.PAUSED.value])

UNDELIVERED = (
    and_(or_(PENDING, DEAD), Delivery.replay_id.is_(None)),
    and_(or_(PENDING, DEAD), Delivery.replay_id.is_not(None)),
)
"""In two parts, since live deliveries and those of replays have an index each. Dead ones wait for a person."""

NOT_FETCHED: Select[UUID] = (
    select(FetchCause.event_id)
    .join(Fetch, Fetch.id == FetchCause.fetch_id)
    .where(
        or_(
            Fetch.status.in_([FetchStatus.DUE.value, FetchStatus.FETCHING.value]),
            exists().where(Undispatched.event_id == Fetch.snapshot_id),
        )
    )
)
"""Notifications whose orders are not fetched, or not dispatched: their type says which destinations want the order."""


async def kept(connection: AsyncConnection, ids: Sequence[UUID]) -> set[UUID]:
    """Those of the events that must stay.

    An event's deliveries are made in the transaction that takes it from `undispatched`. So it is looked for there
    first: whatever other transactions do between the two queries, one of them finds it.
    """
    waiting = set(await connection.scalars(select(Undispatched.event_id).where(Undispatched.event_id.in_(ids))))
    waiting |= set(await connection.scalars(NOT_FETCHED.where(FetchCause.event_id.in_(ids))))
    for part in UNDELIVERED:
        waiting |= set(await connection.scalars(select(Delivery.event_id).where(Delivery.event_id.in_(ids), part)))
    for replay in await read(connection, select(*columns(Replay, Running)).where(GOES_ON), Running):
        waiting |= set(await connection.scalars(ahead_of(replay).where(Event.id.in_(ids))))
    return waiting


def ahead_of(replay: Running) -> Select[UUID]:
    """The events that a replay may still deliver."""
    query: Select[UUID] = select(Event.id)
    if replay.last_event_id is not None:
        query = query.where(Event.id > replay.last_event_id)
    if replay.narrowed:
        return query.where(_matches(replay.narrowed))
    return query.join(ReplayEvent, ReplayEvent.event_id == Event.id).where(ReplayEvent.replay_id == replay.id)


def _matches(narrowed: dict[str, Any]) -> ColumnElement[bool]:
    return or_(*(and_(true(), *part) for part in FILTER.validate_python(narrowed).parts()))

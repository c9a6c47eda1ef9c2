"""Deletes old rows, a few in each transaction. No function commits.

On PostgreSQL a row that another transaction has locked is passed over. So a transaction that deletes waits for nobody,
and cannot deadlock with the receivers and workers that change several of its rows in another order.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.audit.chain import forget
from app.database.writing import Columns, upsert
from app.deliveries.replays import DELETING_LOCK
from app.deliveries.tables import Attempt, Delivery, DeliveryStatus, Replay, ReplayEvent, ReplayStatus
from app.events.fetches import Fetch, FetchCause
from app.events.ids import id_floor
from app.events.queries import QUARANTINED
from app.events.rows import copies_within
from app.events.tables import DeletedEvent, Event, Status
from app.retention.cutoffs import Kind
from app.retention.kept import kept

ENDED = Delivery.status.in_([DeliveryStatus.DELIVERED.value, DeliveryStatus.DROPPED.value])
ACCEPTED = Event.status == Status.ACCEPTED.value
EITHER = (Delivery.replay_id.is_(None), Delivery.replay_id.is_not(None))
"""Live deliveries and those of replays: an index by event has one or the other."""


KEY_STORED_AT = (
    select(DeletedEvent.deleted_at)
    .where(DeletedEvent.dedup_key == Event.dedup_key)
    .scalar_subquery()
    .label("stored_at")
)
"""Of an event: when its key was stored among those of deleted events, if it was."""


class Batch(NamedTuple):
    """What one transaction did."""

    looked: int
    """How many old rows it found; 0 when there are no more."""
    deleted: int
    """How many of them it deleted. The others must stay."""
    last: UUID | None
    """The last one; the next transaction goes on after it."""


NOTHING = Batch(0, 0, None)


async def is_alone(connection: AsyncConnection) -> bool:
    """Whether no other process deletes, and no replay begins, until this transaction ends."""
    if connection.dialect.name == "sqlite":
        return True  # it is the only one that writes
    return bool(await connection.scalar(select(func.pg_try_advisory_xact_lock(DELETING_LOCK))))


async def delete_some(
    connection: AsyncConnection, kind: Kind, *, before: datetime, after: UUID | None, most: int, now: datetime
) -> Batch:
    """Deletes some of the rows of a kind, the oldest first.

    Args:
        connection: In a transaction that may write, after `is_alone`.
        kind: Which rows.
        before: Only rows from before this time.
        after: `last` of the batch before.
        most: How many rows to look at.
        now: The time.
    """
    return await DELETE[kind](connection, before, after, most, now)


async def _attempts(connection: AsyncConnection, before: datetime, after: UUID | None, most: int, _: datetime) -> Batch:
    of_ended = exists().where(Delivery.id == Attempt.delivery_id, ENDED, Delivery.finished_at < before)
    query = select(Attempt.delivery_id).where(Attempt.delivery_id < id_floor(before), of_ended)
    ids = await _first(connection, query.order_by(Attempt.delivery_id), Attempt.delivery_id, after, most)
    if not ids:
        return NOTHING
    deleted = await connection.execute(delete(Attempt).where(Attempt.delivery_id.in_(ids)))
    return Batch(len(ids), deleted.rowcount, ids[-1])


async def _deliveries(
    connection: AsyncConnection, before: datetime, after: UUID | None, most: int, _: datetime
) -> Batch:
    query = select(Delivery.id).where(Delivery.id < id_floor(before), ENDED, Delivery.finished_at < before)
    ids = await _first(connection, query.order_by(Delivery.id), Delivery.id, after, most)
    if not ids:
        return NOTHING
    return Batch(len(ids), await _delete_deliveries(connection, ids), ids[-1])


async def _replays(connection: AsyncConnection, before: datetime, after: UUID | None, most: int, _: datetime) -> Batch:
    """Replays that have ended: first the list of their events, then, once they have no deliveries, they themselves."""
    ended = Replay.status.in_([ReplayStatus.DONE.value, ReplayStatus.CANCELLED.value])
    query = select(Replay.id).where(Replay.id < id_floor(before), ended, Replay.finished_at < before)
    ids = await _first(connection, query.order_by(Replay.id), Replay.id, after, 1)
    if not ids:
        return NOTHING
    (replay_id,) = ids
    listed = select(ReplayEvent.event_id).where(ReplayEvent.replay_id == replay_id).limit(most)
    events = (await connection.scalars(listed)).all()
    if events:
        of_these = (ReplayEvent.replay_id == replay_id, ReplayEvent.event_id.in_(events))
        await connection.execute(delete(ReplayEvent).where(*of_these))
        return Batch(len(events), 0, after)  # the next batch has the same replay
    none_left = ~exists().where(Delivery.replay_id == replay_id)
    deleted = await connection.execute(delete(Replay).where(Replay.id == replay_id, none_left))
    return Batch(1, deleted.rowcount, replay_id)


async def _quarantined(
    connection: AsyncConnection, before: datetime, after: UUID | None, most: int, now: datetime
) -> Batch:
    return await _events(connection, QUARANTINED, before=before, after=after, most=most, now=now)


async def _accepted(
    connection: AsyncConnection, before: datetime, after: UUID | None, most: int, now: datetime
) -> Batch:
    return await _events(connection, ACCEPTED, before=before, after=after, most=most, now=now)


async def _copies(connection: AsyncConnection, before: datetime, _: UUID | None, most: int, __: datetime) -> Batch:
    old = select(DeletedEvent.dedup_key).where(DeletedEvent.deleted_at < before).order_by(DeletedEvent.deleted_at)
    keys = (await connection.scalars(old.limit(most).with_for_update(skip_locked=True))).all()
    if not keys:
        return NOTHING
    deleted = await connection.execute(delete(DeletedEvent).where(DeletedEvent.dedup_key.in_(keys)))
    return Batch(len(keys), deleted.rowcount, None)


async def _audit(connection: AsyncConnection, before: datetime, _: UUID | None, most: int, now: datetime) -> Batch:
    deleted = await forget(connection, before=before, most=most, now=now)
    return Batch(deleted, deleted, None)


DELETE: Mapping[Kind, Callable[[AsyncConnection, datetime, UUID | None, int, datetime], Awaitable[Batch]]] = {
    Kind.ATTEMPTS: _attempts,
    Kind.DELIVERIES: _deliveries,
    Kind.REPLAYS: _replays,
    Kind.QUARANTINED: _quarantined,
    Kind.ACCEPTED: _accepted,
    Kind.COPIES: _copies,
    Kind.AUDIT: _audit,
}


async def _events(
    connection: AsyncConnection,
    status: ColumnElement[bool],
    *,
    before: datetime,
    after: UUID | None,
    most: int,
    now: datetime,
) -> Batch:
    """Deletes events after their deliveries, and keeps the keys by which copies are known.

    On PostgreSQL one transaction stores the keys, and a later one deletes the events. A copy that arrives meanwhile
    waits for neither: it is counted under its key. In one transaction, the INSERT of a copy could wait for the event's
    lock with a snapshot from before, find the event gone and no key, and store the copy as a new event.
    """
    on_sqlite = connection.dialect.name == "sqlite"
    query = select(Event.id, Event.dedup_key, Event.shape, Event.notification_id, KEY_STORED_AT)
    if after is not None:
        query = query.where(Event.id > after)
    rows = (
        await connection.execute(query.where(Event.id < id_floor(before), status).order_by(Event.id).limit(most))
    ).all()
    if not rows:
        return NOTHING
    last = rows[-1].id
    stay = await kept(connection, [row.id for row in rows])
    keyed = {
        row.dedup_key: row
        for row in rows
        if row.id not in stay
        and row.dedup_key != row.id.bytes
        and copies_within(row.shape, row.notification_id) is None
    }
    new = [row for row in keyed.values() if row.stored_at != now]
    if new:
        keys = [{"dedup_key": row.dedup_key, "event_id": row.id, "deleted_at": now} for row in new]
        keys.sort(key=itemgetter("dedup_key"))  # as a receiver that counts copies locks them
        await upsert(connection, DeletedEvent, keys, key=["dedup_key"], changes=_of_key)
        if not on_sqlite:
            return Batch(len(rows), 0, after)  # the next batch has the same events
    going: Sequence[UUID] = [row.id for row in rows if row.id not in stay]
    if not on_sqlite:
        locked = select(Event.id).where(Event.id.in_(going)).with_for_update(skip_locked=True)
        going = (await connection.scalars(locked)).all()
        stay = await kept(connection, going)  # again: what locked the events before may have put them to use
        going = [event_id for event_id in going if event_id not in stay]
    for part in EITHER:
        of_these = select(Delivery.id).where(Delivery.event_id.in_(going), part, ENDED)
        await _delete_deliveries(
            connection, (await connection.scalars(of_these.with_for_update(skip_locked=True))).all()
        )
    # Asks once more, since a person may just have retried a delivery that had been dropped.
    without_deliveries = (~exists().where(Delivery.event_id == Event.id, part) for part in EITHER)
    gone = await connection.execute(
        delete(Event).where(Event.id.in_(going), status, *without_deliveries).returning(Event.id)
    )
    deleted = set(gone.scalars())
    left = [row for row in rows if row.id not in deleted and (row.dedup_key in keyed or row.stored_at is not None)]
    await connection.execute(delete(DeletedEvent).where(DeletedEvent.dedup_key.in_([row.dedup_key for row in left])))
    await _forget_fetches(connection, sorted(deleted))
    return Batch(len(rows), len(deleted), last)


def _of_key(new: Columns) -> dict[str, Any]:
    return {"event_id": new["event_id"], "deleted_at": new["deleted_at"]}


async def _forget_fetches(connection: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Deletes what is stored about fetches that these events alone have caused."""
    causes = delete(FetchCause).where(FetchCause.event_id.in_(ids)).returning(FetchCause.fetch_id)
    fetches = set(await connection.scalars(causes))
    if fetches:
        others = exists().where(FetchCause.fetch_id == Fetch.id)
        await connection.execute(delete(Fetch).where(Fetch.id.in_(fetches), ~others))


async def _delete_deliveries(connection: AsyncConnection, ids: Sequence[UUID]) -> int:
    if not ids:
        return 0
    await connection.execute(delete(Attempt).where(Attempt.delivery_id.in_(ids)))
    return (await connection.execute(delete(Delivery).where(Delivery.id.in_(ids)))).rowcount


async def _first(
    connection: AsyncConnection, query: Select[UUID], column: Any, after: UUID | None, most: int
) -> Sequence[UUID]:
    """The first ids of a query, locked."""
    if after is not None:
        query = query.where(column > after)
    return (await connection.scalars(query.limit(most).with_for_update(skip_locked=True))).all()

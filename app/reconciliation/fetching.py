"""The queue of fetches: which one a worker may make now, and what became of it. `app.events.fetches` draws the states.

All of this happens under one lock. So one reference is fetched by one worker at a time, and `rate` counts for all
workers together. No function commits.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.database.writing import insert_new
from app.events.fetches import Fetch, FetchCause, FetchPace, FetchStatus, lock_fetches
from app.events.ids import made_at
from app.events.tables import Event, Undispatched
from app.prioticket.contents import undone
from app.prioticket.pace import MOST_REFUSALS
from app.prioticket.payloads import NoEnvelope, NotJSON, parse_payload
from app.reconciliation.verdicts import GIVE_UP_AFTER, STOPPED_FOR, wait_after
from app.web.body import InflatesTooFar, UndecodableBody

MOST_READ = 20
"""Of the notifications that a fetch is for, so many of the newest tell when the order was changed."""

LARGEST_NOTIFICATION = 1024 * 1024  # bytes
MOST_AT_ONCE = 500
"""How many fetches one transaction ends or forgets at most, as SQLite is locked meanwhile."""

KEPT_FOR = timedelta(days=30)
"""How long a fetch that is over is kept, for people to read."""

MINUTE = timedelta(minutes=1)
DUE, FETCHING = Fetch.status == FetchStatus.DUE.value, Fetch.status == FetchStatus.FETCHING.value
LOST = "The worker ended before it had stored the order."


class Notification(NamedTuple):
    """The newest notification that a fetch is for, and when it and the others were created at the latest."""

    event_id: UUID
    type: str | None
    client: str
    announced: datetime | None


class Claim(NamedTuple):
    """A fetch that only this worker may make until the claim ends."""

    id: UUID
    reference: str
    worker: str
    attempts: int
    """Including this one."""
    stale: int
    cause: Notification


async def next_at(connection: AsyncConnection, *, now: datetime) -> datetime | None:
    """When a fetch may be claimed at the earliest, or a claim ends; None if there is neither."""
    due = select(func.min(Fetch.due_at)).where(DUE).scalar_subquery()
    ends = select(func.min(Fetch.ends_at)).where(FETCHING).scalar_subquery()
    refused = select(FetchPace.refused_until).scalar_subquery()
    row: Any = (await connection.execute(select(due, ends, refused))).one()
    due_at, ends_at, refused_until = row
    if due_at is not None and _stopped(refused_until, now=now):
        due_at = max(due_at, refused_until)
    return min((at for at in (due_at, ends_at) if at is not None), default=None)


async def claim(
    connection: AsyncConnection, *, worker: str, rate: float, lease: timedelta, now: datetime
) -> Claim | None:
    """Claims the fetch that has been due for longest, if `rate` and the credentials allow one.

    Args:
        connection: In a transaction that may write.
        worker: The worker's name, which no other worker has.
        rate: Fetches a second, of all workers together.
        lease: How long the claim lasts.
        now: The time.
    """
    await lock_fetches(connection)
    await _take_back(connection, Fetch.ends_at <= now, now=now)
    pace = await _pace(connection)
    between = timedelta(seconds=1 / rate)
    if pace.next_at is not None and now < pace.next_at <= now + between:  # one that is later was set by a wrong clock
        return None
    if _stopped(pace.refused_until, now=now) or await _refused_lately(connection, now=now) >= MOST_REFUSALS:
        return None
    same = aliased(Fetch)
    in_flight = exists().where(same.reference == Fetch.reference, same.status == FetchStatus.FETCHING.value)
    query = (
        select(Fetch.id, Fetch.reference, Fetch.attempts, Fetch.stale)
        .where(DUE, Fetch.due_at <= now, ~in_flight)
        .order_by(Fetch.due_at)
        .limit(1)
    )
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        return None
    fetch_id, reference, attempts, stale = found
    newest = await _newest(connection, fetch_id)
    if newest is None:  # its notifications were deleted
        await _forget(connection, [fetch_id])
        return None
    began = {"status": FetchStatus.FETCHING.value, "worker": worker, "ends_at": now + lease, "attempts": attempts + 1}
    await connection.execute(update(Fetch).where(Fetch.id == fetch_id).values(began))
    paced: dict[str, Any] = {"next_at": now + between}
    if pace.refused_at is not None:  # only this one finds out whether the credentials are accepted again
        paced["refused_until"] = now + lease
    await connection.execute(update(FetchPace).values(paced))
    return Claim(fetch_id, reference, worker, attempts + 1, stale, newest)


async def is_held(connection: AsyncConnection, claim: Claim) -> bool:
    """Whether the claim still holds; if not, another worker has it. Locks the queue."""
    await lock_fetches(connection)
    held = (Fetch.id == claim.id, FETCHING, Fetch.worker == claim.worker)
    return await connection.scalar(select(Fetch.id).where(*held)) is not None


async def done(
    connection: AsyncConnection, claim: Claim, snapshot_id: UUID, *, new: bool, error: str | None, now: datetime
) -> None:
    """The order is stored as this event. If that is not new, it may be wanted by destinations that did not get it."""
    ended = {"status": FetchStatus.DONE.value, "snapshot_id": snapshot_id, "finished_at": now, "error": error}
    await connection.execute(update(Fetch).where(Fetch.id == claim.id).values(ended))
    if not new:
        await insert_new(connection, Undispatched, [{"event_id": snapshot_id}])


async def failed(connection: AsyncConnection, claim: Claim, status: FetchStatus, error: str, *, now: datetime) -> None:
    """The order cannot be had: destinations that waited for it get its notifications."""
    await _end(connection, [claim.id], status, error, now=now)


async def again(connection: AsyncConnection, claim: Claim, error: str, *, stale: bool, at: datetime) -> None:
    """It is due again at this time. Notifications that came meanwhile become causes of it."""
    if stale and (younger := await _younger(connection, claim.reference)) is not None:
        at = min(at, younger.due_at)
    await _due(connection, claim.id, claim.reference, error, at=at, stale=claim.stale + 1 if stale else claim.stale)


async def stopped(connection: AsyncConnection, *, now: datetime) -> bool:
    """No worker fetches for `STOPPED_FOR`, as Prioticket refuses the credentials. Whether that is new."""
    pace = await _pace(connection)
    values = {"refused_at": pace.refused_at or now, "refused_until": now + STOPPED_FOR}
    await connection.execute(update(FetchPace).values(values))
    is_new: bool = pace.refused_at is None
    return is_new


async def resumed(connection: AsyncConnection) -> datetime | None:
    """Prioticket takes the credentials: since when it did not, or None if it did before."""
    pace = await _pace(connection)
    if pace.refused_at is not None:
        await connection.execute(update(FetchPace).values(refused_at=None, refused_until=None))
    since: datetime | None = pace.refused_at
    return since


async def give_back(connection: AsyncConnection, worker: str | None, *, now: datetime) -> None:
    """Makes the claimed fetches of a worker due, or those of all workers."""
    await lock_fetches(connection)
    await _take_back(connection, Fetch.worker == worker if worker else Fetch.worker.is_not(None), now=now, waits=False)


async def give_up(connection: AsyncConnection, error: str, *, now: datetime) -> int:
    """Ends up to `MOST_AT_ONCE` of the fetches that are not over, and returns how many."""
    await lock_fetches(connection)
    ids = (await connection.scalars(select(Fetch.id).where(or_(DUE, FETCHING)).limit(MOST_AT_ONCE))).all()
    await _end(connection, ids, FetchStatus.DEAD, error, now=now)
    return len(ids)


async def forget_old(connection: AsyncConnection, *, now: datetime) -> int:
    """Deletes up to `MOST_AT_ONCE` of the fetches that were over for `KEPT_FOR`, and returns how many."""
    await lock_fetches(connection)
    waits = exists().where(FetchCause.fetch_id == Fetch.id, Undispatched.event_id == FetchCause.event_id)
    snapshot_waits = exists().where(Undispatched.event_id == Fetch.snapshot_id)
    old = select(Fetch.id).where(Fetch.finished_at < now - KEPT_FOR, ~waits, ~snapshot_waits)
    ids = (await connection.scalars(old.order_by(Fetch.finished_at).limit(MOST_AT_ONCE))).all()
    await _forget(connection, ids)
    return len(ids)


async def _forget(connection: AsyncConnection, ids: Sequence[UUID]) -> None:
    await connection.execute(delete(FetchCause).where(FetchCause.fetch_id.in_(ids)))
    await connection.execute(delete(Fetch).where(Fetch.id.in_(ids)))


async def _refused_lately(connection: AsyncConnection, *, now: datetime) -> int:
    lately = Fetch.finished_at.between(now - MINUTE, now)
    refused = select(func.count()).select_from(Fetch).where(lately, Fetch.status == FetchStatus.REFUSED.value)
    return await connection.scalar(refused) or 0


async def _take_back(connection: AsyncConnection, which: Any, *, now: datetime, waits: bool = True) -> None:
    query = select(Fetch.id, Fetch.reference, Fetch.attempts, Fetch.stale).where(FETCHING, which)
    for fetch_id, reference, attempts, stale in (await connection.execute(query)).all():
        if now - made_at(fetch_id) > GIVE_UP_AFTER:
            await _end(connection, [fetch_id], FetchStatus.DEAD, LOST, now=now)
        else:
            at = now + wait_after(attempts) if waits else now
            await _due(connection, fetch_id, reference, LOST, at=at, stale=stale)


async def _end(
    connection: AsyncConnection, ids: Sequence[UUID], status: FetchStatus, error: str, *, now: datetime
) -> None:
    ended = {"status": status.value, "finished_at": now, "error": error}
    await connection.execute(update(Fetch).where(Fetch.id.in_(ids)).values(ended))
    causes = await connection.scalars(select(FetchCause.event_id).where(FetchCause.fetch_id.in_(ids)))
    await insert_new(connection, Undispatched, [{"event_id": event_id} for event_id in causes])


async def _due(
    connection: AsyncConnection, fetch_id: UUID, reference: str, error: str, *, at: datetime, stale: int
) -> None:
    younger = await _younger(connection, reference)
    if younger is not None:  # a reference has only one that is due
        await connection.execute(update(FetchCause).where(FetchCause.fetch_id == younger.id).values(fetch_id=fetch_id))
        await connection.execute(delete(Fetch).where(Fetch.id == younger.id))
        stale = 0
    due = {"status": FetchStatus.DUE.value, "due_at": at, "stale": stale, "error": error, "worker": None}
    await connection.execute(update(Fetch).where(Fetch.id == fetch_id).values(due))


async def _younger(connection: AsyncConnection, reference: str) -> Any:
    """The fetch of the reference that is due, because a notification came while another fetch was under way."""
    query = select(Fetch.id, Fetch.due_at).where(DUE, Fetch.reference == reference)
    return (await connection.execute(query)).one_or_none()


def _stopped(until: datetime | None, *, now: datetime) -> bool:
    """Whether nothing may be fetched yet. A time that is too far away was set by a wrong clock."""
    return until is not None and now < until <= now + STOPPED_FOR


async def _pace(connection: AsyncConnection) -> Any:
    await insert_new(connection, FetchPace, [{"id": 1}])
    query = select(FetchPace.next_at, FetchPace.refused_at, FetchPace.refused_until)
    return (await connection.execute(query)).one()


async def _newest(connection: AsyncConnection, fetch_id: UUID) -> Notification | None:
    query = (
        select(Event.id, Event.type, Event.client, Event.headers, Event.body)
        .join(FetchCause, FetchCause.event_id == Event.id)
        .where(FetchCause.fetch_id == fetch_id)
        .order_by(Event.id.desc())
        .limit(MOST_READ)
    )
    rows = (await connection.execute(query)).all()
    if not rows:
        return None
    created = [at for row in rows if (at := _created(row.headers, row.body)) is not None]
    return Notification(rows[0].id, rows[0].type, rows[0].client, max(created, default=None))


def _created(headers: list[list[str]], body: bytes) -> datetime | None:
    try:
        return parse_payload(undone(headers, body, limit=LARGEST_NOTIFICATION)).notification_created
    except (UndecodableBody, InflatesTooFar, NotJSON, NoEnvelope):
        return None

"""Replays: jobs that workers carry out, and their controls."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil, floor
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy import Select, delete, exists, func, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns, read
from app.database.writing import insert_new
from app.deliveries.clocks import too_far
from app.deliveries.dispatch import Wanted, add
from app.deliveries.losses import lose_run_out
from app.deliveries.plans import NotReplayable, Plan, batches
from app.deliveries.queue import lock, promote
from app.deliveries.registering import register
from app.deliveries.tables import PENDING, Delivery, Destination, Replay, ReplayEvent, ReplayStatus
from app.deliveries.transitions import dropped, in_flight
from app.deliveries.turns import News
from app.deliveries.wake import notify
from app.events.ids import MICROSECOND, made_at, new_id
from app.events.queries import EventFilter
from app.events.tables import Event, Status

BATCH = 250
"""The most deliveries that one transaction makes."""

DELETING_LOCK = 7_092_717_268
"""An arbitrary number, the same in all processes: transactions that delete events hold it, see `app.retention`."""

RUNNING = Replay.status == literal_column("'running'")
FILTER = TypeAdapter(EventFilter)
NEWEST = select(Event.id).order_by(Event.id.desc()).limit(1)


class ReplayHasEnded(NotReplayable):
    """The replay is done or cancelled and cannot go on."""

    def __init__(self, replay_id: UUID, status: str) -> None:
        super().__init__(f"Replay {replay_id} is {status}.")


class Running(NamedTuple):
    """A running replay."""

    id: UUID
    destination: str
    narrowed: dict[str, Any]
    rate: float
    made: int
    last_event_id: UUID | None
    next_at: datetime | None


class Advanced(NamedTuple):
    """How many deliveries were made, and when there may be more to make."""

    made: int
    next_at: datetime | None
    news: Sequence[News] = ()
    """What to log after the commit."""


async def start(
    connection: AsyncConnection,
    narrowed: EventFilter,
    *,
    ids: Collection[UUID] | None = None,
    destination: str,
    url: str | None = None,
    rate: float,
    planned: Plan,
    now: datetime,
) -> UUID:
    """Stores a replay for the workers to carry out, and returns its id. Does not commit.

    Args:
        connection: In a transaction that may write.
        narrowed: Which events. Only those that are stored now are replayed, whatever the clocks say.
        ids: These events instead.
        destination: The destination's name; for a replay to a URL, a short name of the URL.
        url: The URL of a replay to a URL.
        rate: The most deliveries a second.
        planned: What `plan` counted.
        now: The time.
    """
    await hold_off_deleting(connection)
    if url is None:
        await register(connection, [destination], now=now)
    else:
        await insert_new(connection, Destination, [{"name": destination, "since": now, "url": url}])
        await connection.execute(update(Destination).where(Destination.name == destination).values(url=url))
    newest = await connection.scalar(NEWEST)
    bound = now if newest is None else made_at(newest) + MICROSECOND
    until = min(narrowed.until or bound, bound)
    replay_id = new_id()
    values = {
        "id": replay_id,
        "destination": destination,
        "narrowed": {} if ids is not None else FILTER.dump_python(narrowed, mode="json") | {"until": until.isoformat()},
        "rate": rate,
        "events": planned.events,
    }
    await connection.execute(insert(Replay), values)
    await notify(connection)
    for some in batches(sorted(set(ids or ()))):
        rows = [{"replay_id": replay_id, "event_id": event_id} for event_id in some]
        await connection.execute(insert(ReplayEvent), rows)
    return replay_id


async def replay_one(
    connection: AsyncConnection, event_id: UUID, reference: str | None, *, destination: str, now: datetime
) -> UUID:
    """Makes a new delivery of one event at once, and returns the id of its replay, which is done. Does not commit.

    The destination must be registered.
    """
    await lock(connection, destination)
    replay_id = new_id()
    values = {"id": replay_id, "destination": destination, "narrowed": {}, "rate": 1.0, "events": 1, "made": 1}
    values |= {"status": ReplayStatus.DONE.value, "finished_at": now, "last_event_id": event_id}
    await connection.execute(insert(Replay), values)
    await connection.execute(insert(ReplayEvent), {"replay_id": replay_id, "event_id": event_id})
    await add(connection, destination, [Wanted(event_id, reference)], replay_id=replay_id, now=now)
    return replay_id


async def hold_off_deleting(connection: AsyncConnection) -> None:
    """Lets no event be deleted for its age until this transaction ends, so that a new replay loses none.

    A worker goes on deleting after that, and sees the replay. On SQLite all transactions that write take turns.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock_shared(DELETING_LOCK)))


async def any_running(connection: AsyncConnection) -> bool:
    """Whether there is a replay to advance. Cheap, and takes no lock."""
    return bool(await connection.scalar(select(exists().where(RUNNING))))


async def advance(connection: AsyncConnection, *, now: datetime) -> Advanced:
    """Makes the next deliveries of each running replay. Does not commit.

    A replay has at most one second's worth of pending deliveries. So no more than that are sent at once when its
    destination comes back, and no more than that are still sent after a pause.
    """
    running = select(*columns(Replay, Running)).where(RUNNING).with_for_update(skip_locked=True)
    # One transaction locks several destinations: in the order in which dispatch locks them, to avoid deadlocks.
    replays = sorted(await read(connection, running, Running), key=lambda replay: (replay.destination, replay.id))
    steps = [await _advance(connection, replay, now=now) for replay in replays]
    times = [step.next_at for step in steps if step.next_at is not None]
    news = [news for step in steps for news in step.news]
    return Advanced(sum(step.made for step in steps), min(times, default=None), news)


async def over(connection: AsyncConnection) -> Sequence[str]:
    """The names of destinations of replays to a URL that have nothing more to do."""
    names = select(Destination.name).where(Destination.url.is_not(None), ~_GOES_ON, ~_PENDING)
    return (await connection.scalars(names.order_by(Destination.name))).all()


async def forget(connection: AsyncConnection, name: str) -> bool:
    """Forgets the destination of a finished replay to a URL, since the URL may hold a credential. Does not commit."""
    if await lock(connection, name) is None or name not in await over(connection):  # a new replay may go there now
        return False
    await connection.execute(delete(Destination).where(Destination.name == name))
    return True


_GOES_ON = exists().where(
    Replay.destination == Destination.name,
    Replay.status.in_([ReplayStatus.RUNNING.value, ReplayStatus.PAUSED.value]),
)
_PENDING = exists().where(Delivery.destination == Destination.name, PENDING)


async def set_status(connection: AsyncConnection, replay_id: UUID, status: ReplayStatus, *, now: datetime) -> None:
    """Pauses, resumes or cancels a replay. Cancelling drops its pending deliveries, except those being sent.

    Raises:
        NotReplayable: there is no such replay.
        ReplayHasEnded: it has ended.
    """
    query = select(Replay.destination, Replay.status).where(Replay.id == replay_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotReplayable(f"There is no replay {replay_id}.")
    destination, was = row
    if was in (ReplayStatus.CANCELLED, ReplayStatus.DONE):
        raise ReplayHasEnded(replay_id, was)
    ended = status is ReplayStatus.CANCELLED
    values = {"status": status.value, "finished_at": now if ended else None, "next_at": None}
    await connection.execute(update(Replay).where(Replay.id == replay_id).values(values))
    await notify(connection)
    if ended:
        await lock(connection, destination)
        await lose_run_out(connection, destination, now=now)
        waiting = (Delivery.replay_id == replay_id, PENDING, ~in_flight(now))
        references = await connection.scalars(select(Delivery.reference).where(*waiting))
        await connection.execute(update(Delivery).where(*waiting).values(dropped(now=now).values()))
        await promote(connection, destination, {each for each in references if each is not None}, now=now)


async def _advance(connection: AsyncConnection, replay: Running, *, now: datetime) -> Advanced:
    ahead = too_far(replay.next_at, timedelta(seconds=1 / replay.rate), now=now)
    since = max(now if ahead or replay.next_at is None else replay.next_at, now - timedelta(seconds=1))
    if since > now:
        return Advanced(0, since)
    open_ones = select(func.count()).select_from(Delivery).where(Delivery.replay_id == replay.id, PENDING)
    pending = await connection.scalar(open_ones) or 0
    room = min(BATCH, max(1, ceil(replay.rate)) - pending, floor((now - since).total_seconds() * replay.rate) + 1)
    if room <= 0:
        return Advanced(0, now + timedelta(seconds=min(1.0, max(0.2, 10 / replay.rate))))
    events = [Wanted(*row) for row in await connection.execute(_next_events(replay, room))]
    changes: dict[str, Any] = {}
    if events:
        await lock(connection, replay.destination)
        await add(connection, replay.destination, events, replay_id=replay.id, now=now)
        next_at = since + timedelta(seconds=len(events) / replay.rate)
        changes = {"made": replay.made + len(events), "last_event_id": events[-1].event_id, "next_at": next_at}
    elif not pending:
        changes = {"status": ReplayStatus.DONE.value, "finished_at": now}
    if changes:
        await connection.execute(update(Replay).where(Replay.id == replay.id).values(changes))
    else:
        changes["next_at"] = now + timedelta(seconds=1)
    return Advanced(len(events), changes.get("next_at"), list(_news(replay, changes)))


def _news(replay: Running, changes: Mapping[str, Any]) -> Iterator[News]:
    fields = {"replay_id": str(replay.id), "destination": replay.destination}
    if "made" in changes and not replay.made:
        yield News("replay_started", fields | {"rate": replay.rate})
    if "finished_at" in changes:
        yield News("replay_ended", fields | {"events": replay.made})


def _next_events(replay: Running, most: int) -> Select[UUID, str | None]:
    where = [Event.status == Status.ACCEPTED.value, Event.erased_at.is_(None)]
    if replay.last_event_id is not None:
        where.append(Event.id > replay.last_event_id)
    query = select(Event.id, Event.reference).order_by(Event.id).limit(most)
    if replay.narrowed:
        return query.where(*FILTER.validate_python(replay.narrowed).first(*where, limit=most, ascending=True))
    of_replay = ReplayEvent.replay_id == replay.id
    return query.join(ReplayEvent, ReplayEvent.event_id == Event.id).where(of_replay, *where)

"""How each destination stands: its queue, what fails, and which references wait for that. Bounded, for any queue."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import counting
from app.database.counting import counted
from app.database.rows import columns, read
from app.deliveries.stuck import Stuck, stuck_deliveries
from app.deliveries.tables import (
    DEAD,
    FAILING,
    LIVE,
    PENDING,
    REPLAYED,
    Claimed,
    Delivery,
    DeliveryStatus,
    Destination,
    Replay,
    ReplayStatus,
)
from app.deliveries.transitions import HAS_TIME, WAITS, first_delivery, first_due
from app.events.ids import id_floor, made_at
from app.events.tables import Undispatched

MOST_DESTINATIONS = 100
"""More only if the settings have more."""

MOST_REPLAYS = 20
NEWEST = 200
"""How many of the newest deliveries are looked at for the last success."""


class State(StrEnum):
    """Whether a destination gets what is due.

    `failing`: some attempts fail, others may succeed. `open`: its circuit breaker lets through one delivery now and
    then. `unusable`: the worker cannot use its settings. `not_configured`: it is in no settings, so that no worker
    sends to it.
    """

    READY = "ready"
    FAILING = "failing"
    OPEN = "open"
    PAUSED = "paused"
    UNUSABLE = "unusable"
    NOT_CONFIGURED = "not_configured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A destination, and its queue. No count is above `MOST_COUNTED + 1`, which means more than that."""

    name: str
    state: State
    of_replay: bool
    """Whether it is the URL of a replay and not in any settings."""
    since: datetime | None
    """When it was registered; None until a worker has seen it."""
    paused_at: datetime | None
    paused_reason: str | None
    unusable_reason: str | None
    """Why a worker cannot use its settings."""
    failures: int
    """Failed attempts since the last success."""
    failing_since: datetime | None
    probe_at: datetime | None
    due: int
    """Deliveries that could be sent now."""
    later: int
    """Deliveries that are due later: retries after a failure."""
    waiting: int
    """Deliveries that wait for another one of their reference."""
    in_flight: int
    failing: int
    """Deliveries that have failed and are tried again."""
    held_back: int
    """References whose first delivery has failed, so that the others wait."""
    dead: int
    oldest_due_at: datetime | None
    """Since when the oldest delivery that nobody is sending has been due; None if none is."""
    oldest_due: UUID | None
    """That delivery."""
    last_success_at: datetime | None
    """None if it is not among the newest deliveries."""
    newest_dead: UUID | None
    certificate_until: datetime | None
    """The end of its certificate, as a worker's last connection met it; None without TLS."""
    stuck: tuple[Stuck, ...]
    """The failing deliveries, the oldest first; at most `stuck.MOST_SHOWN`."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Events that have no deliveries yet; at most `MOST_COUNTED + 1`."""

    events: int
    oldest_at: datetime | None
    oldest: UUID | None
    """The event that has waited for the longest."""


@dataclass(frozen=True, slots=True)
class RunningReplay:
    """A replay that has not ended."""

    id: UUID
    destination: str
    status: str
    events: int
    made: int


class _Row(NamedTuple):
    name: str
    url: str | None
    since: datetime
    paused_at: datetime | None
    paused_reason: str | None
    failures: int
    failing_since: datetime | None
    probe_at: datetime | None
    certificate_until: datetime | None
    unusable_reason: str | None
    due: int
    later: int
    waiting: int
    in_flight: int
    failing: int
    held_back: int
    dead: int
    live_at: datetime | None
    replay_at: datetime | None
    live_first: UUID | None
    replay_first: UUID | None
    last_success_at: datetime | None
    newest_dead: UUID | None


async def standings(connection: AsyncConnection, configured: Collection[str], *, now: datetime) -> list[Standing]:
    """All destinations by name: those in the database, and those in the settings that no worker has seen yet."""
    rows = await read(connection, _look(configured, now), _Row)
    stuck = await stuck_deliveries(connection, [row.name for row in rows if row.failing])
    earlier = await _earlier_success(connection, rows)
    found = {row.name: _standing(row, configured, stuck.get(row.name, ()), earlier, now=now) for row in rows}
    return [found.get(name) or _unseen(name) for name in sorted({*found, *configured})]


async def undispatched(connection: AsyncConnection) -> Backlog:
    """The events that have no deliveries yet."""
    number = await connection.scalar(select(counted(select(literal(1)).select_from(Undispatched))))
    oldest = await connection.scalar(select(Undispatched.event_id).order_by(Undispatched.event_id).limit(1))
    return Backlog(number or 0, made_at(oldest) if oldest else None, oldest)


async def undispatched_of(connection: AsyncConnection, events: Sequence[UUID]) -> frozenset[UUID]:
    """Those of these events that have no deliveries yet, as no worker has looked at them."""
    query = select(Undispatched.event_id).where(Undispatched.event_id.in_(events))
    return frozenset(await connection.scalars(query) if events else ())


async def running_replays(connection: AsyncConnection) -> list[RunningReplay]:
    """The replays that run or are paused, the oldest first."""
    running = (ReplayStatus.RUNNING.value, ReplayStatus.PAUSED.value)
    query = select(*columns(Replay, RunningReplay)).where(Replay.status.in_(running)).order_by(Replay.id)
    return await read(connection, query.limit(MOST_REPLAYS), RunningReplay)


def _standing(
    row: _Row,
    configured: Collection[str],
    stuck: Sequence[Stuck],
    earlier: dict[str, datetime],
    *,
    now: datetime,
) -> Standing:
    firsts = ((row.live_at, row.live_first), (row.replay_at, row.replay_first))
    due = [(at, delivery) for at, delivery in firsts if at is not None and at <= now]
    oldest_due_at, oldest_due = min(due, default=(None, None))
    kept = {name: getattr(row, name) for name in _Row._fields if name in Standing.__slots__}
    return Standing(
        **kept
        | {
            "state": _state(row, known=row.url is not None or row.name in configured),
            "of_replay": row.url is not None,
            "due": _bounded(row.due if row.due > counting.MOST_COUNTED else max(0, row.due - row.in_flight)),
            "later": _bounded(row.later),
            "oldest_due_at": oldest_due_at,
            "oldest_due": oldest_due,
            "last_success_at": row.last_success_at or earlier.get(row.name),
            "stuck": tuple(stuck),
        }
    )


def _state(row: _Row, *, known: bool) -> State:
    if row.paused_at is not None:
        return State.PAUSED
    if not known:
        return State.NOT_CONFIGURED
    if row.unusable_reason is not None:
        return State.UNUSABLE
    if row.probe_at is not None:
        return State.OPEN
    return State.FAILING if row.failing or row.failures else State.READY


def _unseen(name: str) -> Standing:
    times = ("since", "paused_at", "failing_since", "probe_at", "oldest_due_at", "last_success_at", "certificate_until")
    counts = ("failures", "due", "later", "waiting", "in_flight", "failing", "held_back", "dead")
    nothing: dict[str, Any] = dict.fromkeys(
        (*times, "paused_reason", "unusable_reason", "oldest_due", "newest_dead")
    ) | dict.fromkeys(counts, 0)
    return Standing(name=name, state=State.READY, of_replay=False, stuck=(), **nothing)


def _bounded(count: int) -> int:
    return min(count, counting.MOST_COUNTED + 1)


def _look(configured: Collection[str], now: datetime) -> Select[Any]:
    of_this = Delivery.destination == Destination.name
    claims = select(func.count()).where(Claimed.destination == Destination.name, Claimed.ends_at > now)
    newest_dead = select(Delivery.id).where(of_this, DEAD).order_by(Delivery.id.desc()).limit(1)
    return (
        select(
            *columns(Destination, _Row),
            _live_and_replayed(PENDING, HAS_TIME, Delivery.due_at <= now).label("due"),
            _live_and_replayed(PENDING, HAS_TIME, Delivery.due_at > now).label("later"),
            _deliveries(PENDING, WAITS, Delivery.reference.is_not(None)).label("waiting"),
            claims.scalar_subquery().label("in_flight"),
            _deliveries(FAILING).label("failing"),
            _deliveries(FAILING, Delivery.reference.is_not(None)).label("held_back"),
            _deliveries(DEAD).label("dead"),
            first_due(LIVE).label("live_at"),
            first_due(REPLAYED).label("replay_at"),
            first_delivery(LIVE).label("live_first"),
            first_delivery(REPLAYED).label("replay_first"),
            _last_success(of_this).label("last_success_at"),
            newest_dead.scalar_subquery().label("newest_dead"),
        )
        .order_by(Destination.name.in_(configured).desc(), Destination.name)
        .limit(max(MOST_DESTINATIONS, len(configured)))
    )


def _live_and_replayed(*where: ColumnElement[bool]) -> ColumnElement[int]:
    """Each part has an index of its own."""
    return _deliveries(*where, LIVE) + _deliveries(*where, REPLAYED)


def _deliveries(*where: ColumnElement[bool]) -> ColumnElement[int]:
    of_this = Delivery.destination == Destination.name
    return counted(select(literal(1)).select_from(Delivery).where(of_this, *where).correlate(Destination))


def _last_success(*where: ColumnElement[bool]) -> ColumnElement[datetime | None]:
    newest = select(Delivery.finished_at, Delivery.status).where(*where).order_by(Delivery.id.desc())
    some = newest.correlate(Destination).limit(NEWEST).subquery()
    delivered = some.c.status == DeliveryStatus.DELIVERED.value
    return select(func.max(some.c.finished_at)).where(delivered).scalar_subquery()


async def _earlier_success(connection: AsyncConnection, rows: Iterable[_Row]) -> dict[str, datetime]:
    """The last success of destinations that have been failing for longer than their newest deliveries are old."""
    failing = [(row.name, row.failing_since) for row in rows if row.failing_since and not row.last_success_at]
    looks = [
        select(
            literal(name).label("name"),
            _last_success(Delivery.destination == name, Delivery.id < id_floor(since)).label("at"),
        )
        for name, since in failing
    ]
    if not looks:
        return {}
    return {name: at for name, at in await connection.execute(union_all(*looks)) if at is not None}

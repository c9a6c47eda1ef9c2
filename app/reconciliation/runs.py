"""The runs of `reconcile` as they are stored: what each asked for, where it is, and what it has found."""

from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.events.ids import new_id
from app.reconciliation.listing import Place
from app.reconciliation.tables import Reconciliation

OLDEST_ORDER = timedelta(days=400)
"""How long before a run an order can have been made: an order of last summer may be redeemed now."""

RESUMED_WITHIN = timedelta(days=1)
"""How long after its start an unfinished run is resumed. Later, too much has changed on the pages that it has read."""

AHEAD = timedelta(minutes=5)
"""A run that began later than so long from now was begun by a clock that was ahead. It does not count: none would be
due until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a run is to do.

    Attributes:
        since: Orders that were modified after it.
        until: Orders that were not modified after it; None for all.
        versions: Whether to fetch the versions in between too.
        deliver: Whether what is fetched is delivered.
    """

    since: datetime
    until: datetime | None = None
    versions: bool = False
    deliver: bool = True


@dataclass(slots=True)
class Counts:
    """What a run has found.

    Attributes:
        listed: Orders that Prioticket listed, some perhaps twice.
        known: Of these, the ones whose state is stored.
        thin: Of these, the ones of which only notifications without payload arrived.
        missing: Of these, the ones whose state never arrived.
        altered: Of the missing, the ones of which the store has the version and time, but with other contents.
        erased: Orders whose state is not stored, and not to be fetched, as events of them were erased.
        expired: Orders whose state is not stored, and not to be fetched, as it is older than what is kept.
        fetched: Events that were stored.
        refused: Fetches that Prioticket refused, or answered with something else.
        requests: To Prioticket.
    """

    listed: int = 0
    known: int = 0
    thin: int = 0
    missing: int = 0
    altered: int = 0
    erased: int = 0
    expired: int = 0
    fetched: int = 0
    refused: int = 0
    requests: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run at its start or where it is resumed.

    Attributes:
        place: From where the list is read.
        counts: What it had found when it was interrupted.
    """

    id: UUID
    asked: Asked
    started_at: datetime
    place: Place
    counts: Counts
    resumed: bool

    @property
    def fetched_for(self) -> str:
        """What the events that it fetches have as `fetched_for`."""
        return f"reconcile {self.id}"


def new_run(asked: Asked, *, now: datetime) -> Run:
    """A run that begins now."""
    place = Place(now - OLDEST_ORDER)
    return Run(id=new_id(), asked=asked, started_at=now, place=place, counts=Counts(), resumed=False)


async def begin(connection: AsyncConnection, asked: Asked, *, now: datetime) -> Run:
    """The newest run, if it was interrupted and does what is asked for; otherwise a new one."""
    newest = (await connection.execute(_newest(*Reconciliation.__table__.columns, now=now))).first()
    if newest is not None and newest.ended_at is None and newest.started_at > now - RESUMED_WITHIN:
        before = Asked(since=newest.since, until=newest.until, versions=newest.versions, deliver=newest.deliver)
        if before.since <= asked.since and replace(before, since=asked.since) == asked:
            return Run(
                id=newest.id,
                asked=before,
                started_at=newest.started_at,
                place=Place(newest.created_from, newest.created_to, newest.page),
                counts=Counts(**{each.name: getattr(newest, each.name) for each in fields(Counts)}),
                resumed=True,
            )
    run = new_run(asked, now=now)
    row = {"id": run.id, "started_at": now, **asdict(run.counts), **asdict(asked), **asdict(run.place)}
    await connection.execute(insert(Reconciliation), [row])
    return run


async def save(connection: AsyncConnection, run: Run, *, place: Place, counts: Counts) -> None:
    """Notes from where the run would be resumed, and what it had found until there."""
    await _update(connection, run, **asdict(place), **asdict(counts), error=None)


async def finish(connection: AsyncConnection, run: Run, counts: Counts, *, now: datetime) -> None:
    """Notes that the run is complete."""
    await _update(connection, run, **asdict(counts), ended_at=now, error=None)


async def fail(connection: AsyncConnection, run: Run, error: Exception) -> None:
    """Notes why the run was interrupted. It can be resumed."""
    await _update(connection, run, error=str(error))


async def last_complete(connection: AsyncConnection, *, now: datetime) -> datetime | None:
    """Until when orders were compared: the newest complete run's start, or its `until`; None without such a run."""
    until = func.coalesce(Reconciliation.until, Reconciliation.started_at, type_=Reconciliation.started_at.type)
    at: datetime | None = await connection.scalar(_newest(until, now=now).where(Reconciliation.ended_at.is_not(None)))
    return at


class Started(NamedTuple):
    """When a run was started, and whether it is complete."""

    at: datetime
    complete: bool


async def last_start(connection: AsyncConnection, *, now: datetime) -> Started | None:
    """The newest run; None without any."""
    row = (await connection.execute(_newest(Reconciliation.started_at, Reconciliation.ended_at, now=now))).first()
    return None if row is None else Started(row.started_at, row.ended_at is not None)


def _newest(*shown: Any, now: datetime) -> Select[Any]:
    """The newest run. Not by its id: ids of one process may be ahead, as they go on after those of another."""
    return (
        select(*shown)
        .where(Reconciliation.started_at <= now + AHEAD)
        .order_by(Reconciliation.started_at.desc())
        .limit(1)
    )


async def _update(connection: AsyncConnection, run: Run, **values: Any) -> None:
    await connection.execute(update(Reconciliation).where(Reconciliation.id == run.id).values(values))

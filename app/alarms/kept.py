"""Alarms in the database: those that fire and those that ended, and what is still to be told."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.alarms.changes import Changes, Firing
from app.alarms.tables import Alarm, Notice, Stage
from app.database.rows import columns, read
from app.events.ids import new_id

MOST_FIRING = 1000
MOST_DUE = 100
MOST_NOTICES = 2000
KEPT = timedelta(days=30)
"""How long an alarm is listed after its end."""

FIRST_REST, LONGEST_REST = timedelta(seconds=30), timedelta(minutes=10)
GIVEN_UP_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An alarm that fires or fired."""

    id: UUID
    kind: str
    name: str
    subject: str
    severity: str
    what: str
    command: str
    since: datetime | None
    example: str | None
    started_at: datetime
    seen_at: datetime
    ended_at: datetime | None


class Kept(NamedTuple):
    """A notice: what one channel is told of an alarm, and whether it was."""

    alarm_id: UUID
    channel: str
    stage: str
    made_at: datetime
    due_at: datetime | None
    """When it is tried next; None if it was told or given up."""
    attempts: int
    told_at: datetime | None
    error: str | None
    """Why it could not be told the last time."""


class Due(NamedTuple):
    """A notice that is to be told now, and its alarm."""

    id: UUID
    stage: Stage
    made_at: datetime
    attempts: int
    alarm: Listed


async def firing_alarms(connection: AsyncConnection) -> list[Firing]:
    """The alarms that have not ended, the last to start first."""
    query = select(*_named(Firing)).where(Alarm.ended_at.is_(None)).order_by(Alarm.id.desc())
    return await read(connection, query.limit(MOST_FIRING), Firing)


async def listed_alarms(connection: AsyncConnection, *, limit: int) -> list[Listed]:
    """The alarms that fire, and then those that ended lately, each the last to start first."""
    fires = Alarm.ended_at.is_(None)
    query = select(*_named(Listed)).order_by(fires.desc(), Alarm.id.desc()).limit(limit)
    return await read(connection, query, Listed)


async def notices_of(connection: AsyncConnection, alarms: Sequence[UUID]) -> list[Kept]:
    """What the channels are told of these alarms, the newest first; at most `MOST_NOTICES`."""
    query = select(*columns(Notice, Kept)).where(Notice.alarm_id.in_(alarms)).order_by(Notice.id.desc())
    return await read(connection, query.limit(MOST_NOTICES), Kept)


async def untold_notices(connection: AsyncConnection) -> int:
    """How many notices wait to be told; at most `MOST_FIRING`."""
    some = select(literal(1)).where(Notice.due_at.is_not(None)).limit(MOST_FIRING).subquery()
    return await connection.scalar(select(func.count()).select_from(some)) or 0


async def keep(connection: AsyncConnection, changed: Changes, channels: Sequence[str], *, now: datetime) -> None:
    """Stores the changes, and a notice for each channel of all that is to be told. Does not commit."""
    if changed.started:
        await connection.execute(insert(Alarm), [asdict(alarm) for alarm in changed.started])
    for alarm in (*changed.lasting, *changed.kept):
        await _change(connection, alarm, ended_at=None)
    for alarm in changed.ended:
        await _change(connection, alarm, ended_at=now)
    stages: Iterable[tuple[Stage, list[Firing]]] = (
        (Stage.STARTED, changed.started),
        (Stage.LASTS, changed.lasting),
        (Stage.ENDED, changed.ended),
    )
    notices = [
        {
            "id": new_id(),
            "alarm_id": alarm.id,
            "channel": channel,
            "stage": stage.value,
            "made_at": now,
            "due_at": now,
            "attempts": 0,
        }
        for stage, alarms in stages
        for alarm in alarms
        for channel in channels
    ]
    if notices:
        await connection.execute(insert(Notice), notices)
    if changed.ended:
        await _forget(connection, now=now)


async def due_notices(connection: AsyncConnection, channel: str, *, now: datetime) -> list[Due]:
    """What a channel is to be told now. Of an alarm, nothing is told before what came earlier."""
    query = (
        select(Notice.id, Notice.stage, Notice.made_at, Notice.attempts, Notice.due_at, *_named(Listed, "alarm_"))
        .join(Alarm, Alarm.id == Notice.alarm_id)
        .where(Notice.channel == channel, Notice.due_at.is_not(None))
        .order_by(Notice.id)
        .limit(MOST_DUE)
    )
    seen: set[UUID] = set()
    found = []
    for row in (await connection.execute(query)).mappings():
        alarm = Listed(**{name: row[f"alarm_{name}"] for name in Listed.__slots__})
        is_first, is_due = alarm.id not in seen, row["due_at"] <= now or row["due_at"] - now > LONGEST_REST
        seen.add(alarm.id)
        if is_first and is_due:
            found.append(Due(row["id"], Stage(row["stage"]), row["made_at"], row["attempts"], alarm))
    return found


async def told(connection: AsyncConnection, notice: UUID, *, now: datetime) -> None:
    """Stores that a notice was told. Does not commit."""
    values = {"told_at": now, "due_at": None, "attempts": Notice.attempts + 1, "error": None}
    await connection.execute(update(Notice).where(Notice.id == notice).values(values))


async def untold(connection: AsyncConnection, notice: Due, error: str, *, now: datetime) -> datetime | None:
    """Stores that a notice could not be told. Does not commit.

    Returns when it is tried again; None if it is given up.
    """
    again_at: datetime | None = now + min(LONGEST_REST, FIRST_REST * 2 ** min(notice.attempts, 10))
    if now - notice.made_at >= GIVEN_UP_AFTER:
        again_at = None
    values = {"due_at": again_at, "attempts": Notice.attempts + 1, "error": error}
    await connection.execute(update(Notice).where(Notice.id == notice.id).values(values))
    return again_at


async def drop_notices(connection: AsyncConnection, channels: Sequence[str]) -> int:
    """Gives up what waits for channels that are not among these any more. Does not commit. Returns how many."""
    old = update(Notice).where(Notice.due_at.is_not(None), Notice.channel.not_in(channels))
    done = await connection.execute(old.values(due_at=None, error="The channel is not in the settings any more."))
    return done.rowcount


def _named(kind: type[Firing | Listed], prefix: str = "") -> list[ColumnElement[Any]]:
    """The columns of the table that are fields of a dataclass by keyword."""
    return [column.label(prefix + column.name) for column in Alarm.__table__.columns if column.name in kind.__slots__]


async def _change(connection: AsyncConnection, alarm: Firing, *, ended_at: datetime | None) -> None:
    values = asdict(alarm) | {"ended_at": ended_at}
    await connection.execute(update(Alarm).where(Alarm.id == values.pop("id")).values(values))


async def _forget(connection: AsyncConnection, *, now: datetime) -> None:
    old = select(Alarm.id).where(Alarm.ended_at < now - KEPT)
    await connection.execute(delete(Notice).where(Notice.alarm_id.in_(old)))
    await connection.execute(delete(Alarm).where(Alarm.ended_at < now - KEPT))

"""The table of processes: who runs, with which release and settings, and who has fallen silent."""

import os
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from secrets import token_hex
from typing import Literal, NamedTuple, Self
from uuid import UUID, uuid4

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns, read
from app.database.writing import upsert
from app.telemetry.tables import Process

BEAT = timedelta(seconds=10)
SILENT = timedelta(seconds=45)
"""After so long without a beat a process is taken for dead: a busy machine or a slow database costs some beats."""

KEPT = timedelta(days=1)
DELETED_AT_ONCE = 100

Kind = Literal["receiver", "worker"]


def new_name() -> str:
    """A name that no other process has: host, process id and a random part."""
    return f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"


class Gauges(NamedTuple):
    """What a receiver says of itself beside its beat; a worker has none of it."""

    waiting_events: int | None = None
    spooled_events: int | None = None
    spooled_bytes: int | None = None
    log_lines_dropped: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a process says of itself once."""

    id: UUID
    kind: Kind
    name: str
    host: str
    pid: int
    version: str
    settings: str
    started_at: datetime

    @classmethod
    def of_this_process(cls, kind: Kind, *, name: str, settings: str, now: datetime) -> Self:
        """This process's; `settings` is their digest."""
        return cls(
            id=uuid4(),
            kind=kind,
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version("priohook"),
            settings=settings,
            started_at=now,
        )


class Seen(NamedTuple):
    """A process as it last said of itself."""

    id: UUID
    kind: str
    name: str
    host: str
    pid: int
    version: str
    settings: str
    started_at: datetime
    beat_at: datetime
    ended_at: datetime | None
    waiting_events: int | None
    spooled_events: int | None
    spooled_bytes: int | None
    log_lines_dropped: int | None

    def state(self, *, now: datetime) -> Literal["running", "silent", "ended"]:
        """`silent` is one that neither beats nor ended in good order: it died, or its database is away."""
        if self.ended_at is not None:
            return "ended"
        return "running" if self.beat_at > now - SILENT else "silent"


async def beat(
    connection: AsyncConnection, identity: Identity, gauges: Gauges, *, now: datetime, ended: bool = False
) -> None:
    """Writes the row of a process. Does not commit."""
    said = {"beat_at": now, "ended_at": now if ended else None, **gauges._asdict()}
    who = {name: getattr(identity, name) for name in Identity.__slots__}
    await upsert(connection, Process, [who | said], key=("id",), changes=lambda new: {name: new[name] for name in said})


async def forget_processes(connection: AsyncConnection, *, now: datetime) -> None:
    """Deletes some of the rows of processes that were last heard of more than `KEPT` ago. Does not commit."""
    old = select(Process.id).where(Process.beat_at < now - KEPT).order_by(Process.beat_at).limit(DELETED_AT_ONCE)
    await connection.execute(delete(Process).where(Process.id.in_(old)))


async def list_processes(connection: AsyncConnection, *, since: datetime) -> list[Seen]:
    """The processes that run or were heard of since a time, those that beat last first."""
    query = select(*columns(Process, Seen)).where(Process.beat_at >= since)
    return await read(connection, query.order_by(Process.beat_at.desc(), Process.id), Seen)


async def last_beat(connection: AsyncConnection, kind: Kind) -> datetime | None:
    """When a process of this kind last gave a sign of life, also if it has ended; None if none did within a day."""
    newest = select(Process.beat_at).where(Process.kind == kind).order_by(Process.beat_at.desc()).limit(1)
    at: datetime | None = await connection.scalar(newest)
    return at


async def running_processes(connection: AsyncConnection, *, now: datetime) -> list[Seen]:
    """The processes that run, those that beat last first."""
    seen = await list_processes(connection, since=now - SILENT)
    return [each for each in seen if each.state(now=now) == "running"]

"""The places that priohook writes to: the database, and the spool if there is one."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from app.database.engines import is_sqlite, sqlite_path
from app.events.spool_contents import glance_at, spool_files
from app.events.spool_problems import SpoolProblem
from app.settings.model import Settings

MOST_FILES = 64


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk of a place on this host."""

    place: str
    """`database` or `spool`."""
    path: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class SpoolFolder:
    """What waits in the spool of this host."""

    path: str
    events: int
    bytes: int
    """The size of the files."""
    oldest_at: datetime | None
    refused: str | None
    """Why the database refused one of the oldest events, which stays there."""
    unreadable: tuple[str, ...]
    """What is wrong with files that cannot be read."""


def disks(settings: Settings) -> list[Disk]:
    """The disks of a SQLite file and of the spool; PostgreSQL's own is not known here."""
    places = {"spool": settings.spool}
    if is_sqlite(settings.database_url):
        places["database"] = sqlite_path(settings.database_url).resolve().parent
    found = []
    for place, path in sorted(places.items()):
        with suppress(OSError):
            if path is not None:
                usage = shutil.disk_usage(path)
                found.append(Disk(place, str(path), usage.free, usage.total))
    return found


async def spool_folder(settings: Settings) -> SpoolFolder | None:
    """What waits in the spool; None without a spool, and on a host that has no such folder."""
    if settings.spool is None or not await asyncio.to_thread(settings.spool.is_dir):
        return None
    return await asyncio.to_thread(_spool_folder, settings.spool)


def _spool_folder(folder: Path) -> SpoolFolder:
    paths = spool_files(folder)[:MOST_FILES]
    glances, unreadable = [], []
    for path in paths:
        try:
            glances.append(glance_at(path))
        except SpoolProblem as error:
            if path.exists():  # otherwise its process has just moved what was there
                unreadable.append(str(error))
    return SpoolFolder(
        path=str(folder),
        events=sum(glance.events for glance in glances),
        bytes=sum(_sizes(paths)),
        oldest_at=min((glance.oldest for glance in glances if glance.oldest is not None), default=None),
        refused=next((glance.refused for glance in glances if glance.refused is not None), None),
        unreadable=tuple(unreadable),
    )


def _sizes(paths: list[Path]) -> Iterator[int]:
    for path in paths:
        with suppress(OSError):
            yield path.stat().st_size

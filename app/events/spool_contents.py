"""What a folder of the spool holds, for anyone who looks."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from app.database.sqlite import is_damage
from app.events.spool_lock import is_of_spool, lock
from app.events.spool_problems import SpoolProblem, problems
from app.events.spool_rows import SIZE, time_of
from app.events.tables import header_pairs

NAMES = "spool-*.db"
GLANCED_AT = 100  # events
FIRST = "SELECT received_at, refused FROM spooled ORDER BY position LIMIT ?"
EVENTS = "SELECT id, reference, headers, body FROM spooled ORDER BY position"


def spool_files(folder: Path) -> list[Path]:
    """The files of the spool in a folder, whether a process has them or not, the oldest first."""
    return sorted(folder.glob(NAMES))


class Content(NamedTuple):
    """What a file of the spool holds."""

    file: str
    in_use: bool
    """Whether a process has it, which moves the events by itself."""
    events: int
    bytes: int | None
    oldest: datetime | None
    refused: int
    """How many of its events the database refused when they were last moved."""
    problem: str | None
    """Why events stay in the file."""


def content_of(path: Path) -> Content:
    """What a file of the spool holds now. Reads beside the process that has it.

    Raises:
        SpoolProblem: it cannot be read, or is another file.
    """
    with problems(path):
        in_use = _is_in_use(path)
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            (events,) = connection.execute("SELECT count(*) FROM spooled").fetchone()  # read from the index of keys
            try:
                (_, size) = connection.execute(SIZE).fetchone()
                (oldest,) = connection.execute("SELECT min(received_at) FROM spooled").fetchone()
                refused, why = connection.execute("SELECT count(refused), min(refused) FROM spooled").fetchone()
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                damaged = "The file is damaged. Move its events, and keep the file."
                return Content(str(path), in_use, events, None, None, 0, damaged)
    return Content(
        file=str(path),
        in_use=in_use,
        events=events,
        bytes=size,
        oldest=None if oldest is None else time_of(oldest),
        refused=refused,
        problem=why and f"The database refuses events: {why}",
    )


class Spooled(NamedTuple):
    """An event that waits in a file of the spool."""

    id: UUID
    reference: str | None
    headers: list[list[str]]
    body: bytes


def events_in(path: Path) -> Iterator[Spooled]:
    """The events in a file of the spool now. Reads beside the process that has it.

    Raises:
        SpoolProblem: it cannot be read.
    """
    with problems(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        for event_id, reference, headers, body in connection.execute(EVENTS):
            yield Spooled(UUID(bytes=event_id), reference, header_pairs(headers), body)


class Glance(NamedTuple):
    """What a look at the first events of a file tells."""

    events: int
    oldest: datetime | None
    refused: str | None
    """Why the database refused one of the first events when it was last moved."""


def glance_at(path: Path) -> Glance:
    """What waits in a file, in milliseconds however large it is.

    Raises:
        SpoolProblem: it cannot be read.
    """
    with problems(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        (events,) = connection.execute("SELECT count(*) FROM spooled").fetchone()  # read from the index of keys
        first = connection.execute(FIRST, (GLANCED_AT,)).fetchall()
    oldest = min((received_at for received_at, _ in first), default=None)
    refused = next((why for _, why in first if why is not None), None)
    return Glance(events, None if oldest is None else time_of(oldest), refused)


def _is_in_use(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if not is_of_spool(descriptor):
            raise SpoolProblem(not_of_spool(path))
    finally:
        os.close(descriptor)
    held = lock(path)
    if held is not None:
        os.close(held)
    return held is None


def not_of_spool(path: Path) -> str:
    """What is wrong with another file."""
    return f"{path.name} is not a file of the spool, or its first page is damaged."

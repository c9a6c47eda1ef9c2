"""What a database says of a move from SQLite to PostgreSQL: one is under way, or everything has left.

    copying ──▶ resting ──▶ moved
       ▲           │
       └───────────┘  it takes too long, or the command has ended

copying  all goes on as before
resting  workers have ended, and receivers prepare to use PostgreSQL
moved    triggers refuse every change; all is in PostgreSQL

The SQLite file says so in a table, and `priohook move` writes it. Until the last step PostgreSQL has a table of that
name too, so that nothing else uses what is not complete.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import time
from typing import Any

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.problems import DatabaseProblem

TABLE = "priohook_move"
READY = "priohook_move_receivers"
"""In the SQLite file: the receivers that looked whether they can use PostgreSQL, each with its problem if it cannot."""

FRESH = 10.0  # seconds; a command that has not beaten for so long has ended, however that came about

PLACES = ("host", "hostaddr", "port")
"""Parameters of a URL that say where the database is."""

MOVED_FILE = 0x7072_6D76
"""The `application_id` of a SQLite file that everything has left."""

REFUSED = "priohook: all was moved to PostgreSQL"
"""What the triggers of such a file say."""

MOVED = "All that was in this SQLite file was moved to PostgreSQL."

_IS_THERE = text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name")
_READ = text(f"SELECT token, target, url, phase, beat_at FROM {TABLE}")  # noqa: S608
_IS_COPIED = text(f"SELECT to_regclass('{TABLE}') IS NOT NULL")


class Moved(DatabaseProblem):
    """Everything that was in the SQLite file is in PostgreSQL now."""


class NotComplete(DatabaseProblem):
    """A move into this database has not ended."""


class Phase(StrEnum):
    """See the states above."""

    COPYING = "copying"
    RESTING = "resting"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Move:
    """A move as the SQLite file has it.

    Attributes:
        token: Tells it from other moves.
        target: Where to, without a password.
        url: Where to; None once nobody needs it any more.
        phase: How far it has come.
        beat_at: When the command last gave a sign of life, in seconds since 1970.
    """

    token: str
    target: str
    url: str | None
    phase: Phase
    beat_at: float

    def rests(self, *, now: Callable[[], float] = time) -> bool:
        """Whether workers must not run on the file."""
        return self.phase == Phase.RESTING and abs(now() - self.beat_at) < FRESH

    def refusal(self) -> Moved:
        """What to say to anyone who would use the file."""
        return Moved(
            f"All that was in this SQLite file was moved to {self.target}, and the file takes no changes any more. "
            "Set database_url to that database."
        )


def shown(url: str) -> str:
    """A URL of PostgreSQL as people are told it: which server and database, and no secret."""
    parsed = make_url(url)
    kept = {name: value for name, value in parsed.query.items() if name in PLACES}
    return parsed.set(drivername="postgresql", query=kept)._replace(password=None).render_as_string()


async def read_move(connection: AsyncConnection) -> Move | None:
    """The move of a SQLite file; None if there is none."""
    if not await connection.scalar(_IS_THERE, {"name": TABLE}):
        return None
    row = (await connection.execute(_READ)).one_or_none()
    return None if row is None else Move(row.token, row.target, row.url, Phase(row.phase), row.beat_at)


async def check_not_leaving(connection: AsyncConnection) -> None:
    """Returns if what is in the database is complete.

    Raises:
        Moved: everything has left the SQLite file.
        NotComplete: a move into the PostgreSQL database has not ended.
    """
    if connection.dialect.name == "sqlite":
        move = await read_move(connection)
        if move is not None and move.phase == Phase.MOVED:
            raise move.refusal()
    elif await connection.scalar(_IS_COPIED):
        raise NotComplete(
            "A `priohook move` into this database has not ended, and until then the SQLite file counts. Run it again "
            "with database_url naming that file."
        )


async def say_ready(engine: AsyncEngine, name: str, problem: str | None) -> None:
    """Notes in the SQLite file whether a receiver can use PostgreSQL."""
    async with engine.begin() as connection:
        await connection.execute(text("BEGIN IMMEDIATE"))
        values: dict[str, Any] = {"name": name, "problem": problem}
        await connection.execute(text(f"INSERT OR REPLACE INTO {READY} VALUES (:name, :problem)"), values)  # noqa: S608


async def complete(engine: AsyncEngine) -> None:
    """Lets the PostgreSQL database be used. Call it only once the SQLite file says that all has left it."""
    async with engine.begin() as connection:
        await connection.execute(text(f"DROP TABLE IF EXISTS {TABLE}"))

"""Space: what the database takes on disk, what of that is free inside, and how fast it grows."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.events.ids import id_floor, made_at
from app.events.tables import Event

FEWEST_PAGES, MOST_PAGES = 8, 4096
HOLDS = 0.02  # seconds that a step of the vacuum should take
SLACK = 0.05
"""The share of free pages that a SQLite file keeps: new events take them at once."""

SLACK_PAGES = 1000
INCREMENTAL = 2  # SQLite's number for it

ENOUGH = 10_000
"""Stored events, without which their size cannot be told from that of an empty database."""

SAMPLED = 100_000
SHORTEST, DAY, WEEK = timedelta(seconds=1), timedelta(days=1), timedelta(days=7)

TABLES = text("""
SELECT relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid),
    greatest(last_vacuum, last_autovacuum)
FROM pg_stat_user_tables WHERE relname IN ('events', 'deliveries', 'attempts', 'deleted_events')
ORDER BY pg_total_relation_size(relid) DESC
""")
SIZE = text("SELECT sum(pg_total_relation_size(relid))::int8 FROM pg_stat_user_tables")
ESTIMATED = text("SELECT reltuples::int8 FROM pg_class WHERE oid = 'events'::regclass")


class Pages(NamedTuple):
    """The pages of a SQLite file."""

    all: int
    free: int
    """How many hold nothing; new rows take them."""
    bytes: int
    """Of one page."""
    shrinks: bool
    """Whether free pages can be given back to the disk step by step. A file of an earlier release needs a VACUUM."""

    @property
    def too_many(self) -> int:
        """How many free pages to give back."""
        return max(0, self.free - max(SLACK_PAGES, int(self.all * SLACK)))


class TableSpace(NamedTuple):
    """A table of PostgreSQL with its indexes and TOAST table."""

    name: str
    rows: int
    dead: int
    """Deleted or old versions of rows, whose space the next vacuum gives free. An estimate, like `rows`."""
    bytes: int
    vacuumed_at: object


@dataclass(frozen=True, slots=True)
class Growth:
    """How fast the database grows, if nothing is deleted. Estimates."""

    events_per_day: float
    bytes_per_event: float
    """Of all tables and indexes."""

    @property
    def bytes_per_day(self) -> float:
        return self.events_per_day * self.bytes_per_event


async def pages(connection: AsyncConnection) -> Pages:
    """The pages of the SQLite file."""
    names = ("page_count", "freelist_count", "page_size", "auto_vacuum")
    count, free, size, mode = [int(await connection.scalar(text(f"PRAGMA {name}")) or 0) for name in names]
    return Pages(count, free, size, mode == INCREMENTAL)


async def table_spaces(connection: AsyncConnection) -> list[TableSpace]:
    """The tables of PostgreSQL that retention deletes from, the largest first."""
    return [TableSpace(*row) for row in await connection.execute(TABLES)]


async def database_bytes(connection: AsyncConnection) -> int:
    """What the database takes on disk, without PostgreSQL's or SQLite's log."""
    if connection.dialect.name == "sqlite":
        found = await pages(connection)
        return found.all * found.bytes
    return int(await connection.scalar(SIZE) or 0)


async def stored_events(connection: AsyncConnection) -> int:
    """About how many events are stored, without counting them."""
    if connection.dialect.name == "sqlite":
        # In order of arrival. With both in one SELECT, SQLite reads all rows.
        rows = text("SELECT (SELECT max(rowid) FROM events) - (SELECT min(rowid) FROM events) + 1")
        return int(await connection.scalar(rows) or 0)
    return max(0, int(await connection.scalar(ESTIMATED) or 0))


async def growth(connection: AsyncConnection, *, now: datetime) -> Growth | None:
    """How fast the database has grown lately; None while it has too few events to tell.

    The rate is that of the last week, or of the newest `SAMPLED` events if the week has more. Costs some milliseconds.
    """
    events = await stored_events(connection)
    if events < ENOUGH:
        return None
    sample = select(Event.id).where(Event.id >= id_floor(now - WEEK)).order_by(Event.id.desc()).limit(SAMPLED)
    count = int(await connection.scalar(select(func.count()).select_from(sample.subquery())) or 0)
    source = sample.subquery() if count == SAMPLED else Event.__table__
    oldest = await connection.scalar(select(source.c.id).order_by(source.c.id).limit(1))
    span = min(WEEK, now - made_at(oldest)) if oldest else WEEK
    if count < SAMPLED:
        span = max(DAY, span)  # what came at once in a new database does not go on coming
    used = await database_bytes(connection)
    if connection.dialect.name == "sqlite":
        found = await pages(connection)
        used -= found.free * found.bytes
    return Growth(count / (max(span, SHORTEST) / DAY), used / events)


async def shrink(engine: AsyncEngine, *, rests: float) -> int:
    """Gives free pages of a SQLite file back to the disk, and returns how many. Does nothing on PostgreSQL.

    The file itself shrinks when SQLite next copies its log into it, which a receiver does all the time.
    """
    if engine.dialect.name != "sqlite":
        return 0
    given, step = 0, FEWEST_PAGES
    while True:
        async with engine.connect() as connection:
            found = await pages(connection)
            step = min(step, found.too_many)
            if not step or not found.shrinks:
                return given
            driver: Any = (await connection.get_raw_connection()).driver_connection
            began = monotonic()
            # A script, as a statement would end after one page: it has a row without columns for each.
            await driver.executescript(f"PRAGMA incremental_vacuum({step})")
            held = monotonic() - began
        given += step
        step = max(FEWEST_PAGES, min(MOST_PAGES, int(step * min(2.0, HOLDS / max(held, HOLDS / 100)))))
        await asyncio.sleep(held * rests)

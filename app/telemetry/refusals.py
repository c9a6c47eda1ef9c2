"""The table of refusals: what was refused in the last seven days, by minute."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns, read
from app.database.writing import upsert
from app.telemetry.tables import RefusedMinute
from app.telemetry.tally import Refusal

KEPT = timedelta(days=7)
MINUTES_AT_ONCE = 20
"""The most that one statement deletes; a minute has few rows."""

KEY = ("minute", "door", "status", "reason", "address", "client")


class Refused(NamedTuple):
    """How many requests of one kind were refused within a minute."""

    minute: datetime
    door: str
    status: int
    reason: str
    address: str
    client: str
    requests: int


class RefusedSince(NamedTuple):
    """How many requests of one kind were refused since a time, and in which minute the last one was."""

    door: str
    status: int
    reason: str
    address: str
    client: str
    requests: int
    last: datetime


async def add_refusals(connection: AsyncConnection, counted: Mapping[Refusal, int]) -> None:
    """Adds the counts of one process to those of the others. Does not commit."""
    rows = [
        refusal._asdict() | {"minute": datetime.fromtimestamp(refusal.minute, UTC), "requests": requests}
        for refusal, requests in sorted(counted.items())  # two processes take their locks in the same order
    ]
    await upsert(
        connection,
        RefusedMinute,
        rows,
        key=KEY,
        changes=lambda new: {"requests": RefusedMinute.requests + new["requests"]},
    )


async def forget_refusals(connection: AsyncConnection, *, now: datetime) -> None:
    """Deletes some of the minutes that are older than `KEPT`. Does not commit."""
    old = select(RefusedMinute.minute).where(RefusedMinute.minute < now - KEPT).distinct()
    minutes = old.order_by(RefusedMinute.minute).limit(MINUTES_AT_ONCE)
    await connection.execute(delete(RefusedMinute).where(RefusedMinute.minute.in_(minutes)))


async def list_refusals(connection: AsyncConnection, *, since: datetime, limit: int) -> list[Refused]:
    """The refusals of each minute, the latest first."""
    newest = RefusedMinute.minute.desc(), RefusedMinute.requests.desc(), *(getattr(RefusedMinute, name) for name in KEY)
    query = select(*columns(RefusedMinute, Refused)).where(RefusedMinute.minute >= _minute(since))
    return await read(connection, query.order_by(*newest).limit(limit), Refused)


async def sum_refusals(connection: AsyncConnection, *, since: datetime, limit: int) -> list[RefusedSince]:
    """The refusals since a time as one row for each kind: those of clients first, then those of strangers.

    Of each, the most frequent come first. However many addresses a stranger has, clients stay within the limit.
    """
    kind = [getattr(RefusedMinute, name) for name in KEY[1:]]
    requests = func.sum(RefusedMinute.requests).label("requests")
    last = func.max(RefusedMinute.minute, type_=RefusedMinute.minute.type).label("last")
    query = select(*kind, requests, last).where(RefusedMinute.minute >= _minute(since)).group_by(*kind)
    order = (RefusedMinute.client == "", requests.desc(), last.desc(), *kind)
    rows = await read(connection, query.order_by(*order).limit(limit), RefusedSince)
    return [row._replace(requests=int(row.requests)) for row in rows]


def _minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)

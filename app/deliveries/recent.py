"""The last attempts at a destination: how they ended, and how long they took. Bounded, for any queue."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import ceil
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import read
from app.deliveries.tables import DEAD, FAILING, RESULT, Attempt, AttemptResult, Delivery
from app.events.ids import id_floor

NEWEST = 100
"""How many deliveries of each kind are looked at: the newest of all, of those that fail and of those that are dead."""

MOST = 200
"""How many attempts are given."""


class RecentAttempt(NamedTuple):
    """An attempt that has ended."""

    delivery_id: UUID
    number: int
    started_at: datetime
    duration_ms: int | None
    status: int | None
    result: str
    error: str | None
    reference: str | None = None


class Performance(NamedTuple):
    """How the last attempts went."""

    attempts: int
    since: datetime | None
    """When the oldest of them began."""
    results: Mapping[str, int]
    """How many had each result, the most frequent first."""
    p50_ms: int | None
    """Half of those that were answered took no longer."""
    p95_ms: int | None
    last_failure: RecentAttempt | None


class _First(NamedTuple):
    id: UUID
    reference: str | None
    first_started_at: datetime | None
    first_duration_ms: int | None
    first_status: int | None


async def recent_attempts(
    connection: AsyncConnection, destination: str, *, trouble_since: datetime | None = None
) -> list[RecentAttempt]:
    """The last attempts, the newest first, of the newest deliveries; up to `MOST`.

    Args:
        connection: A connection to the database.
        destination: The destination's name.
        trouble_since: Since when it has failed or been paused. Its newest deliveries may all wait since then, so those
            before it are looked at too.
    """
    of_this = Delivery.destination == destination
    kinds = [[of_this], [of_this, FAILING], [of_this, DEAD]]
    if trouble_since is not None:
        kinds.append([of_this, Delivery.id < id_floor(trouble_since)])
    newest = (select(*_FIRST).where(*kind).order_by(Delivery.id.desc()).limit(NEWEST).subquery() for kind in kinds)
    rows = await connection.execute(union_all(*(select(each) for each in newest)))
    firsts = {_First(*row) for row in rows}  # a delivery may be of several kinds
    references = {first.id: first.reference for first in firsts}
    query = select(*_ATTEMPT).where(Attempt.delivery_id.in_(list(references)))
    tried = await read(connection, query.order_by(Attempt.started_at.desc()).limit(MOST), RecentAttempt)
    at_once = (
        RecentAttempt(first.id, 1, first.first_started_at, first.first_duration_ms, first.first_status, DELIVERED, None)
        for first in firsts
        if first.first_started_at is not None
    )
    # After a connection that broke during a commit, an attempt may be both a row and its delivery's first.
    found = {(each.delivery_id, each.number): each for each in (*at_once, *tried)}
    last = sorted(found.values(), key=lambda attempt: attempt.started_at, reverse=True)[:MOST]
    return [attempt._replace(reference=references[attempt.delivery_id]) for attempt in last]


def performance(attempts: Sequence[RecentAttempt]) -> Performance:
    """How these attempts went, the newest first."""
    took = sorted(each.duration_ms for each in attempts if each.status is not None and each.duration_ms is not None)
    return Performance(
        attempts=len(attempts),
        since=attempts[-1].started_at if attempts else None,
        results=dict(Counter(attempt.result for attempt in attempts).most_common()),
        p50_ms=quantile(took, 0.5),
        p95_ms=quantile(took, 0.95),
        last_failure=next((each for each in attempts if each.result != DELIVERED), None),
    )


def quantile(ascending: Sequence[int], share: float) -> int | None:
    """The smallest value that is not exceeded by this share of the values; None if there are none."""
    return ascending[max(0, ceil(share * len(ascending)) - 1)] if ascending else None


DELIVERED = AttemptResult.DELIVERED.value
_FIRST = [getattr(Delivery, name) for name in _First._fields]
_ATTEMPT: list[ColumnElement[Any]] = [
    RESULT.label("result") if name == "result" else getattr(Attempt, name)
    for name in RecentAttempt._fields
    if name != "reference"
]

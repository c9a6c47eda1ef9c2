"""The outcomes of attempts, and what they mean for the deliveries."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.deliveries.claims import Claim, Limits
from app.deliveries.queue import drop_cancelled, prefer_live, promote
from app.deliveries.retry import delay_after_loss, next_delay
from app.deliveries.tables import Attempt, AttemptResult, DeliveryStatus
from app.deliveries.transitions import END, Change, dead, delivered, gone, retried


class Outcome(NamedTuple):
    """The outcome of an attempt, with the status of its answer or an error."""

    result: AttemptResult
    """If it is `LOST`, the delivery is sent alone from now on."""
    status: int | None = None
    error: str | None = None
    answer: bytes | None = None
    retry_after: timedelta | None = None
    counts: bool = True
    """Whether it counts towards dead. If several attempts were lost together it does not: only one is to blame."""


class Ended(NamedTuple):
    """A finished attempt."""

    claim: Claim
    started_at: datetime
    duration: timedelta
    outcome: Outcome


async def record(
    connection: AsyncConnection, limits: Limits, ended: Sequence[Ended], *, worker: str, now: datetime
) -> list[Ended]:
    """Records the attempts and changes their deliveries; returns those whose deliveries are now dead.

    The caller holds the destination's lock.
    """
    changes = [(attempt, _became(attempt, now=now)) for attempt in ended]
    await connection.execute(END, [_values(attempt, change, worker=worker) for attempt, change in changes])
    await _keep(connection, [_attempt(attempt) for attempt in ended])
    failed = [attempt.claim for attempt in ended if attempt.outcome.result is not AttemptResult.DELIVERED]
    await drop_cancelled(connection, [(claim.delivery_id, claim.replay_id) for claim in failed], now=now)
    over = [attempt.claim.reference for attempt, change in changes if change.finished_at is not None]
    await promote(connection, limits.name, {reference for reference in over if reference is not None}, now=now)
    replayed = {attempt.claim.reference for attempt in ended if attempt.claim.replay_id is not None}
    await prefer_live(connection, limits.name, {reference for reference in replayed if reference is not None}, now=now)
    return [attempt for attempt, change in changes if change.status is DeliveryStatus.DEAD]


async def _keep(connection: AsyncConnection, attempts: Sequence[dict[str, Any]]) -> None:
    """Inserts the attempts. One that was recorded as lost, and so has no duration, is updated."""
    insert = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(Attempt)
    columns = ("started_at", "duration_ms", "status", "result", "error", "answer")
    known = {name: insert.excluded[name] for name in columns}
    key = (Attempt.delivery_id, Attempt.number)
    late = insert.on_conflict_do_update(index_elements=key, set_=known, where=Attempt.duration_ms.is_(None))
    await connection.execute(late, attempts)


def _attempt(ended: Ended) -> dict[str, Any]:
    return {
        "delivery_id": ended.claim.delivery_id,
        "number": ended.claim.attempt,
        "started_at": ended.started_at,
        "duration_ms": ended.duration // timedelta(milliseconds=1),
        "status": ended.outcome.status,
        "result": ended.outcome.result.value,
        "error": _text(ended.outcome.error),
        "answer": ended.outcome.answer,
    }


def _text(error: str | None) -> str | None:
    """The text with NULs and lone surrogates escaped, which a function's exception may hold and no database takes."""
    if error is None:
        return None
    return error.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def _losses(ended: Ended) -> int:
    """How many attempts in a row were lost with their process; an attempt that was never made changes nothing."""
    if ended.outcome.result is AttemptResult.LOST:
        return ended.claim.lost + 1
    return 0 if ended.outcome.counts else ended.claim.lost


def _values(ended: Ended, change: Change, *, worker: str) -> dict[str, Any]:
    return {
        "delivery_id": ended.claim.delivery_id,
        "worker": worker,
        "number": ended.claim.attempt,
        "losses": _losses(ended),
        "uncounted": 0 if ended.outcome.counts else 1,
        "new_status": change.status.value,
        "due": change.due_at,
        "finished": change.finished_at,
    }


def _became(ended: Ended, *, now: datetime) -> Change:
    if ended.outcome.result is AttemptResult.DELIVERED:
        return delivered(now=now)
    if ended.outcome.result is AttemptResult.GONE:
        return gone(now=now)
    if ended.outcome.counts:
        delay = next_delay(ended.claim.tries, retry_after=ended.outcome.retry_after)
    else:
        delay = delay_after_loss(ended.claim.tries, lost=ended.claim.lost)
    return dead(now=now) if delay is None else retried(at=now + delay)

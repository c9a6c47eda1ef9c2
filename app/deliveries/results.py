"""What came of attempts, and what follows for their deliveries."""

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
    """What came of an attempt, with the status of an answer or an error."""

    result: AttemptResult
    """When it is `LOST`, the delivery is tried alone from now on."""
    status: int | None = None
    error: str | None = None
    answer: bytes | None = None
    retry_after: timedelta | None = None
    counts: bool = True
    """Whether it counts towards dead. A loss with several attempts under way does not: one of them is to blame."""


class Ended(NamedTuple):
    """An attempt that came to its end."""

    claim: Claim
    started_at: datetime
    duration: timedelta
    outcome: Outcome


async def record(
    connection: AsyncConnection, limits: Limits, ended: Sequence[Ended], *, worker: str, now: datetime
) -> list[Ended]:
    """Records the attempts, and what follows; those whose deliveries are dead now. The caller holds the lock."""
    changes = [_change(each, worker=worker, now=now) for each in ended]
    await connection.execute(END, changes)
    await _keep(connection, [_attempt(each) for each in ended])
    failed = [each.claim for each in ended if each.outcome.result is not AttemptResult.DELIVERED]
    await drop_cancelled(connection, [(claim.delivery_id, claim.replay_id) for claim in failed], now=now)
    over = [each.claim.reference for each, change in zip(ended, changes, strict=True) if change["finished"]]
    await promote(connection, limits.name, {each for each in over if each is not None}, now=now)
    replayed = {each.claim.reference for each in ended if each.claim.replay_id is not None}
    await prefer_live(connection, limits.name, {each for each in replayed if each is not None}, now=now)
    outcomes = zip(ended, changes, strict=True)
    return [each for each, change in outcomes if change["new_status"] == DeliveryStatus.DEAD]


async def _keep(connection: AsyncConnection, attempts: Sequence[dict[str, Any]]) -> None:
    """Inserts the attempts; one that was thought lost, and so has no duration, gets what came of it."""
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
    """As both databases take it: a function's exception may hold NULs and halves of characters."""
    if error is None:
        return None
    return error.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def _losses(each: Ended) -> int:
    """Attempts in a row that ended with their process; one that was not made leaves the number as it is."""
    if each.outcome.result is AttemptResult.LOST:
        return each.claim.lost + 1
    return 0 if each.outcome.counts else each.claim.lost


def _change(each: Ended, *, worker: str, now: datetime) -> dict[str, Any]:
    change = {
        "delivery_id": each.claim.delivery_id,
        "worker": worker,
        "number": each.claim.attempt,
        "losses": _losses(each),
        "uncounted": 0 if each.outcome.counts else 1,
    }
    became = _became(each, now=now)
    return change | {"new_status": became.status.value, "due": became.due_at, "finished": became.finished_at}


def _became(each: Ended, *, now: datetime) -> Change:
    if each.outcome.result is AttemptResult.DELIVERED:
        return delivered(now=now)
    if each.outcome.result is AttemptResult.GONE:
        return gone(now=now)
    if each.outcome.counts:
        delay = next_delay(each.claim.tries, retry_after=each.outcome.retry_after)
    else:
        delay = delay_after_loss(each.claim.tries, lost=each.claim.lost)
    return dead(now=now) if delay is None else retried(at=now + delay)

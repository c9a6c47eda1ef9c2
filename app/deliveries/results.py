"""The outcomes of attempts, and what they mean for the deliveries."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.deliveries.claims import Claim, Held, Limits
from app.deliveries.losses import release
from app.deliveries.queue import drop_cancelled, prefer_live, promote
from app.deliveries.retry import delay_after_loss, next_delay
from app.deliveries.tables import Attempt, AttemptResult, DeliveryStatus
from app.deliveries.transitions import END, Change, dead, delivered, gone, retried
from app.events.tables import Event


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
    certificate_until: datetime | None = None
    """The end of the destination's certificate, if it has one."""


class Ended(NamedTuple):
    """A finished attempt."""

    claim: Claim
    started_at: datetime
    duration: timedelta
    outcome: Outcome


async def record(
    connection: AsyncConnection,
    limits: Limits,
    ended: Sequence[Ended],
    claims: Sequence[Held],
    *,
    worker: str,
    now: datetime,
) -> tuple[list[Ended], list[Held]]:
    """Records the attempts and changes their deliveries. The caller holds the destination's lock.

    Args:
        connection: In a transaction that may write.
        limits: The destination's limits.
        ended: The attempts of this worker that have ended.
        claims: All claims on deliveries of the destination.
        worker: The worker's name.
        now: The time.

    Returns:
        The attempts whose deliveries are now dead, and the claims that are left.
    """
    held = {(claim.delivery_id, claim.attempt) for claim in claims if claim.worker == worker}
    # Of an attempt whose claim has run out only a success counts; and not yet, while the delivery is being sent again:
    # the next one of its reference must not overtake it.
    again = {claim.delivery_id for claim in claims if claim.ends_at > now}
    counting = [
        each for each in ended if _key(each) in held or (_delivers(each) and each.claim.delivery_id not in again)
    ]
    earlier = await _delivered_before(connection, counting)
    begun = {claim.delivery_id: claim.attempt for claim in claims}
    over = {attempt.claim.delivery_id for attempt in counting}
    await release(connection, limits.name, over & begun.keys())
    changes = [
        (attempt, delivered(now=now) if attempt.claim.delivery_id in earlier else _became(attempt, now=now))
        for attempt in counting
    ]
    values = [_values(attempt, change, begun.get(attempt.claim.delivery_id, 0)) for attempt, change in changes]
    first = {_key(attempt) for attempt in counting if attempt.claim.attempt == 1 and _delivers(attempt)} & held
    if changes:
        kept = (_attempt(attempt) if _key(attempt) in first else {} for attempt in counting)
        await connection.execute(END, [each | _first(attempt) for each, attempt in zip(values, kept, strict=True)])
    erased = await _erased(connection, [each for each in ended if _key(each) not in held])
    others = [attempt for attempt in ended if _key(attempt) not in first]
    await _keep(connection, [_attempt(each, told=each.claim.event_id not in erased) for each in others])
    failed = [attempt.claim for attempt in counting if not _delivers(attempt)]
    await drop_cancelled(connection, [(claim.delivery_id, claim.replay_id) for claim in failed], now=now)
    finished = [attempt.claim.reference for attempt, change in changes if change.finished_at is not None]
    await promote(connection, limits.name, {reference for reference in finished if reference is not None}, now=now)
    replayed = {attempt.claim.reference for attempt in counting if attempt.claim.replay_id is not None}
    await prefer_live(connection, limits.name, {reference for reference in replayed if reference is not None}, now=now)
    dead = [attempt for attempt, change in changes if change.status is DeliveryStatus.DEAD]
    return dead, [claim for claim in claims if claim.delivery_id not in over]


def _key(ended: Ended) -> tuple[UUID, int]:
    return ended.claim.delivery_id, ended.claim.attempt


def _delivers(ended: Ended) -> bool:
    return ended.outcome.result is AttemptResult.DELIVERED


def _first(attempt: dict[str, Any]) -> dict[str, Any]:
    """The values with which a delivery keeps its first attempt; all None without one."""
    return {
        "started": attempt.get("started_at"),
        "duration": attempt.get("duration_ms"),
        "answered": attempt.get("status"),
        "answer": attempt.get("answer"),
    }


async def _keep(connection: AsyncConnection, attempts: Sequence[dict[str, Any]]) -> None:
    """Inserts the attempts. One that was recorded as lost, and so has no duration, is updated."""
    if not attempts:
        return
    insert = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(Attempt)
    columns = ("started_at", "duration_ms", "status", "result", "error", "answer")
    known = {name: insert.excluded[name] for name in columns}
    key = (Attempt.delivery_id, Attempt.number)
    late = insert.on_conflict_do_update(index_elements=key, set_=known, where=Attempt.duration_ms.is_(None))
    await connection.execute(late, attempts)


async def _delivered_before(connection: AsyncConnection, ended: Sequence[Ended]) -> set[UUID]:
    """The deliveries of failed attempts that an earlier attempt delivered, as became known after its claim ran out."""
    failed = {each.claim.delivery_id for each in ended if each.claim.attempt > 1 and not _delivers(each)}
    if not failed:
        return set()
    known = (Attempt.delivery_id.in_(failed), Attempt.result == AttemptResult.DELIVERED.value)
    return set(await connection.scalars(select(Attempt.delivery_id).where(*known)))


async def _erased(connection: AsyncConnection, late: Sequence[Ended]) -> set[UUID]:
    """The events of late attempts that were erased since their claims ran out."""
    if not late:
        return set()
    ids = {attempt.claim.event_id for attempt in late}
    return set(await connection.scalars(select(Event.id).where(Event.id.in_(ids), Event.erased_at.is_not(None))))


def _attempt(ended: Ended, *, told: bool = True) -> dict[str, Any]:
    return {
        "delivery_id": ended.claim.delivery_id,
        "number": ended.claim.attempt,
        "started_at": ended.started_at,
        "duration_ms": ended.duration // timedelta(milliseconds=1),
        "status": ended.outcome.status,
        "result": ended.outcome.result.value,
        "error": _text(ended.outcome.error) if told else None,
        "answer": ended.outcome.answer if told else None,
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


def _values(ended: Ended, change: Change, begun: int) -> dict[str, Any]:
    return {
        "delivery_id": ended.claim.delivery_id,
        "number": max(ended.claim.attempt, begun),
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

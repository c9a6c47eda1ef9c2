"""A turn of one destination: what was sent is recorded, what is due is claimed, in one transaction."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from math import floor
from typing import Any, NamedTuple

from sqlalchemy import Row, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.deliveries.claims import MINE, Claim, Limits, claim, count_in_flight, lose, next_due
from app.deliveries.clocks import too_far
from app.deliveries.queue import lock
from app.deliveries.results import Ended, record
from app.deliveries.retry import Circuit
from app.deliveries.tables import AttemptResult, Delivery, Destination
from app.deliveries.transitions import CLAIMED

BURST = timedelta(milliseconds=100)
"""How much of its rate a destination that was idle gets at once."""


class Turn(NamedTuple):
    """What is to be sent now, and when the next turn is worth it if nothing else happens; None is unknown."""

    claims: list[Claim]
    next_at: datetime | None


class News(NamedTuple):
    """A change that somebody should know of: the name of its log line, and the line's fields."""

    event: str
    fields: dict[str, Any]


async def take_turn(
    connection: AsyncConnection,
    limits: Limits,
    state: Row[Any] | None,
    ended: Sequence[Ended],
    *,
    worker: str,
    now: datetime,
    news: list[News] | None = None,
) -> Turn:
    """Records what ended and claims what is due. Does not commit: nothing may be sent before that.

    Args:
        connection: In a transaction that may write.
        limits: The destination's.
        state: Its row, locked; None if it was removed.
        ended: Attempts of claims that this worker made.
        worker: Its name, different from every other's.
        now: The time.
        news: Gets what is worth a warning once it is committed.
    """
    if state is None:
        return Turn([], None)
    changes = await _record(connection, limits, ended, state, worker=worker, now=now, news=news)
    circuit = Circuit(*(changes.get(name, getattr(state, name)) for name in Circuit._fields))
    turn = Turn([], None)
    if (changes.get("paused_at") or state.paused_at) is None:
        turn, next_at = await _claim(connection, limits, circuit, next_at=state.next_at, worker=worker, now=now)
        changes |= {"next_at": next_at} if next_at != state.next_at else {}
    if changes:
        await connection.execute(update(Destination).where(Destination.name == limits.name).values(changes))
    return turn


async def leave(
    connection: AsyncConnection,
    limits: Limits,
    ended: Sequence[Ended],
    *,
    worker: str,
    now: datetime,
    news: list[News] | None = None,
) -> None:
    """Records what ended and gives the worker's other claims back, as attempts whose answer is not known."""
    state = await lock(connection, limits.name)
    if state is None:
        return
    changes = await _record(connection, limits, ended, state, worker=worker, now=now, news=news)
    if changes:
        await connection.execute(update(Destination).where(Destination.name == limits.name).values(changes))
    mine = (await connection.execute(MINE, {"destination": limits.name, "worker": worker})).all()
    if mine:
        await lose(connection, limits.name, mine, now=now, blameless=True)


async def take_back(connection: AsyncConnection, *, now: datetime) -> None:
    """Ends all claims: for a worker that knows itself to be the only one, and so that theirs are a dead one's."""
    await connection.execute(update(Delivery).where(CLAIMED).values(due_at=now))


async def _record(
    connection: AsyncConnection,
    limits: Limits,
    ended: Sequence[Ended],
    state: Row[Any],
    *,
    worker: str,
    now: datetime,
    news: list[News] | None,
) -> dict[str, Any]:
    """Records the attempts; what changes at the destination."""
    if not ended:
        return {}
    dead = await record(connection, limits, ended, worker=worker, now=now)
    circuit = Circuit(state.failures, state.failing_since, state.probe_at)
    for each in ended:
        failed = each.outcome.result is not AttemptResult.DELIVERED
        circuit = circuit.after(failed=failed, now=each.started_at + each.duration)
    changes = {name: value for name, value in circuit._asdict().items() if value != getattr(state, name)}
    if news is not None:
        news.extend(News("delivery_dead", _dead(limits.name, each)) for each in dead)
        news.extend(_of_circuit(limits.name, state, circuit, now=now))
    gone = next((each for each in ended if each.outcome.result is AttemptResult.GONE), None)
    if gone is not None:
        changes |= {"paused_at": now, "paused_reason": f"It answered 410 Gone to event {gone.claim.event_id}."}
    return changes


def _dead(destination: str, ended: Ended) -> dict[str, Any]:
    return {
        "destination": destination,
        "delivery_id": str(ended.claim.delivery_id),
        "event_id": str(ended.claim.event_id),
        "reference": ended.claim.reference,
        "attempts": ended.claim.attempt,
        "status": ended.outcome.status,
        "error": ended.outcome.error,
    }


def _of_circuit(destination: str, before: Row[Any], circuit: Circuit, *, now: datetime) -> Iterator[News]:
    if before.probe_at is None and circuit.probe_at is not None:
        yield News("circuit_opened", {"destination": destination, "failures": circuit.failures})
    if before.probe_at is not None and circuit.probe_at is None:
        seconds = int((now - before.failing_since).total_seconds()) if before.failing_since else None
        fields = {"destination": destination, "failures": before.failures, "seconds": seconds}
        yield News("circuit_closed", fields)


async def _claim(
    connection: AsyncConnection,
    limits: Limits,
    circuit: Circuit,
    *,
    next_at: datetime | None,
    worker: str,
    now: datetime,
) -> tuple[Turn, datetime | None]:
    """The turn, and when `rate` allows the next attempt."""
    flying = await count_in_flight(connection, limits.name, now=now)
    free = circuit.allows(limits.max_in_flight - flying.all, in_flight=flying.all, now=now)
    if free <= 0:
        waits = circuit.probe_at is not None and circuit.probe_at > now
        return Turn([], circuit.probe_at if waits else None), next_at
    if limits.rate is None:
        claims = await claim(connection, limits, free=free, flying=flying, worker=worker, now=now)
    else:
        between = timedelta(seconds=1 / limits.rate)
        since = max(now if next_at is None or too_far(next_at, between, now=now) else next_at, now - BURST)
        if since > now:
            return Turn([], since), next_at
        free = min(free, floor((now - since).total_seconds() * limits.rate) + 1)
        claims = await claim(connection, limits, free=free, flying=flying, worker=worker, now=now)
        if claims:  # else nothing is written: on SQLite each write wakes every worker
            next_at = since + timedelta(seconds=len(claims) / limits.rate)
        if len(claims) == free:
            return Turn(claims, next_at), next_at
    return Turn(claims, await next_due(connection, limits.name, now=now)), next_at

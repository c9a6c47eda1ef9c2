"""A turn of one destination: one transaction that records what was sent and claims what is due."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from math import floor
from typing import Any, NamedTuple

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.deliveries.claims import MARGIN, Claim, Held, Limits, claim, next_due, read_claims
from app.deliveries.clocks import too_far
from app.deliveries.losses import give_back, lose_run_out
from app.deliveries.queue import State, lock
from app.deliveries.results import Ended, record
from app.deliveries.retry import Circuit
from app.deliveries.tables import AttemptResult, Claimed, Delivery, Destination
from app.deliveries.transitions import CLAIMED_BEFORE

BURST = timedelta(milliseconds=100)
"""A destination that was idle may at once get as many deliveries as its rate allows in this time."""


HELD_BACK_AFTER = 3
"""Failed attempts after which it is logged that a delivery holds back its reference; it is tried again all the same."""


class News(NamedTuple):
    """A change to log as a warning: the name of the log event and its fields."""

    event: str
    fields: dict[str, Any]


class Turn(NamedTuple):
    """What to send now, and when the next turn may have something to do; None if that is unknown."""

    claims: list[Claim]
    next_at: datetime | None
    news: Sequence[News] = ()
    """The changes to log after the commit."""


async def take_turn(
    connection: AsyncConnection,
    limits: Limits,
    state: State | None,
    ended: Sequence[Ended],
    *,
    worker: str,
    now: datetime,
) -> Turn:
    """Records what ended and claims what is due. Does not commit; nothing may be sent before the commit.

    Args:
        connection: In a transaction that may write.
        limits: The destination's limits.
        state: The destination's state, its row locked; None if it was removed.
        ended: The attempts of this worker that have ended.
        worker: The worker's name, which no other worker has.
        now: The time.
    """
    if state is None:
        return Turn([], None)
    claims = await read_claims(connection, limits.name)
    became, claims, news = await _record(connection, limits, ended, claims, state, worker=worker, now=now)
    turn = Turn([], None)
    if became.paused_at is None:
        turn, next_at = await _claim(connection, limits, became, claims, worker=worker, now=now)
        became = became._replace(next_at=next_at)
    await _change(connection, limits.name, state, became)
    return turn._replace(news=news)


async def leave(
    connection: AsyncConnection,
    limits: Limits,
    ended: Sequence[Ended],
    *,
    worker: str,
    now: datetime,
) -> list[News]:
    """Records what ended, and gives up the worker's other claims as attempts whose answer is not known.

    Returns the changes to log after the commit.
    """
    state = await lock(connection, limits.name)
    if state is None:
        return []
    claims = await read_claims(connection, limits.name)
    became, _, news = await _record(connection, limits, ended, claims, state, worker=worker, now=now)
    await _change(connection, limits.name, state, became)
    await give_back(connection, limits.name, worker=worker, now=now)
    return news


async def take_back(connection: AsyncConnection, *, now: datetime) -> None:
    """Ends all claims. Only for a worker that is the only one: all claims are then those of a worker that has died."""
    await connection.execute(update(Claimed).values(ends_at=now))
    await connection.execute(update(Delivery).where(CLAIMED_BEFORE).values(due_at=now))


async def _record(
    connection: AsyncConnection,
    limits: Limits,
    ended: Sequence[Ended],
    claims: list[Held],
    state: State,
    *,
    worker: str,
    now: datetime,
) -> tuple[State, list[Held], list[News]]:
    """Records the attempts. Returns the destination's state after them, the claims left, and the changes to log."""
    if not ended:
        return state, claims, []
    dead, left = await record(connection, limits, ended, claims, worker=worker, now=now)
    circuit = state.circuit
    for attempt in ended:
        failed = attempt.outcome.result is not AttemptResult.DELIVERED
        circuit = circuit.after(failed=failed, now=attempt.started_at + attempt.duration)
    news = [News("delivery_dead", _failed(limits.name, attempt)) for attempt in dead]
    news += [News("order_held_back", _failed(limits.name, attempt)) for attempt in ended if _holds_back(attempt)]
    news += _of_circuit(limits.name, state, circuit, now=now)
    gone = next((attempt for attempt in ended if attempt.outcome.result is AttemptResult.GONE), None)
    ends = (attempt.outcome.certificate_until for attempt in reversed(ended))
    until = next((end for end in ends if end is not None), state.certificate_until)
    became = state._replace(**circuit._asdict(), certificate_until=until)
    if gone is not None:
        reason = f"It answered 410 Gone to event {gone.claim.event_id}."
        became = became._replace(paused_at=now, paused_reason=reason)
    return became, left, news


async def _change(connection: AsyncConnection, name: str, state: State, became: State) -> None:
    pairs = zip(State._fields, state, became, strict=True)
    changes = {column: new for column, old, new in pairs if new != old}
    if changes:
        await connection.execute(update(Destination).where(Destination.name == name).values(changes))


def _failed(destination: str, ended: Ended) -> dict[str, Any]:
    return {
        "destination": destination,
        "delivery_id": str(ended.claim.delivery_id),
        "event_id": str(ended.claim.event_id),
        "reference": ended.claim.reference,
        "attempts": ended.claim.attempt,
        "status": ended.outcome.status,
        "error": ended.outcome.error,
    }


def _holds_back(ended: Ended) -> bool:
    """Whether it has just failed so often that others of its reference wait noticeably."""
    claim, outcome = ended.claim, ended.outcome
    failed = outcome.counts and outcome.result not in (AttemptResult.DELIVERED, AttemptResult.GONE)
    return failed and claim.reference is not None and claim.tries == HELD_BACK_AFTER


def _of_circuit(destination: str, before: State, circuit: Circuit, *, now: datetime) -> Iterator[News]:
    if before.probe_at is None and circuit.probe_at is not None:
        yield News("circuit_opened", {"destination": destination, "failures": circuit.failures})
    if before.probe_at is not None and circuit.probe_at is None:
        seconds = int((now - before.failing_since).total_seconds()) if before.failing_since else None
        fields = {"destination": destination, "failures": before.failures, "seconds": seconds}
        yield News("circuit_closed", fields)


async def _claim(
    connection: AsyncConnection,
    limits: Limits,
    state: State,
    claimed: Sequence[Held],
    *,
    worker: str,
    now: datetime,
) -> tuple[Turn, datetime | None]:
    """The turn, and when `rate` allows the next attempt."""
    circuit, next_at = state.circuit, state.next_at
    flying = [held for held in claimed if held.ends_at > now]
    if len(flying) < len(claimed):
        await lose_run_out(connection, limits.name, now=now)
    free = circuit.allows(limits.max_in_flight - len(flying), in_flight=len(flying), now=now)
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
        if claims:  # otherwise nothing is written, since on SQLite each write wakes the worker
            next_at = since + timedelta(seconds=len(claims) / limits.rate)
        if len(claims) == free:
            return Turn(claims, next_at), next_at
    times = [held.ends_at for held in flying]
    if claims:
        times.append(now + limits.timeout + MARGIN)
    if len(claims) < free:  # otherwise the next turn has nothing to do before one of them ends
        times += await next_due(connection, limits.name, now=now)
    return Turn(claims, min(times, default=None)), next_at

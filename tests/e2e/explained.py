"""Whether everything that arrived at a consumer is explained by the attempts of the deliveries, and in order."""

import asyncio
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from sqlalchemy import Row, exists, func, inspect, or_, select

from app.database import engines
from app.deliveries.queries import ATTEMPTS
from app.deliveries.tables import AttemptResult, Delivery, DeliveryStatus
from app.events.tables import Undispatched
from tests.e2e.consumer import Seen
from tests.e2e.sender import PATIENCE, Sender, reference_of

NO_ANSWER = {AttemptResult.LOST, AttemptResult.TIMED_OUT, AttemptResult.UNREACHABLE}
UNSETTLED = select(
    or_(
        exists().where(Delivery.status != DeliveryStatus.DELIVERED.value),
        exists(select(Undispatched.event_id)),
    )
)


@dataclass(frozen=True)
class Explained:
    """What arrived at the consumer, and what the deliveries say of it.

    Attributes:
        arrivals: How many requests arrived.
        repeats: How many of them brought an event that had been answered 200 before.
        back: How many brought an event behind a later one of its reference. A crash of the database may undo the last
            successes, so the order begins anew then; the first arrivals of events are in order all the same.
        unexplained: What the attempts of the deliveries do not explain, one sentence each.
        undelivered: How many acknowledged events have no delivery that ended as delivered, and never arrived.
    """

    arrivals: int
    repeats: int
    back: int
    unexplained: list[str]
    undelivered: int


async def settled(url: str, *, within: float = PATIENCE) -> float:
    """Waits until every event is delivered, and returns how many seconds that took."""
    began = monotonic()
    async with engines.engine_for(url) as engine:
        while True:
            async with engine.connect() as connection:
                if not await connection.scalar(UNSETTLED):
                    return monotonic() - began
                left = await connection.scalar(select(func.count()).where(Delivery.status != "delivered"))
            assert monotonic() - began < within, f"{left} deliveries are left"
            await asyncio.sleep(0.2)


async def explain(sender: Sender, seen: Sequence[Seen], url: str, *, crashes: Sequence[float] = ()) -> Explained:
    """Compares what arrived with the deliveries and their attempts. Everything is settled.

    Args:
        sender: It has ended.
        seen: What the consumer got, in order of arrival.
        url: The database's.
        crashes: When the database began again after a crash, by `time`. The last commits of a worker may then be
            undone, and an attempt is made again under its number.
    """
    async with engines.engine_for(url) as engine, engine.connect() as connection:
        deliveries = (await connection.execute(select(*inspect(Delivery).columns))).all()
        attempts: dict[Any, list[Row[Any]]] = defaultdict(list)
        for attempt in await connection.execute(select(*ATTEMPTS.c).order_by(ATTEMPTS.c.number)):
            attempts[attempt.delivery_id].append(attempt)
    arrived: dict[str, list[Seen]] = defaultdict(list)
    for request in seen:
        arrived[request.event_id].append(request)
    unexplained = [
        sentence
        for delivery in deliveries
        for sentence in _unexplained(
            attempts[delivery.id], delivery.attempts, arrived.get(str(delivery.event_id), []), crashes=len(crashes)
        )
    ]
    known = {str(delivery.event_id) for delivery in deliveries}
    unexplained += [f"{event_id}: nobody sent it" for event_id in arrived.keys() - known]
    delivered = {str(delivery.event_id) for delivery in deliveries if delivery.status == DeliveryStatus.DELIVERED}
    acknowledged = set(sender.accepted.values())
    return Explained(
        arrivals=len(seen),
        repeats=sum(max(0, sum(each.answer == 200 for each in requests) - 1) for requests in arrived.values()),
        back=_went_back(sender.accepted, seen, crashes),
        unexplained=unexplained,
        undelivered=len(acknowledged - delivered) + len(acknowledged - arrived.keys()),
    )


def _unexplained(attempts: Sequence[Row[Any]], begun: int, arrived: Sequence[Seen], *, crashes: int) -> list[str]:
    """What is odd about one delivery, one sentence each.

    - It has an attempt of every number up to the last one, and one that delivered it.
    - A delivered or refused attempt arrived, and got that answer.
    - An arrival belongs to an attempt. One attempt arrives once, or twice if it began on a kept connection that broke
      before the answer; after a crash of the database that undid it, as often again.
    - It was answered 200 as often as it was delivered, and at most once more for each attempt without an answer.
    """
    said: list[str] = []
    numbers = [attempt.number for attempt in attempts]
    if numbers != list(range(1, begun + 1)):
        said.append(f"attempts {numbers} of {begun}")
    if not any(attempt.result == AttemptResult.DELIVERED for attempt in attempts):
        said.append("no attempt delivered it")
    answers = Counter((int(each.headers["Priohook-Attempt"]), each.answer) for each in arrived)
    said += [
        f"attempt {attempt.number} was never answered {attempt.status}"
        for attempt in attempts
        if attempt.status is not None and (attempt.number, attempt.status) not in answers
    ]
    for number, times in Counter(int(each.headers["Priohook-Attempt"]) for each in arrived).items():
        if number not in numbers:
            said.append(f"attempt {number} arrived and is not known")
        if times > 2 * (1 + crashes):
            said.append(f"attempt {number} arrived {times} times")
    successes = sum(attempt.result == AttemptResult.DELIVERED for attempt in attempts)
    may = successes + sum(attempt.result in NO_ANSWER for attempt in attempts) + crashes
    if (taken := sum(each.answer == 200 for each in arrived)) > may:
        said.append(f"it was taken {taken} times")
    return [f"{arrived[0].event_id if arrived else 'not arrived'}: {sentence}" for sentence in said]


def _went_back(accepted: Mapping[bytes, str], seen: Sequence[Seen], crashes: Sequence[float]) -> int:
    """How many requests brought an event behind a later one of its reference."""
    places: dict[str, tuple[str, int]] = {}
    counted: Counter[str] = Counter()
    for body, event_id in accepted.items():
        reference = reference_of(body)
        counted[reference] += 1
        places[event_id] = reference, counted[reference]
    newest: dict[tuple[str, int], int] = defaultdict(int)
    first: dict[str, int] = defaultdict(int)
    before: set[str] = set()
    back = 0
    for request in seen:
        reference, place = places[request.event_id]
        life = reference, bisect(crashes, request.at)
        back += place < newest[life] or (request.event_id not in before and place < first[reference])
        newest[life] = max(newest[life], place)
        first[reference] = max(first[reference], place)
        before.add(request.event_id)
    return back

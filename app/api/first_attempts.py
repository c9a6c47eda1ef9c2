"""Waits for the first attempts of deliveries, and raises the problem that says why one failed."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import chain, repeat
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.deliveries.destination_queries import KnownDestination
from app.deliveries.queries import DeliveryFilter, ListedDelivery, list_deliveries
from app.deliveries.tables import AttemptResult, DeliveryStatus
from app.web.problems import Problem, Unavailable
from app.web.transactions import DatabaseAway, reading

LOOKS = (0.02, 0.05, 0.1)  # seconds before each look; the last one repeats
MOST_BEFORE = 100
"""How many deliveries of one reference are searched for the one that holds the others back."""


class BadAnswer(Problem):
    """With `wait`: a destination answered badly or could not be reached; the delivery is retried as usual."""

    status = 502


class NoAnswer(Problem):
    """With `wait`: a destination did not answer in time; the delivery is retried as usual."""

    status = 504


class NotTaken(Unavailable):
    """With `wait`: no worker took the delivery in time; it waits for one."""


async def made_by(connection: AsyncConnection, replays: Sequence[UUID]) -> list[ListedDelivery]:
    """The delivery that each of these replays made."""
    return [
        row
        for replay in replays
        for row in await list_deliveries(connection, DeliveryFilter(replay_id=replay), limit=1)
    ]


async def first_attempts(engine: AsyncEngine, replays: Sequence[UUID], *, within: timedelta) -> list[ListedDelivery]:
    """The deliveries once the first attempts of all have ended, or as they are when the time is over.

    Raises:
        NotTaken: 503, the database is away.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within.total_seconds()
    pauses = chain(LOOKS, repeat(LOOKS[-1]))
    while True:
        rows = await _looked_up(engine, replays)
        if all(_answered(row) for row in rows) or loop.time() >= until:
            return rows
        await asyncio.sleep(next(pauses))


async def _looked_up(engine: AsyncEngine, replays: Sequence[UUID]) -> list[ListedDelivery]:
    try:
        async with reading(engine) as connection:
            return await made_by(connection, replays)
    except DatabaseAway:  # its own text says that nothing was changed
        raise NotTaken(
            "The deliveries are made, but their results cannot be read now.",
            "Do not ask again: GET /api/deliveries shows the results later.",
        ) from None


def _answered(row: ListedDelivery) -> bool:
    return row.status != DeliveryStatus.PENDING or row.last_result is not None


def raise_for_broken(destinations: Iterable[KnownDestination]) -> None:
    """Raises without waiting if a circuit is open: until it closes, only a probe is sent now and then.

    Raises:
        BadAnswer: 502, a circuit is open.
    """
    for destination in destinations:
        if destination.probe_at is not None:
            name = destination.name
            raise BadAnswer(
                f"Destination {name} has failed since {destination.failing_since:%Y-%m-%d %H:%M:%S} UTC.",
                f"The delivery waits until it works again; POST /api/destinations/{name}/resume tries at once.",
            )


async def raise_for(engine: AsyncEngine, rows: Sequence[ListedDelivery]) -> None:
    """Raises the problem of the first delivery that is not delivered, if there is one.

    Raises:
        BadAnswer: 502.
        NoAnswer: 504.
        NotTaken: 503.
    """
    stands = "Delivery {0.id} stays and is tried again: GET /api/deliveries/{0.id}."
    for row in rows:
        if row.status == DeliveryStatus.DELIVERED:
            continue
        if row.last_status is not None:
            raise BadAnswer(f"Destination {row.destination} answered {row.last_status}.", stands.format(row))
        if row.last_error is not None and row.last_result != AttemptResult.TIMED_OUT:
            raise BadAnswer(f"Destination {row.destination} failed: {row.last_error}", stands.format(row))
        if row.last_error is not None or row.attempts:
            raise NoAnswer(f"Destination {row.destination} did not answer in time.", stands.format(row))
        if row.status == DeliveryStatus.DROPPED:
            raise BadAnswer(
                f"The delivery to {row.destination} was dropped while you waited.",
                "Another request or a command dropped it.",
            )
        if row.due_at is not None:
            raise NotTaken(
                "No worker took the delivery in time.", f"It will be sent in its turn: GET /api/deliveries/{row.id}."
            )
        raise await _held_back(engine, row)


async def _held_back(engine: AsyncEngine, row: ListedDelivery) -> Problem:
    """The problem of the earlier delivery that this one waits for."""
    narrowed = DeliveryFilter(destination=row.destination, reference=row.reference, status=DeliveryStatus.PENDING.value)
    async with reading(engine) as connection:
        before = await list_deliveries(connection, narrowed, limit=MOST_BEFORE)
    goes_on = f"It will be sent in its turn: GET /api/deliveries/{row.id}."
    if any(each.due_at is not None and each.last_result is not None for each in before):
        return BadAnswer(f"Destination {row.destination} failed with an earlier delivery of {row.reference}.", goes_on)
    return NoAnswer(f"Destination {row.destination} has not taken earlier deliveries of {row.reference}.", goes_on)

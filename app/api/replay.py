"""POST /api/events/{event_id}/replay: new deliveries of one event, and on request what came of them."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.requests import Request
from starlette.responses import Response

from app.api.deliveries import DeliverySummary
from app.api.events import EventPath, NoSuchEvent
from app.api.state import State
from app.deliveries.dispatch import register, wants
from app.deliveries.queries import DeliveryFilter, list_deliveries
from app.deliveries.replays import replay_one
from app.deliveries.tables import DeliveryStatus, Destination
from app.events.queries import get_summary
from app.events.tables import Status
from app.settings.model import DestinationSettings
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import InvalidParameter, Text, answer, read_id, read_query
from app.web.problems import Problem, Unavailable
from app.web.transactions import DatabaseAway, changing, reading

MARGIN = timedelta(seconds=5)
"""Beside a destination's timeout: for a worker to wake and to write down what came."""

MOST_WAITING = 16
"""Requests that wait for a destination at once; each asks the database again and again."""

LOOKS = (0.02, 0.05, 0.1)  # seconds before the first looks; then the last one again and again
MOST_BEFORE = 100
"""Deliveries of one reference that are looked at for the one that holds the others back."""

DEFAULT_TIMEOUT = timedelta(seconds=10)
"""Of a destination that is in another process's settings only."""


class NotNow(Problem):
    """The event is quarantined, nothing wants it, or with `wait` a destination is paused; the message says which."""

    status = 409


class UnknownDestination(Problem):
    """`to` names no destination that the operator has configured."""

    status = 422


class BadAnswer(Problem):
    """With `wait`: a destination answered badly or could not be reached; it is tried again as any other."""

    status = 502


class NoAnswer(Problem):
    """With `wait`: a destination did not answer in time; it is tried again as any other."""

    status = 504


class NotTaken(Unavailable):
    """With `wait`: no worker took the delivery in time; it waits for one."""


class ReplayQuery(BaseModel):
    """Where to, and whether to wait."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Annotated[
        list[Text], Field(max_length=20, description="A destination's name, or several; else all that want its type.")
    ] = []
    wait: Annotated[bool, Field(description="Answer when the destinations have.")] = False


class Replayed(BaseModel):
    """The new deliveries."""

    deliveries: list[DeliverySummary]


@Operation(
    summary="Replay an event",
    tag="replays",
    description=(
        "Makes new deliveries of one event. Each waits its turn behind others of its reference. With `wait` the answer "
        "is what came of the first attempt, for as long as a destination may take for one and some seconds."
    ),
    path=EventPath,
    query=ReplayQuery,
    answers={
        200: Answer(description="With `wait`: all are delivered.", model=Replayed),
        202: Answer(description="The deliveries are made, and on their way.", model=Replayed),
    },
    problems=(
        NoSuchEvent,
        InvalidParameter,
        NotNow,
        UnknownDestination,
        BadAnswer,
        NoAnswer,
        NotTaken,
        DatabaseAway,
    ),
)
async def replay(request: Request[State]) -> Response:
    """Makes the deliveries in one transaction."""
    query = read_query(request, ReplayQuery)
    if not query.wait:
        return await _replay(request, query)
    if request.state["waits"].locked():
        raise NotTaken("Too many requests wait for a destination.", "Nothing was made: ask again, or without wait.")
    async with request.state["waits"]:
        return await _replay(request, query)


async def _replay(request: Request[State], query: ReplayQuery) -> Response:
    event_id = read_id(request, "event_id")
    configured = request.state["destinations"]
    now = datetime.now(UTC)
    async with changing(request.state["engine"]) as connection:
        event = await get_summary(connection, event_id) if event_id else None
        if event is None:
            raise NoSuchEvent
        destinations = {row.name: row for row in await connection.execute(KNOWN)}
        names = _chosen(event, query, destinations, configured=configured)
        await register(connection, names, now=now)  # all at once, before any of them is locked
        replays = [await replay_one(connection, event.id, event.reference, destination=name, now=now) for name in names]
        rows = await _deliveries(connection, replays)
    if query.wait:
        _raise_for_broken(destinations[name] for name in names if name in destinations)
        rows = await _first_attempts(request.state["engine"], replays, within=_longest(names, configured) + MARGIN)
        await _raise_for(request.state["engine"], rows)
    shown = [DeliverySummary.model_validate(row) for row in rows]
    return answer(Replayed(deliveries=shown), status=200 if query.wait else 202)


def _chosen(
    event: Row[Any],
    query: ReplayQuery,
    known: Mapping[str, Row[Any]],
    *,
    configured: Mapping[str, DestinationSettings],
) -> list[str]:
    """The destinations' names.

    Raises:
        NotNow: 409.
        UnknownDestination: 422.
    """
    if event.status == Status.QUARANTINED:
        raise NotNow(f"Event {event.id} is quarantined.", f"Release it first: POST /api/events/{event.id}/release.")
    unknown = sorted(set(query.to) - configured.keys() - known.keys())
    if unknown:
        raise UnknownDestination(f"There is no destination {unknown[0]}.", "GET /api/destinations lists them.")
    matching = (name for name, each in configured.items() if wants(each.events, event.type))
    names = sorted(set(query.to or matching))
    if not names:
        raise NotNow("No destination wants this event.", "Name one with `to`; GET /api/destinations lists them.")
    paused = [name for name in names if name in known and known[name].paused_at is not None]
    if query.wait and paused:
        raise NotNow(f"Destination {paused[0]} is paused.", "Resume it first, or ask without `wait`.")
    return names


def _longest(names: Sequence[str], configured: Mapping[str, DestinationSettings]) -> timedelta:
    return max(configured[name].timeout if name in configured else DEFAULT_TIMEOUT for name in names)


# One with a URL of its own is an operator's at the shell, and no request's.
KNOWN = select(*Destination.__table__.columns).where(Destination.url.is_(None))


async def _deliveries(connection: AsyncConnection, replays: Sequence[UUID]) -> list[Row[Any]]:
    return [
        row for each in replays for row in await list_deliveries(connection, DeliveryFilter(replay_id=each), limit=1)
    ]


async def _first_attempts(engine: AsyncEngine, replays: Sequence[UUID], *, within: timedelta) -> list[Row[Any]]:
    """The deliveries as soon as each has an answer to its first attempt, or as they are then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within.total_seconds()
    for pause in chain(LOOKS, repeat(LOOKS[-1])):
        rows = await _looked_up(engine, replays)
        if all(_answered(row) for row in rows) or loop.time() >= until:
            return rows
        await asyncio.sleep(pause)
    raise AssertionError  # the loop above has no other end


async def _looked_up(engine: AsyncEngine, replays: Sequence[UUID]) -> list[Row[Any]]:
    try:
        async with reading(engine) as connection:
            return await _deliveries(connection, replays)
    except DatabaseAway:  # whose own text says that nothing was changed
        raise NotTaken(
            "The deliveries are made; what came of them cannot be read now.",
            "Do not ask again: GET /api/deliveries tells.",
        ) from None


def _answered(row: Row[Any]) -> bool:
    return row.status != DeliveryStatus.PENDING or row.last_status is not None or row.last_error is not None


def _raise_for_broken(destinations: Iterable[Row[Any]]) -> None:
    """Raises what is known without waiting: while a circuit is open nothing is sent but a probe now and then."""
    for each in destinations:
        if each.probe_at is not None:
            raise BadAnswer(
                f"Destination {each.name} has failed since {each.failing_since:%Y-%m-%d %H:%M:%S} UTC.",
                f"The delivery waits until it works again; POST /api/destinations/{each.name}/resume tries at once.",
            )


async def _raise_for(engine: AsyncEngine, rows: Sequence[Row[Any]]) -> None:
    """Raises what the worst of the deliveries deserves."""
    stands = "Delivery {0.id} stays and is tried again: GET /api/deliveries/{0.id}."
    for row in rows:
        if row.status == DeliveryStatus.DELIVERED:
            continue
        if row.last_status is not None:
            raise BadAnswer(f"Destination {row.destination} answered {row.last_status}.", stands.format(row))
        if row.last_error is not None and not row.last_error.startswith(TIMED_OUT):
            raise BadAnswer(f"Destination {row.destination} failed: {row.last_error}", stands.format(row))
        if row.last_error is not None or row.attempts:
            raise NoAnswer(f"Destination {row.destination} did not answer in time.", stands.format(row))
        if row.status == DeliveryStatus.DROPPED:
            raise BadAnswer(f"The delivery to {row.destination} was dropped meanwhile.", "Somebody else did that.")
        if row.due_at is not None:
            raise NotTaken(
                "No worker took the delivery in time.", f"It goes in its turn: GET /api/deliveries/{row.id}."
            )
        raise await _held_back(engine, row)


async def _held_back(engine: AsyncEngine, row: Row[Any]) -> Problem:
    """What the delivery that this one waits behind deserves."""
    narrowed = DeliveryFilter(destination=row.destination, reference=row.reference, status=DeliveryStatus.PENDING.value)
    async with reading(engine) as connection:
        before = await list_deliveries(connection, narrowed, limit=MOST_BEFORE)
    goes_on = f"It goes in its turn: GET /api/deliveries/{row.id}."
    if any(each.due_at is not None and (each.last_status or each.last_error) for each in before):
        return BadAnswer(f"Destination {row.destination} failed with an earlier delivery of {row.reference}.", goes_on)
    return NoAnswer(f"Destination {row.destination} has not taken earlier deliveries of {row.reference}.", goes_on)


TIMED_OUT = ("It did not answer within", "It did not return within", "It could not be connected to within")
"""How the errors of the kinds of destinations begin."""

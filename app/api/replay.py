"""POST /api/events/{event_id}/replay: new deliveries of one event, and on request their results."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.acting import Reason, acting
from app.api.deliveries import DeliverySummary
from app.api.events import NoSuchEvent
from app.api.first_attempts import BadAnswer, NoAnswer, NotTaken, first_attempts, made_by, raise_for, raise_for_broken
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.database.clock import shared_time
from app.deliveries.destination_queries import KnownDestination, known_destinations
from app.deliveries.globs import wants
from app.deliveries.registering import register
from app.deliveries.replays import hold_off_deleting, replay_one
from app.events.queries import ListedEvent, get_summary
from app.events.tables import Status
from app.settings.model import DestinationSettings
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import InvalidParameter, Text, answer, read_id, read_query
from app.web.problems import Problem
from app.web.transactions import DatabaseAway

MARGIN = timedelta(seconds=5)
"""Added to a destination's timeout, for a worker to wake and to store the result."""

MOST_WAITING = 16
"""How many requests may wait for a destination at once; each asks the database again and again."""

DEFAULT_TIMEOUT = timedelta(seconds=10)
"""For a destination that only another process has in its settings."""


class NotNow(Problem):
    """The event is quarantined or erased, or no destination takes it now; the message says which."""

    status = 409


class UnknownDestination(Problem):
    """`to` names a destination that is not configured."""

    status = 422


class ReplayQuery(BaseModel):
    """Where to, and whether to wait."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Annotated[
        list[Text],
        Field(max_length=20, description="Names of destinations; without it, all that want the event."),
    ] = []
    wait: Annotated[bool, Field(description="Answer only when the destinations have answered.")] = False
    reason: Reason = None


class Replayed(BaseModel):
    """The new deliveries."""

    deliveries: list[DeliverySummary]


@Operation(
    tag="replays",
    description=(
        "Makes new deliveries of one event. Each waits for its turn among others of its reference. With `wait` the "
        "answer tells the result of the first attempt; it takes a destination's timeout and some seconds at most."
    ),
    query=ReplayQuery,
    answers={
        200: Answer(description="With `wait`: all are delivered.", model=Replayed),
        202: Answer(description="The deliveries are made, and on their way.", model=Replayed),
    },
    problems=(NoSuchEvent, InvalidParameter, NotNow, UnknownDestination, BadAnswer, NoAnswer, NotTaken, DatabaseAway),
)
async def replay(request: Request[State]) -> Response:
    """Replay an event."""
    event_id, query = read_id(request, "event_id", NoSuchEvent), read_query(request, ReplayQuery)
    if not query.wait:
        return answer(await replayed(request, event_id, query), status=202)
    if request.state["waits"].locked():
        raise NotTaken(
            "Too many requests wait for a destination.", "Nothing was made: ask again later, or without `wait`."
        )
    async with request.state["waits"]:
        return answer(await replayed(request, event_id, query))


async def replayed(request: Request[State], event_id: UUID, query: ReplayQuery) -> Replayed:
    """New deliveries of one event.

    Raises:
        Problem: one of those of `replay`.
    """
    configured = request.state["destinations"]
    act = Act(action=Action.REPLAY, kind=Kind.EVENT, target=str(event_id), event_id=event_id, reason=query.reason)
    async with acting(request, act) as connection:
        await hold_off_deleting(connection)
        now = await shared_time(connection)
        event = await get_summary(connection, event_id)
        if event is None:
            raise NoSuchEvent
        destinations = await known_destinations(connection)
        names = _chosen(event, query, destinations, configured=configured)
        await register(connection, names, now=now)  # all at once, before any of them is locked
        replays = [await replay_one(connection, event.id, event.reference, destination=name, now=now) for name in names]
        rows = await made_by(connection, replays)
        act.reference = event.reference
        act.details = {"to": names, "replays": [str(each) for each in replays]}
    if query.wait:
        raise_for_broken(destinations[name] for name in names if name in destinations)
        rows = await first_attempts(request.state["engine"], replays, within=_longest(names, configured) + MARGIN)
        await raise_for(request.state["engine"], rows)
    return Replayed(deliveries=[DeliverySummary.model_validate(row) for row in rows])


def _chosen(
    event: ListedEvent,
    query: ReplayQuery,
    known: Mapping[str, KnownDestination],
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
    if event.erased_at is not None:
        raise NotNow(f"Event {event.id} was erased.", "Nothing is left of it to deliver.")
    unknown = sorted(set(query.to) - configured.keys() - known.keys())
    if unknown:
        raise UnknownDestination(f"There is no destination {unknown[0]}.", "GET /api/destinations lists them.")
    matching = (name for name, each in configured.items() if wants(each.events, event.type, event.event_name))
    names = sorted(set(query.to or matching))
    if not names:
        raise NotNow("No destination wants this event.", "Name one with `to`; GET /api/destinations lists them.")
    paused = [name for name in names if name in known and known[name].paused_at is not None]
    if query.wait and paused:
        raise NotNow(f"Destination {paused[0]} is paused.", "Resume it first, or ask without `wait`.")
    return names


def _longest(names: Sequence[str], configured: Mapping[str, DestinationSettings]) -> timedelta:
    return max(configured[name].timeout if name in configured else DEFAULT_TIMEOUT for name in names)

"""POST /api/events/{event_id}/release: a quarantined event, judged again."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy.exc import IntegrityError
from starlette.requests import Request
from starlette.responses import Response

from app.api.acting import Why, acting, reason_of
from app.api.events import NoSuchEvent
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.events.queries import get_summary
from app.receiver.quarantine import QuarantineFilter, Reason, newest_reasons, oldest_quarantined
from app.receiver.release import Foreseen, NotReleased, Released, foresee, release
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import InvalidParameter, answer, read_id
from app.web.problems import Problem
from app.web.transactions import DatabaseAway, reading

MOST_GROUPED = 5000
"""How many of the newest quarantined events are grouped by reason."""

MOST_REASONS = 20
AT_ONCE = 200
LONGEST = timedelta(seconds=5)
"""How many events one request judges again, and for how long: each is a transaction."""


class StaysQuarantined(Problem):
    """The event is not in quarantine, or cannot be accepted; the message says why."""

    status = 409


@dataclass
class ReleasedSome:
    """What became of some quarantined events.

    Attributes:
        refused: How many stay as they are, by the reason.
        last: The last one that was judged.
        more: Whether there are more after it.
    """

    accepted: int = 0
    copies: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    last: UUID | None = None
    more: bool = False


class Release(BaseModel):
    """What became of it."""

    event_id: UUID = Field(description="The accepted event; for a copy, the earlier event on which it is now counted.")
    duplicate: bool = Field(description="Whether it is a copy, which stays in quarantine.")


@Operation(
    tag="events",
    description="Judges the event again by its bytes, whatever its headers say. If it is accepted, it is delivered.",
    query=Why,
    answers={200: Answer(description="The event is accepted, or a copy of an accepted one.", model=Release)},
    problems=(NoSuchEvent, InvalidParameter, StaysQuarantined, DatabaseAway),
)
async def release_event(request: Request[State]) -> Response:
    """Release an event from quarantine."""
    event_id = read_id(request, "event_id", NoSuchEvent)
    return answer(await released(request, event_id, reason=reason_of(request)))


async def released(request: Request[State], event_id: UUID, *, reason: str | None) -> Release:
    """What became of a quarantined event that was judged again.

    Raises:
        Problem: one of those of `release_event`.
    """
    try:
        done = await _release(request, event_id, reason)
    except IntegrityError:  # a copy was accepted meanwhile; now it is found
        done = await _release(request, event_id, reason)
    return Release(event_id=done.id, duplicate=done.duplicate)


async def release_some(
    request: Request[State], narrowed: QuarantineFilter, *, after: UUID | None, reason: str | None
) -> ReleasedSome:
    """Judges the oldest of these events again, each in a transaction of its own, for some seconds at most.

    Raises:
        DatabaseAway: 503; those before were judged.
    """
    done = ReleasedSome(last=after)
    until = monotonic() + LONGEST.total_seconds()
    async with reading(request.state["engine"]) as connection:
        ids = await oldest_quarantined(connection, narrowed, after=after, limit=AT_ONCE + 1)
    for number, event_id in enumerate(ids):
        if number == AT_ONCE or monotonic() > until:
            done.more = True
            break
        try:
            one = await released(request, event_id, reason=reason)
        except (StaysQuarantined, NoSuchEvent) as error:
            done.refused[error.message.removeprefix(f"Event {event_id} ")] += 1
        else:
            done.copies += one.duplicate
            done.accepted += not one.duplicate
        done.last = event_id
    return done


async def reasons_of(request: Request[State], narrowed: QuarantineFilter) -> list[Reason]:
    """Why the newest quarantined events were refused, the most frequent reason first.

    Raises:
        DatabaseAway: 503.
    """
    async with reading(request.state["engine"]) as connection:
        return (await newest_reasons(connection, narrowed, most=MOST_GROUPED))[:MOST_REASONS]


async def foreseen(request: Request[State], event_id: UUID) -> Foreseen | str:
    """What a release would make of a quarantined event; why it would be refused, if it would.

    Raises:
        DatabaseAway: 503.
    """
    usernames, limit = request.state["usernames"], request.state["max_released_bytes"]
    async with reading(request.state["engine"]) as connection:
        try:
            return await foresee(connection, event_id, usernames=usernames, limit=limit)
        except NotReleased as error:
            return str(error).replace(f"Event {event_id} ", "It ")


async def _release(request: Request[State], event_id: UUID, reason: str | None) -> Released:
    state = request.state
    usernames, limit = state["usernames"], state["max_released_bytes"]
    act = Act(action=Action.RELEASE, kind=Kind.EVENT, target=str(event_id), event_id=event_id, reason=reason)
    try:
        async with acting(request, act) as connection:
            if await get_summary(connection, event_id) is None:
                raise NoSuchEvent
            done = await release(connection, event_id, usernames=usernames, limit=limit, now=datetime.now(UTC))
            shown = await get_summary(connection, event_id)
            act.reference = shown.reference if shown else None
            act.details = {"copy_of": str(done.id)} if done.duplicate else {}
            return done
    except NotReleased as error:
        raise StaysQuarantined(str(error), "It stays as it is.") from None

"""POST /api/events/{event_id}/release: a quarantined event, judged again."""

from datetime import UTC, datetime
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
from app.receiver.release import NotReleased, Released, release
from app.web.openapi.operations import Answer, Operation
from app.web.parameters import InvalidParameter, answer, read_id
from app.web.problems import Problem
from app.web.transactions import DatabaseAway


class StaysQuarantined(Problem):
    """The event is not in quarantine, or cannot be accepted; the message says why."""

    status = 409


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
    try:
        released = await _release(request, event_id)
    except IntegrityError:  # a copy was accepted meanwhile; now it is found
        released = await _release(request, event_id)
    return answer(Release(event_id=released.id, duplicate=released.duplicate))


async def _release(request: Request[State], event_id: UUID) -> Released:
    state = request.state
    usernames, limit = state["usernames"], state["max_released_bytes"]
    reason = reason_of(request)
    act = Act(action=Action.RELEASE, kind=Kind.EVENT, target=str(event_id), event_id=event_id, reason=reason)
    try:
        async with acting(request, act) as connection:
            if await get_summary(connection, event_id) is None:
                raise NoSuchEvent
            released = await release(connection, event_id, usernames=usernames, limit=limit, now=datetime.now(UTC))
            shown = await get_summary(connection, event_id)
            act.reference = shown.reference if shown else None
            act.details = {"copy_of": str(released.id)} if released.duplicate else {}
            return released
    except NotReleased as error:
        raise StaysQuarantined(str(error), "It stays as it is.") from None

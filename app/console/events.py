"""Events: the list with its filters, and one event."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.api.contents import contents_of
from app.api.events import EventQuery, NoSuchEvent, listed, types_of
from app.api.quarantine import foreseen, reasons_of
from app.api.replay import ReplayQuery, replayed
from app.api.state import State
from app.api.stories import deliveries_on, event_story
from app.auth.basic import Forbidden
from app.console.forms import fields_of
from app.console.pages import CONSOLE, page
from app.events.tables import Status
from app.receiver.quarantine import QuarantineFilter, Reason
from app.receiver.release import Foreseen
from app.settings.clients import Scope
from app.web.parameters import Text, read_id, read_query


class Looking(BaseModel):
    """What of an event is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contents: Annotated[bool, Field(description="Whether its body is read.")] = False
    reason: Text | None = None


async def list_page(request: Request[State]) -> Response:
    """The events that match the filters, newest first; the refused ones by reason."""
    query = read_query(request, EventQuery)
    found = await listed(request, query)
    return page(
        request,
        "events.html",
        query=query,
        found=found,
        deliveries=await deliveries_on(request, found),
        statuses=list(Status),
        fetches=request.state["settings"].prioticket is not None,
        types=await types_of(request),
        reasons=await _reasons(request, query),
    )


async def _reasons(request: Request[State], query: EventQuery) -> list[Reason]:
    """Why events were refused, if the list is of those, and its other filters are those of a release."""
    narrowed = QuarantineFilter(client=query.client, since=query.since, until=query.until)
    others = (query.cursor, query.q, query.type, query.reference)
    if query.status is not Status.QUARANTINED or any(each is not None for each in others):
        return []
    return await reasons_of(request, narrowed)


async def show(request: Request[State]) -> Response:
    """One event; its body only if it is asked for."""
    event_id, query = read_id(request, "event_id", NoSuchEvent), read_query(request, Looking)
    scopes = request.state["client"].scopes
    if query.contents and Scope.READ not in scopes:
        raise Forbidden("You may not read bodies.", f"Your client needs the scope {Scope.READ}.")
    story = await event_story(request, event_id)
    event, contents, judged = story.event, None, None
    if query.contents:
        contents = await contents_of(request, event, previous=story.compared_with, reason=query.reason)
    if event.status is Status.QUARANTINED and event.released_at is None and Scope.REPLAY in scopes:
        judged = await foreseen(request, event_id)
    return page(
        request,
        "event.html",
        story=story,
        event=event,
        contents=contents,
        foreseen=judged if isinstance(judged, Foreseen) else None,
        still_refused=judged if isinstance(judged, str) else None,
        origin=request.state["settings"].public_url or str(request.base_url).rstrip("/"),
    )


async def replay(request: Request[State]) -> Response:
    """Makes new deliveries of an event."""
    event_id = read_id(request, "event_id", NoSuchEvent)
    await replayed(request, event_id, fields_of(request, ReplayQuery))
    return RedirectResponse(f"{CONSOLE}/events/{event_id}?done=replayed", 303)

"""The field that stands on every page: from a reference or an id to its page."""

from urllib.parse import quote
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.api.state import State
from app.console.pages import CONSOLE
from app.events.queries import EventFilter, get_summary, list_events
from app.web.transactions import reading


async def find(request: Request[State]) -> Response:
    """Leads to the order or the event; to the list of events that have it somewhere, if there is none."""
    wanted = request.query_params.get("q", "").strip()
    if not wanted or not wanted.isprintable():
        return RedirectResponse(f"{CONSOLE}/events", 303)
    async with reading(request.state["engine"]) as connection:
        if await list_events(connection, EventFilter(reference=wanted), limit=1):
            return RedirectResponse(f"{CONSOLE}/orders/{quote(wanted, safe='')}", 303)
        event_id = _id(wanted)
        if event_id is not None and await get_summary(connection, event_id) is not None:
            return RedirectResponse(f"{CONSOLE}/events/{event_id}", 303)
    return RedirectResponse(f"{CONSOLE}/events?q={quote(wanted[:200], safe='')}", 303)


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None

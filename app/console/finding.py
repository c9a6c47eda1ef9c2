"""The field that stands on every page: from a reference or an id, or its beginning, to the page of what has it."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.api.places import place_of
from app.api.state import State
from app.console.pages import CONSOLE
from app.prioticket.payloads import UNPRINTABLE


async def find(request: Request[State]) -> Response:
    """Leads to the order, event, delivery or replay; to the list of events with it somewhere, if there is none."""
    wanted = request.query_params.get("q", "").strip()
    if not wanted or UNPRINTABLE.search(wanted):
        return RedirectResponse(f"{CONSOLE}/events", 303)
    place = await place_of(request, wanted[:255])
    return RedirectResponse(f"{CONSOLE}/{place or 'events?q=' + quote(wanted[:255], safe='')}", 303)

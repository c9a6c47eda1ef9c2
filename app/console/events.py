"""Events: the list, with its filters and what is new."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.events import EventQuery, listed
from app.api.state import State
from app.console.pages import page
from app.events.tables import Status
from app.web.parameters import read_query


async def list_page(request: Request[State]) -> Response:
    """The events that match the filters, newest first."""
    query = read_query(request, EventQuery)
    return page(request, "events.html", query=query, found=await listed(request, query), statuses=list(Status))

"""The audit: who did what, to what, and why."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.audit import AuditQuery, listed
from app.api.state import State
from app.audit.tables import Action, Channel, Kind
from app.console.pages import page
from app.web.parameters import read_query


async def list_page(request: Request[State]) -> Response:
    """The actions that match the filters, newest first."""
    query = read_query(request, AuditQuery)
    found = await listed(request, query)
    return page(
        request, "audit.html", query=query, found=found, actions=list(Action), kinds=list(Kind), channels=list(Channel)
    )

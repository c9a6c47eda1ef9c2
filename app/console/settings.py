"""Settings: each with its value and source, the clients, and which process runs with others."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.settings import shown
from app.api.state import State
from app.console.pages import page


async def show(request: Request[State]) -> Response:
    """The settings of the process that answers."""
    return page(request, "settings.html", found=await shown(request))

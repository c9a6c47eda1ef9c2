"""The first page: whether all is well, and what is not."""

from starlette.requests import Request
from starlette.responses import Response

from app.api import status
from app.api.state import State
from app.console.pages import page


async def show(request: Request[State]) -> Response:
    """Whether all is well."""
    return page(request, "now.html", status=200, found=await status.judged(request))

"""Erases an event or an order, when its reference was typed."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.erasures import ErasureRequest, erased_now
from app.api.state import State
from app.console.forms import fields_of, form_of
from app.console.pages import page
from app.web.problems import Unprocessable


async def erase(request: Request[State]) -> Response:
    """Erases, and shows the receipt."""
    form = form_of(request)
    if form.get("typed", "").strip() != form.get("expected"):
        raise Unprocessable("What you typed is not what was asked for.", "Nothing was erased. Go back and try again.")
    receipt = await erased_now(request, fields_of(request, ErasureRequest))
    return page(request, "erased.html", receipt=receipt)

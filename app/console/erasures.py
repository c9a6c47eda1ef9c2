"""Erases an event or an order, when its reference was typed."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.erasures import ErasureRequest, NotErasedNow, erased_now
from app.api.state import State
from app.console.forms import fields_of
from app.console.pages import page
from app.web.problems import Unprocessable


class Erasing(ErasureRequest):
    """The form that erases: what was typed must be what was asked for, so that nobody erases by a wrong click."""

    expected: str
    typed: str = ""

    def wanted(self) -> ErasureRequest:
        """The same as the API takes it."""
        return ErasureRequest(reference=self.reference, ids=self.ids, now=self.now, reason=self.reason)


async def erase(request: Request[State]) -> Response:
    """Erases, and shows the receipt."""
    form = fields_of(request, Erasing)
    if form.typed.strip() != form.expected:
        raise Unprocessable("What you typed is not what was asked for.", "Nothing was erased. Go back and try again.")
    try:
        receipt = await erased_now(request, form.wanted())
    except NotErasedNow as error:
        hint = (
            "Nothing was erased. Wait until they are delivered, or tick that they are dropped, and send the form again."
        )
        raise NotErasedNow(error.message, hint) from None
    return page(request, "erased.html", receipt=receipt)

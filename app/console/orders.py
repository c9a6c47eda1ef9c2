"""One order: what it says now, what happened to it, and who has got it."""

from uuid import UUID

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.api.acting import Reason
from app.api.orders import NoSuchOrder
from app.api.state import State
from app.api.stories import replay_from, story_of
from app.console.forms import fields_of
from app.console.pages import CONSOLE, page
from app.settings.clients import Scope
from app.web.parameters import Text
from app.web.problems import NotFound


class FromHere(BaseModel):
    """The form that replays an order from one of its events on."""

    first: UUID
    to: Text
    reason: Reason = None


async def show(request: Request[State]) -> Response:
    """The story of an order."""
    reference = request.path_params["reference"]
    reads = Scope.READ in request.state["client"].scopes
    try:
        story = await story_of(request, reference, bodies=reads)
    except NoSuchOrder as error:
        hint = "References are case-sensitive. What was refused has no reference: look among the quarantined events."
        raise NotFound(error.message, hint) from None
    return page(request, "order.html", story=story, reference=reference)


async def replay(request: Request[State]) -> Response:
    """Replays an event of the order and those after it."""
    reference, form = request.path_params["reference"], fields_of(request, FromHere)
    started = await replay_from(request, reference, form.first, to=form.to, reason=form.reason)
    return RedirectResponse(f"{CONSOLE}/replays/{started.id}?done=started", 303)

"""What was refused: lets in one event, or all that were refused alike."""

from typing import Annotated
from uuid import UUID

from pydantic import Field
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.api.acting import Why
from app.api.events import NoSuchEvent
from app.api.quarantine import release_some, released
from app.api.state import State
from app.console.forms import fields_of
from app.console.pages import CONSOLE, page
from app.receiver.quarantine import QuarantineFilter
from app.web.parameters import Moment, Text, read_id


class Alike(Why):
    """The form that lets in all events that were refused alike."""

    client: Text | None = None
    since: Moment | None = None
    until: Moment | None = None
    because: Annotated[Text, Field(description="The beginning of the reason.")]
    after: Annotated[UUID | None, Field(description="The last event that was judged.")] = None

    def narrowed(self) -> QuarantineFilter:
        """Which events are meant."""
        return QuarantineFilter(because=self.because, client=self.client, since=self.since, until=self.until)


async def release(request: Request[State]) -> Response:
    """Judges one event again."""
    event_id = read_id(request, "event_id", NoSuchEvent)
    done = await released(request, event_id, reason=fields_of(request, Why).reason)
    return RedirectResponse(f"{CONSOLE}/events/{event_id}?done={'copy' if done.duplicate else 'released'}", 303)


async def release_alike(request: Request[State]) -> Response:
    """Judges events again that were refused for one reason: as many as one request may."""
    form = fields_of(request, Alike)
    judged = await release_some(request, form.narrowed(), after=form.after, reason=form.reason)
    return page(request, "released.html", form=form, judged=judged)

"""Alarms: which fire, which ended, and who was told."""

from collections.abc import Sequence
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from app.api.alarms import NoticeShown, listed
from app.api.state import State
from app.console.pages import page
from app.console.runbooks import section_of


async def show(request: Request[State]) -> Response:
    """The alarms that fire, and those that ended within 30 days."""
    found = await listed(request)
    settings = request.state["settings"]
    return page(
        request,
        "alarms.html",
        found=found,
        told=by_alarm(found.notices),
        untold=[notice for notice in found.notices if notice.due_at is not None],
        section_of=section_of,
        kinds=sorted(settings.alarms.model_fields_set) if settings.alarms else [],
        channels=settings.alarm_channels,
    )


def by_alarm(notices: Sequence[NoticeShown]) -> dict[UUID, list[NoticeShown]]:
    """The notices of each alarm, the oldest first."""
    found: dict[UUID, list[NoticeShown]] = {}
    for notice in reversed(notices):
        found.setdefault(notice.alarm_id, []).append(notice)
    return found

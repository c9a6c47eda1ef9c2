"""The first page: whether all is well, what is not, and how everything stands."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from app.alarms.findings import Finding
from app.alarms.forecast import days_left
from app.api.state import State
from app.console.chart import drawn
from app.console.pages import CONSOLE, page
from app.console.runbooks import section_of

PLACES = {
    "not_acknowledging": "#refused",
    "sender_refused": f"{CONSOLE}/settings#clients",
    "silence": f"{CONSOLE}/settings#clients",
    "refused_share": "#refused",
    "refused": "#refused",
    "quarantined": f"{CONSOLE}/events?status=quarantined",
    "spool": "#storage",
    "spool_unreadable": "#storage",
    "disk": "#storage",
    "backup_old": "#storage",
    "schema": f"{CONSOLE}/settings",
    "database": f"{CONSOLE}/settings",
    "primary_missing": f"{CONSOLE}/settings",
    "standby_missing": f"{CONSOLE}/settings",
    "no_receiver": "#processes",
    "no_worker": "#processes",
    "few_workers": "#processes",
    "process_silent": "#processes",
    "settings_differ": f"{CONSOLE}/settings#processes",
    "credential_expires": f"{CONSOLE}/settings#clients",
    "undispatched": f"{CONSOLE}/destinations",
    "reconcile_interrupted": f"{CONSOLE}/events",
    "reconcile_found_missing": f"{CONSOLE}/events",
    "destination_down": f"{CONSOLE}/destinations/{{}}",
    "held_back": f"{CONSOLE}/deliveries?failing=true&destination={{}}",
    "destination_late": f"{CONSOLE}/destinations/{{}}",
    "dead": f"{CONSOLE}/deliveries?status=dead&destination={{}}",
    "destination_paused": f"{CONSOLE}/destinations/{{}}",
    "destination_unusable": f"{CONSOLE}/destinations/{{}}",
    "destination_unconfigured": f"{CONSOLE}/destinations/{{}}",
    "certificate_expires": f"{CONSOLE}/destinations/{{}}",
}
"""Where one sees more and acts, by the name of what is wrong."""


async def show(request: Request[State]) -> Response:
    """What was read last, which is at most some seconds ago."""
    overview = await request.state["overviews"].latest()
    readings = overview.status.readings
    return page(
        request,
        "now.html",
        at=overview.at,
        status_shown=overview.status,
        readings=readings,
        chart=drawn(overview.steps, now=overview.at),
        steps_known=bool(overview.steps),
        place_of=place_of,
        section_of=section_of,
        days_left={disk.place: days_left(readings, disk) for disk in readings.disks} if readings else {},
    )


def place_of(finding: Finding) -> tuple[str, str] | None:
    """The words and the address of a link to where one sees more of what is wrong, and acts; None without one."""
    place = PLACES.get(finding.name)
    if place is None:
        return None
    page_name = place.removeprefix(f"{CONSOLE}/").split("/")[0].split("?")[0].split("#")[0] or "below"
    return f"See {page_name}", place.format(quote(finding.subject or "", safe=""))

"""Destinations: how each stands, one in full, and what a person does to it."""

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.alarms.findings import typed
from app.api import standings
from app.api.acting import Why
from app.api.destinations import pause_destination, resume_destination
from app.api.groups import GroupChoice
from app.api.state import State
from app.console.forms import fields_of
from app.console.groups import address_of
from app.console.pages import CONSOLE, page
from app.deliveries.destinations.http import MOST_KEPT
from app.deliveries.trial import TYPE

LIST = f"{CONSOLE}/destinations"
SHOWN_ATTEMPTS = 20


async def list_page(request: Request[State]) -> Response:
    """All destinations."""
    looks, backlog = await standings.all_looks(request)
    return page(request, "destinations.html", looks=looks, backlog=backlog)


async def show(request: Request[State]) -> Response:
    """One destination."""
    look = await standings.look(request, request.path_params["name"])
    name = look.standing.name
    whole = GroupChoice.model_construct(destination=name)
    groups = {"dead": address_of(whole), "pending": address_of(whole.model_copy(update={"status": "pending"}))}
    return page(
        request, "destination.html", look=look, groups=groups, attempts=look.attempts[:SHOWN_ATTEMPTS], **_of(name)
    )


async def pause(request: Request[State]) -> Response:
    """Stops sending to a destination."""
    name, reason = request.path_params["name"], fields_of(request, Why).reason
    shown = reason or f"Paused by {request.state['client'].name} in the console."
    await pause_destination(request, name, reason=reason, shown=shown)
    return RedirectResponse(f"{address(name)}?done=paused", 303)


async def resume(request: Request[State]) -> Response:
    """Sends to a destination again."""
    name = request.path_params["name"]
    await resume_destination(request, name, reason=fields_of(request, Why).reason)
    return RedirectResponse(f"{address(name)}?done=resumed", 303)


async def test(request: Request[State]) -> Response:
    """Sends a test event, and shows what became of it. It is no redirect: the answer is stored nowhere."""
    name = request.path_params["name"]
    trial = await standings.tested(request, name, reason=fields_of(request, Why).reason)
    return page(request, "trial.html", trial=trial, most_kept=MOST_KEPT, **_of(name))


def address(name: str) -> str:
    """The address of a destination's page."""
    return f"{LIST}/{quote(name, safe='')}"


def _of(name: str) -> dict[str, Any]:
    """What the pages of a destination show: its name and address, and the commands."""
    commands = {verb: typed("destinations", verb, name) for verb in ("pause", "resume", "test", "remove")}
    return {"name": name, "address": address(name), "commands": commands, "test_type": TYPE}

"""Groups of deliveries that failed alike: the list, and what is done to a whole group, with its plan first."""

from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.alarms.findings import typed
from app.api.acting import Reason
from app.api.groups import (
    MOST_GROUPED,
    GroupChoice,
    GroupQuery,
    GroupShown,
    drop_group,
    grouped,
    planned,
    retry_group,
)
from app.api.state import State
from app.console.deliveries import LIST
from app.console.forms import fields_of
from app.console.pages import page
from app.web.parameters import read_query
from app.web.problems import Problem

GROUP = f"{LIST}/group"


class NotTyped(Problem):
    """The name was not typed as asked for."""

    status = 422


class GroupForm(GroupChoice):
    """What to change, and why."""

    reason: Reason = None
    typed: str | None = None
    """The destination's name, by which a person confirms that its deliveries are given up."""

    def choice(self) -> GroupChoice:
        """The group alone."""
        return GroupChoice(**{name: getattr(self, name) for name in GroupChoice.model_fields})


async def list_page(request: Request[State]) -> Response:
    """The groups, the largest first."""
    query = read_query(request, GroupQuery)
    found = await grouped(request, query)
    rows = [(group, address_of(_choice(group))) for group in found.groups]
    return page(request, "groups.html", query=query, rows=rows, most=MOST_GROUPED)


async def show(request: Request[State]) -> Response:
    """One group: how many it has, and what can be done."""
    group = read_query(request, GroupChoice)
    plan = await planned(request, group)
    return page(
        request,
        "group.html",
        group=group,
        plan=plan,
        commands={name: _command(name, group) for name in ("retry", "drop")},
    )


async def retry(request: Request[State]) -> Response:
    """Tries the dead deliveries of a group again."""
    form = fields_of(request, GroupForm)
    group = form.choice()
    over = await retry_group(request, group, reason=form.reason)
    return _to_group(group, "group-retried" if over else "group-partly-retried")


async def drop(request: Request[State]) -> Response:
    """Gives the deliveries of a group up."""
    form = fields_of(request, GroupForm)
    group = form.choice()
    if form.typed != group.destination:
        raise NotTyped("Nothing was dropped.", f"Type the destination's name, {group.destination}, to confirm it.")
    over = await drop_group(request, group, reason=form.reason)
    return _to_group(group, "group-dropped" if over else "group-partly-dropped")


def address_of(group: GroupChoice, **more: str) -> str:
    """The address of the group's page."""
    return f"{GROUP}?{urlencode(_fields(group) | more)}"


def _to_group(group: GroupChoice, done: str) -> Response:
    return RedirectResponse(address_of(group, done=done), 303)


def _fields(group: GroupChoice) -> dict[str, Any]:
    return group.model_dump(mode="json", exclude_none=True)


def _choice(group: GroupShown) -> GroupChoice:
    alike: Any = {
        "outcome": group.last_result,
        "answer": group.last_status,
        "type": group.type,
        "destination": group.destination,
        "status": group.status.value,
    }
    # Not validated: a stored type may hold what no parameter may, and the list must be shown all the same.
    return GroupChoice.model_construct(None, **alike)


def _command(name: str, group: GroupChoice) -> str:
    options = _fields(group)
    if name == "retry" or group.status == "dead":  # which is what the commands choose by themselves
        del options["status"]
    return typed("deliveries", name, *(word for key, value in options.items() for word in (f"--{key}", str(value))))

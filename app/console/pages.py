"""Pages: their templates, their style and script, and the headers with which they go out."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette import routing
from starlette.requests import Request
from starlette.responses import Response

from app.alarms.words import counted, lasting, number, size
from app.api.state import State
from app.console.commands import shell
from app.deliveries.met import met
from app.settings.clients import Scope
from app.telemetry.printing import printable
from app.web.etags import has_current
from app.web.openapi.operations import Door
from app.web.openapi.page import base_styles, marked
from app.web.problems import NotFound, NotReadable, Problem

CONSOLE = "/console"
MEDIA_TYPES = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
"""Pages hold guests' names: nobody but the browser's open tab keeps them."""

LISTS = frozenset(
    f"{CONSOLE}/{name}" for name in ("events", "deliveries", "deliveries/groups", "replays", "replays/new", "audit")
)
"""Pages with filters, all of which may be left out."""

DASH = Markup("&ndash;")

FOREVER = "public, max-age=31536000, immutable"
"""For a file whose address holds its digest."""

DONE = {
    "signed-out": "You are signed out.",
    "not-signed-in": "You are no longer signed in, so nothing was done. Sign in, and send the form again.",
    "started": "The replay is running. You may leave this page: workers carry it out.",
    "replay-paused": "The replay is paused. What was made before is still sent.",
    "replay-resumed": "The replay goes on.",
    "replay-cancelled": "The replay is cancelled. What had not been sent is dropped.",
    "replayed": "New deliveries were made. Workers send them now.",
    "released": "The event is accepted, and is delivered as any other.",
    "copy": "It is a copy of an event that was accepted before. It is counted there, and stays in quarantine.",
    "retried": "The delivery is tried again.",
    "dropped": "The delivery is dropped.",
    "group-retried": "The dead deliveries of this group are pending again.",
    "group-partly-retried": "Some of this group are pending again. Send it once more for those that are left.",
    "group-dropped": "The deliveries of this group are dropped.",
    "group-partly-dropped": "Some of this group are dropped. Send it once more for those that are left.",
    "paused": "The destination is paused: nothing more is sent to it.",
    "resumed": "The destination is resumed: what is due is sent now.",
}
"""What a page says after an action, by the word in its address: so an address can make it say nothing else."""


class Page(routing.Route):
    """One or two methods of a page of the console. It is not in the description of the API."""

    def __init__(
        self, method: str, path: str, endpoint: Callable[..., Any], *, door: Door | None = None, name: str | None = None
    ) -> None:
        middleware = [each for each in (door.middleware, door.behind) if each] if door else []
        super().__init__(path, endpoint, methods=[method], middleware=middleware, name=name)
        self.method = method
        self.door = door


class Asset(NamedTuple):
    """A file that pages use."""

    content: bytes
    digest: str
    media_type: str


def page(request: Request[State], template: str, *, status: int = 200, **values: Any) -> Response:
    """A page from a template.

    Args:
        request: The request that it answers.
        template: The file's name in `templates`.
        status: The answer's.
        values: What the template shows, besides what all pages have.
    """
    content = environment().get_template(template).render(_for_all(request) | values)
    return Response(content, status, HEADERS, "text/html")


def problem_page(request: Request[State], problem: Problem, request_id: str) -> Response:
    """A problem as a page; its status and headers are those of the problem."""
    path = request.scope["path"]
    of_filters = problem.status == NotReadable.status and path in LISTS and request.scope["query_string"]
    answer = page(
        request,
        "problem.html",
        status=problem.status,
        problem=problem,
        request_id=request_id,
        unfiltered=path if of_filters else None,
    )
    answer.headers.update(problem.headers)
    return answer


async def asset(request: Request[State]) -> Response:
    """A file that pages use."""
    kept = assets().get(request.path_params["name"])
    if kept is None:
        raise NotFound("There is no such file.", f"Go to {CONSOLE}.")
    headers = {"ETag": f'"{kept.digest}"', "Cache-Control": "no-cache"}
    if request.path_params["digest"] == kept.digest:
        headers["Cache-Control"] = FOREVER
    if has_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(kept.content, headers=headers, media_type=kept.media_type)


async def nothing(_: Request[State]) -> Response:
    """Any other address below `/console`."""
    raise NotFound("There is no such page.", f"Go to {CONSOLE}.")


@cache
def assets() -> dict[str, Asset]:
    """The files that pages use, by name; read once."""
    folder = files("app.console").joinpath("static")
    contents = {name: folder.joinpath(name).read_bytes() for name in MEDIA_TYPES}
    contents["console.css"] = base_styles().encode() + contents["console.css"]
    return {
        name: Asset(content, sha256(content).hexdigest()[:16], MEDIA_TYPES[name]) for name, content in contents.items()
    }


@cache
def environment() -> Environment:
    """Where templates are, and what they can call. All that they show is escaped."""
    made = Environment(
        loader=PackageLoader("app.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "moment": moment,
        "number": number,
        "size": size,
        "lasting": lasting,
        "text": _text,
        "plain": printable,
        "marked": marked,
        "json": partial(json.dumps, ensure_ascii=False, default=str),
        "lines": _lines,
        "pretty": partial(json.dumps, indent=2, ensure_ascii=False, default=str),
    }
    made.globals |= {
        "counted": counted,
        "shell": shell,
        "met": met,
        "asset": lambda name: f"{CONSOLE}/static/{assets()[name].digest}/{name}",
        "version": version("priohook"),
    }
    return made


def moment(at: datetime | None) -> Markup:
    """A time: in UTC, which the script turns into the viewer's zone; a dash if there is none."""
    if at is None:
        return DASH
    utc = at.astimezone(UTC)
    text = utc.strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}" title="{} UTC">{} UTC</time>').format(
        utc.isoformat(timespec="milliseconds"), text, text
    )


def _text(value: object) -> Markup:
    """Hostile text: what cannot be seen is made visible, and it cannot turn the direction of what follows."""
    return DASH if value is None else Markup("<bdi>{}</bdi>").format(printable(str(value)))


def _lines(value: str) -> str:
    """Hostile text of several lines, as `_text`; for an element that keeps the spaces."""
    return printable(value, keep="\n\t")


def _for_all(request: Request[State]) -> dict[str, Any]:
    state = request.scope["state"]
    session = state.get("session")
    scopes = session.client.scopes if session else frozenset()
    return {
        "path": request.scope["path"],
        "closed": state["settings"].closed_urls,
        "me": session.client.name if session else None,
        "form_token": session.form_token if session else None,
        "may_read": Scope.READ in scopes,
        "may_replay": Scope.REPLAY in scopes,
        "may_erase": Scope.ERASE in scopes,
        "done": DONE.get(state.get("done", "")),
        "now": datetime.now(UTC),
    }


def ago(at: datetime, now: datetime) -> timedelta:
    """How long ago it was; not less than nothing, whatever the clocks say."""
    return max(now - at, timedelta())

"""Signing in and out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from urllib.parse import unquote
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.api.acting import acting
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.auth.basic import Forbidden
from app.auth.clients import Client, Clients
from app.auth.limits import Limit, sender_of
from app.auth.reasons import note, reason_for
from app.auth.sessions import LIFETIME, begin
from app.auth.token_endpoint import NoKeys
from app.console.door import PLAIN, SECURE, SIGN_IN, cookie_name
from app.console.forms import check_origin, read_form
from app.console.pages import CONSOLE, page
from app.settings.clients import Scope

CHALLENGE = 'Form realm="priohook"'
"""RFC 9110, section 15.5.2, wants one with each 401. Browsers do not know the scheme, and show the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """The page to sign in, and what its form does. Wrong credentials count against their address; right ones pass."""

    keys: Sequence[bytes]
    clients: Clients
    failures: Limit
    body_timeout: timedelta
    public_url: str | None

    async def ask(self, request: Request[State]) -> Response:
        """The page to sign in."""
        return page(request, "sign-in.html", next=request.query_params.get("next", ""), name="", wrong=None)

    async def sign_in(self, request: Request[State]) -> Response:
        """Begins a session, and leads to the page that was asked for."""
        check_origin(request, self.public_url)
        if not self.keys:
            raise NoKeys("No key to sign sessions is configured.", "Set token_keys; docs/settings.md says how.")
        form = await read_form(request, self.body_timeout)
        client = self._match(request, form.get("name", ""), form.get("secret", ""))
        if client is None:
            return self._wrong(request, name=form.get("name", ""), place=form.get("next", ""))
        if Scope.CONSOLE not in client.scopes:
            raise Forbidden(
                "This client may not use the console.", f"Add `console` to the scopes of the client {client.name}."
            )
        request.state["client"] = client
        async with acting(request, Act(action=Action.SIGN_IN, kind=Kind.CLIENT, target=client.name)):
            pass
        cookie = begin(client, keys=self.keys, session_id=uuid4().hex, now=datetime.now(UTC))
        answer = RedirectResponse(_place(form.get("next", "")), 303)
        _set(answer, request, cookie, lasting=LIFETIME)
        return answer

    def _match(self, request: Request[State], name: str, secret: str) -> Client | None:
        """The client with this name or username; both are always tried, so that the time tells nothing."""
        now = datetime.now(UTC)
        usernames = (name, self.clients.usernames.get(name, name))
        presented = [f"{username}:{secret}".encode() for username in usernames]
        by_username, by_name = [self.clients.match(each, now=now) for each in presented]
        client = by_username or by_name
        if client is None:
            note(request.scope, lambda: reason_for(presented, self.clients, now=now))
        else:
            request.scope["state"]["line"]["client"] = client.name
        return client

    def _wrong(self, request: Request[State], *, name: str, place: str) -> Response:
        wait = self.failures.count(sender_of(request.scope), now=monotonic())
        wrong = "This name and secret are not those of a client." if wait is None else f"Wait {wait} seconds."
        headers = {"WWW-Authenticate": CHALLENGE} if wait is None else {"Retry-After": str(wait)}
        answer = page(
            request, "sign-in.html", status=401 if wait is None else 429, next=place, name=name[:255], wrong=wrong
        )
        answer.headers.update(headers)
        return answer


async def sign_out(request: Request[State]) -> Response:
    """Ends the session in this browser."""
    name = request.state["client"].name
    async with acting(request, Act(action=Action.SIGN_OUT, kind=Kind.CLIENT, target=name)):
        pass
    answer = RedirectResponse(f"{SIGN_IN}?done=signed-out", 303)
    _set(answer, request, "", lasting=timedelta())
    return answer


def _set(answer: Response, request: Request[State], cookie: str, *, lasting: timedelta) -> None:
    name = cookie_name(request.scope)
    answer.set_cookie(
        name,
        cookie,
        max_age=int(lasting.total_seconds()),
        path="/" if name == SECURE else CONSOLE,
        secure=name != PLAIN,
        httponly=True,
        samesite="strict",
    )


def _place(wanted: str) -> str:
    """Where to go after signing in: a page of the console, whatever the address said."""
    inside = wanted == CONSOLE or wanted.startswith((f"{CONSOLE}/", f"{CONSOLE}?"))
    return wanted if inside and wanted.isprintable() and "\\" not in unquote(wanted) else CONSOLE

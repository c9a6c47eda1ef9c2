"""The door of the console: a session, and for each form its token."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from functools import partial
from hmac import compare_digest
from typing import Any
from urllib.parse import quote

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.audit.tables import Channel
from app.auth.basic import Forbidden
from app.auth.clients import Clients
from app.auth.reasons import Refused, note
from app.auth.sessions import Session, resume
from app.auth.tokens import InvalidToken
from app.console.forms import FromElsewhere, check_origin, read_form, without_blanks
from app.console.pages import CONSOLE, problem_page
from app.settings.clients import Scope as ClientScope
from app.web.problems import NotReadable

SIGN_IN = f"{CONSOLE}/sign-in"
PLAIN, SECURE = "priohook", "__Host-priohook"
"""The cookie's names. Browsers take the second one only from this host, and only behind TLS."""

TOKEN_FIELD = "form_token"  # noqa: S105 - a field's name
LONGEST_PLACE = 2000  # characters


def cookie_name(scope: Scope) -> str:
    """The name of the cookie by which this request came."""
    return SECURE if scope["scheme"] == "https" else PLAIN


@dataclass(frozen=True, slots=True)
class OpenDoor:
    """ASGI: lets anyone through, to sign in."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(_prepared(scope, receive), receive, send)


@dataclass(frozen=True, slots=True)
class SessionDoor:
    """ASGI: lets a client through who is signed in; anyone else is shown where to sign in.

    Puts the client, the session and the fields of a form into the state.

    Raises:
        Forbidden: 403, the client lacks the scope.
        FromElsewhere: 403, no page of this session sent the form.
        Problem: 400, 408, 413 or 415, the form cannot be read.
    """

    app: ASGIApp
    _: KW_ONLY
    keys: Sequence[bytes]
    clients: Clients
    scope: ClientScope = ClientScope.CONSOLE
    public_url: str | None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = _prepared(scope, receive)
        request = Request[Any](scope, receive)
        session = self._session(scope, request)
        if session is None:
            await RedirectResponse(_sign_in(request), 303)(scope, receive, send)
            return
        state = scope["state"]
        state["line"]["client"] = session.client.name
        state |= {"session": session, "client": session.client, "token_ends_at": session.ends_at}
        if self.scope not in session.client.scopes:
            raise Forbidden("You may not do this.", f"Your client {session.client.name} needs the scope {self.scope}.")
        if scope["method"] == "POST":
            check_origin(request, self.public_url)
            state["form"] = _with_token(await read_form(request, state["body_timeout"]), session)
        await self.app(scope, receive, send)

    def _session(self, scope: Scope, request: Request[Any]) -> Session | None:
        cookie = request.cookies.get(cookie_name(scope))
        if not cookie:
            return None
        try:
            session = resume(cookie, keys=self.keys, clients=self.clients, now=self.now())
        except InvalidToken as error:
            refused = Refused(error.reason, error.client)
            note(scope, lambda: refused)
            return None
        return session if ClientScope.CONSOLE in session.client.scopes else None


def _prepared(scope: Scope, receive: Receive) -> Scope:
    """The scope with a query that handlers can read; a problem becomes a page."""
    try:
        query, done = without_blanks(scope["query_string"])
    except ValueError:
        raise NotReadable("The address has too many parameters.", f"Go to {CONSOLE}.") from None
    prepared = {**scope, "query_string": query}
    prepared["state"] |= {"done": done, "channel": Channel.CONSOLE}
    prepared["state"]["as_page"] = partial(problem_page, Request(prepared, receive))
    return prepared


def _sign_in(request: Request[Any]) -> str:
    """The page to sign in, which leads back to the page that was asked for, or says that a form did nothing."""
    if request.method == "POST":
        return f"{SIGN_IN}?done=not-signed-in"
    path = quote(request.scope["path"])  # it was decoded, and a reference may hold `?` and `#`
    place = path + (f"?{query}" if (query := request.scope["query_string"].decode("latin-1")) else "")
    wanted = len(place) <= LONGEST_PLACE and place != CONSOLE
    return f"{SIGN_IN}?next={quote(place, safe='')}" if wanted else SIGN_IN


def _with_token(form: ImmutableMultiDict[str, str], session: Session) -> ImmutableMultiDict[str, str]:
    if not compare_digest(form.get(TOKEN_FIELD, "").encode(), session.form_token.encode()):
        raise FromElsewhere(
            "This form belongs to another session.", "Nothing was done. Go back, load the page again, and send it."
        )
    return ImmutableMultiDict([(name, value) for name, value in form.multi_items() if name != TOKEN_FIELD])

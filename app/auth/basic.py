"""HTTP Basic (RFC 7617), exactly, and with the same work for every failure."""

import re
from binascii import Error as BadBase64
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.clients import Clients
from app.auth.limits import FailureLimit
from app.problems import Problem
from app.settings import Scope as ClientScope

CHALLENGE = 'Basic realm="priohook", charset="UTF-8"'
CONTROL_CHARACTERS = re.compile(rb"[\x00-\x1f\x7f]")


class AuthenticationFailed(Problem):
    """Not one valid Basic credential; never says what was wrong with it."""

    status = 401


class TooManyFailures(Problem):
    """As before, from an address that failed too often."""

    status = 429


class Forbidden(Problem):
    """A right credential that may not do this."""

    status = 403


def credential(headers: list[bytes]) -> bytes | None:
    """The `username:password` in the values of all Authorization headers, or None where it is not exactly one.

    A credential that was base64-encoded twice is read too: whether Prioticket encodes the registered `webhook_auth`
    once more is UNKNOWN. No guess is involved, since base64 has no colon and `username:password` has one.
    """
    if len(headers) != 1:
        return None  # a proxy may look at another one than we do
    scheme, _, token = headers[0].partition(b" ")
    if scheme.lower() != b"basic":
        return None
    decoded = _decode(token.lstrip(b" "))
    if decoded is not None and b":" not in decoded:
        decoded = _decode(decoded)
    if decoded is None or b":" not in decoded or CONTROL_CHARACTERS.search(decoded):
        return None
    return decoded


def _decode(token: bytes) -> bytes | None:
    """The bytes, or None where this is not how anybody encodes them: Python's strict mode lets `YTpi=` pass."""
    try:
        decoded = a2b_base64(token)
    except BadBase64:
        return None
    return decoded if b2a_base64(decoded, newline=False) == token else None


class BasicDoor:
    """ASGI: lets a client with the scope through, as `state["client"]`, before anything of the body is read.

    Raises:
        AuthenticationFailed: 401 with the challenge; without any credentials the same with no body.
        TooManyFailures: 429 in its place.
        Forbidden: 403, the client lacks the scope.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        clients: Clients,
        failures: FailureLimit,
        scope: ClientScope,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._app = app
        self._clients = clients
        self._failures = failures
        self._scope = scope
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        if not headers:
            # RFC 6750, section 3.1, and Prioticket's headers page: no error information for whoever presented nothing.
            challenge = Response(status_code=AuthenticationFailed.status, headers={"WWW-Authenticate": CHALLENGE})
            await challenge(scope, receive, send)
            return
        presented = credential(headers)
        # What cannot be a credential is compared all the same, so that its refusal takes as long.
        client = self._clients.match(presented or b"", now=self._now())
        if client is None or presented is None:
            address = scope["client"][0] if scope.get("client") else "unknown"
            scope["state"]["line"]["address"] = address
            raise self._refusal(address)
        scope["state"]["line"]["client"] = client.name
        if self._scope not in client.scopes:
            raise Forbidden("This client may not do this.", f"It needs the scope {self._scope}.")
        scope["state"]["client"] = client
        await self._app(scope, receive, send)

    def _refusal(self, address: str) -> Problem:
        wait = self._failures.failed(address, now=monotonic())
        if wait is None:
            return AuthenticationFailed(
                "These credentials are not valid.",
                "Send one HTTP Basic credential of a configured client.",
                headers={"WWW-Authenticate": CHALLENGE},
            )
        return TooManyFailures(
            "Too many failed authentications from this address.",
            f"Wait {wait} seconds, or send a valid credential: that always passes.",
            headers={"Retry-After": str(wait)},
        )

"""HTTP Basic (RFC 7617), read strictly, with the same work for every failure."""

from binascii import Error as BadBase64
from binascii import a2b_base64, b2a_base64
from collections.abc import Awaitable
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from time import monotonic
from urllib.parse import unquote_to_bytes

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.clients import Client, Clients
from app.auth.limits import Limit, sender_of
from app.auth.reasons import Reason, Refused, note, reason_for
from app.settings.clients import Scope as ClientScope
from app.web.problems import NO_STORE, LimitReached, Problem

CHALLENGE = 'Basic realm="priohook", charset="UTF-8"'
WHITE_SPACE = b" \t\r\n"
"""Some encoders of base64 append it, and it is no part of a field value (RFC 9110, section 5.5)."""

CONTROL_CHARACTERS = bytes([*range(0x20), 0x7F])


class AuthenticationFailed(Problem):
    """There is no valid credential."""

    status = 401


class NothingPresented(AuthenticationFailed):
    """The request has no credentials. The answer is the challenge, without a body.

    RFC 6750, section 3.1, and Prioticket's headers page: a request without credentials gets no error information.
    """

    def __init__(self, challenge: str) -> None:
        headers = {"WWW-Authenticate": challenge}
        super().__init__("There are no credentials.", "Send an Authorization header.", headers=headers)

    def response(self, request_id: str) -> Response:  # noqa: ARG002 - the header has it
        """The challenge without a body."""
        return Response(status_code=self.status, headers={**self.headers, **NO_STORE})


class TooManyFailures(LimitReached):
    """The credential is not valid, and its address has failed too often."""

    def __init__(self, wait: int) -> None:
        super().__init__(
            "Too many failed authentications from this address.",
            f"Wait {wait} seconds, or send a valid credential: that always passes.",
            wait=wait,
        )


class Forbidden(Problem):
    """The credential is valid, but may not do this."""

    status = 403
    reason = "scope"


PROBLEMS = (AuthenticationFailed, TooManyFailures, Forbidden)
"""What the door answers."""


def credential(headers: list[bytes]) -> bytes | None:
    """The `username:password` in the values of all Authorization headers; None unless there is exactly one.

    A credential that was base64-encoded twice is read too: whether Prioticket encodes the registered `webhook_auth`
    again is UNKNOWN. This cannot be ambiguous, since base64 has no colon and `username:password` has one.
    """
    if len(headers) != 1:
        return None  # a proxy may read a different one than we do
    scheme, _, token = headers[0].partition(b" ")
    if scheme.lower() != b"basic":
        return None
    decoded = _decode(token.lstrip(b" ").rstrip(WHITE_SPACE))
    if decoded is not None and b":" not in decoded:
        decoded = _decode(decoded.rstrip(WHITE_SPACE))
    if decoded is None or b":" not in decoded or _has_control_characters(decoded):
        return None
    return decoded


def _decode(token: bytes) -> bytes | None:
    """The bytes; None if encoding them gives another token: Python's strict mode lets `YTpi=` pass."""
    try:
        decoded = a2b_base64(token)
    except BadBase64:
        return None
    return decoded if b2a_base64(decoded, newline=False) == token else None


def form_decoded(presented: bytes) -> bytes | None:
    """The credential, form-decoded; None if it was not form-encoded.

    RFC 6749, section 2.3.1, wants clients to form-encode username and password for the token endpoint; few do it.
    """
    parts = presented.replace(b"+", b" ").partition(b":")
    decoded = b"".join(unquote_to_bytes(part) for part in parts)
    return None if decoded == presented or _has_control_characters(decoded) else decoded


def _has_control_characters(decoded: bytes) -> bool:
    return len(decoded.translate(None, CONTROL_CHARACTERS)) != len(decoded)


def authenticate(
    scope: Scope, *, clients: Clients, failures: Limit, now: datetime, form_encoded: bool = False
) -> Client:
    """The client whose credential is in the request's Authorization header.

    Args:
        form_encoded: Whether to try `form_decoded` too; every request then takes the time of two.

    Raises:
        NothingPresented: 401 with the challenge and no body.
        AuthenticationFailed: 401 with the challenge.
        TooManyFailures: 429 instead of 401.
    """
    headers = authorization(scope)
    if not headers:
        note(scope, lambda: Refused(Reason.MISSING))
        raise NothingPresented(CHALLENGE)
    presented = credential(headers)
    # Text that cannot be a credential is compared too, so that refusing it takes as long.
    spellings = [presented or b""]
    client = clients.match(spellings[0], now=now)
    if form_encoded:
        decoded = form_decoded(spellings[0])
        spellings.append(decoded or b"")
        other = clients.match(spellings[1], now=now)
        client = client or (other if decoded else None)
    if client is None or presented is None:
        malformed = presented is None
        note(scope, lambda: Refused(Reason.MALFORMED) if malformed else reason_for(spellings, clients, now=now))
        raise _refusal(failures.count(sender_of(scope), now=monotonic()))
    scope["state"]["line"]["client"] = client.name
    return client


def authorization(scope: Scope) -> list[bytes]:
    """The values of all Authorization headers."""
    last: dict[bytes, bytes] = scope["state"]["headers"]
    if len(last) == len(scope["headers"]):  # none is repeated
        return [last[b"authorization"]] if b"authorization" in last else []
    return [value for name, value in scope["headers"] if name == b"authorization"]


def _refusal(wait: int | None) -> Problem:
    if wait is None:
        return AuthenticationFailed(
            "These credentials are not valid.",
            "Send one HTTP Basic credential of a configured client.",
            headers={"WWW-Authenticate": CHALLENGE},
        )
    return TooManyFailures(wait)


@dataclass(frozen=True, slots=True)
class BasicDoor:
    """ASGI: lets a client with the scope through before the body is read, and puts it into `state["client"]`.

    Raises:
        AuthenticationFailed, TooManyFailures: as `authenticate`.
        Forbidden: 403, the client lacks the scope.
    """

    app: ASGIApp
    _: KW_ONLY
    clients: Clients
    failures: Limit
    scope: ClientScope

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        client = authenticate(scope, clients=self.clients, failures=self.failures, now=datetime.now(UTC))
        if self.scope not in client.scopes:
            raise Forbidden("This client may not do this.", f"It needs the scope {self.scope}.")
        scope["state"]["client"] = client
        return self.app(scope, receive, send)

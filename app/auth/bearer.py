"""Bearer tokens (RFC 6750): the door of everything under /api."""

import re
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from time import monotonic
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.basic import (
    WHITE_SPACE,
    AuthenticationFailed,
    Forbidden,
    NothingPresented,
    TooManyFailures,
    authorization,
)
from app.auth.clients import Client, Clients, Validity
from app.auth.limits import Limit, sender_of
from app.auth.reasons import Reason, Refused, note
from app.auth.tokens import InvalidToken, Token, verify
from app.settings.clients import Scope as ClientScope
from app.web.problems import Problem

CHALLENGE = 'Bearer realm="priohook"'
B64TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""


class MalformedRequest(Problem):
    """The Authorization header does not hold exactly one token, or the query holds one."""

    status = 400

    def __init__(self, message: str, description: str) -> None:
        super().__init__(message, description, headers={"WWW-Authenticate": f'{CHALLENGE}, error="invalid_request"'})


PROBLEMS = (MalformedRequest, AuthenticationFailed, TooManyFailures, Forbidden)
"""What the door answers."""


@dataclass(frozen=True, slots=True)
class BearerDoor:
    """ASGI: lets a token with the scope through before the body is read, and puts its client into `state["client"]`.

    `state["token_ends_at"]` says until when the token is valid.

    Tokens of a client that was removed or has expired are refused, and they lose every scope that their client loses.

    Raises:
        NothingPresented: 401 with the challenge and no body.
        AuthenticationFailed: 401, no valid token.
        TooManyFailures: 429 instead of 401; a valid token always passes.
        MalformedRequest: 400.
        Forbidden: 403, the token lacks the scope.
    """

    app: ASGIApp
    _: KW_ONLY
    keys: Sequence[bytes]
    clients: Clients
    failures: Limit
    scope: ClientScope
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            presented = _presented(scope)
        except (MalformedRequest, AuthenticationFailed) as problem:
            reason = Reason.MISSING if isinstance(problem, NothingPresented) else Reason.MALFORMED
            note(scope, lambda: Refused(reason))
            raise
        now = self.now()
        try:
            token = verify(presented, keys=self.keys, now=now)
            client = self._client(token, now)
        except InvalidToken as error:
            named = error.client if error.client in self.clients.names else None
            refused = Refused(error.reason, named)
            note(scope, lambda: refused)
            raise self._refusal(scope, str(error)) from None
        scope["state"]["line"]["client"] = client.name
        if self.scope not in token.scopes & client.scopes:
            raise Forbidden(
                "This token may not do this.",
                f"Get a token with the scope {self.scope}, for a client that has this scope.",
                headers={"WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope", scope="{self.scope}"'},
            )
        scope["state"]["client"] = client
        scope["state"]["token_ends_at"] = token.expires_at
        await self.app(scope, receive, send)

    def _client(self, token: Token, now: datetime) -> Client:
        client = next((each for each in self.clients if each.name == token.client), None)
        if client is None:
            raise InvalidToken("The token's client is not valid any more", Reason.UNKNOWN_CLIENT)
        if not client.valid_at(now):
            reason = Reason.EXPIRED if client.validity(now) is Validity.ENDED else Reason.NOT_YET_VALID
            raise InvalidToken("The token's client is not valid any more", reason, client.name)
        return client

    def _refusal(self, scope: Scope, reason: str) -> Problem:
        wait = self.failures.count(sender_of(scope), now=monotonic())
        if wait is not None:
            return TooManyFailures(wait)
        return AuthenticationFailed(
            f"{reason}.",
            "Get a new one: POST /oauth2/token.",
            headers={"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token", error_description="{reason}"'},
        )


def _presented(scope: Scope) -> str:
    """The one token in the Authorization header.

    Raises:
        NothingPresented: there are no credentials.
        AuthenticationFailed: they are of another scheme. RFC 6750, section 3.1, wants no error code for that.
        MalformedRequest: there is not exactly one token, or one is in the query.
    """
    headers = authorization(scope)
    if any(_is_token(field) for field in scope["query_string"].split(b"&")):
        # URLs end up in logs and histories; RFC 6750, section 2.3.
        raise MalformedRequest("The query holds a token.", "Get a new one, and send it in the Authorization header.")
    if not headers:
        raise NothingPresented(CHALLENGE)
    if len(headers) > 1:
        raise MalformedRequest("There is more than one Authorization header.", "Send one, with one Bearer token.")
    scheme, _, value = headers[0].partition(b" ")
    if scheme.lower() != b"bearer":
        raise AuthenticationFailed(
            "This URL takes a Bearer token.",
            "Get one with a client's HTTP Basic credential: POST /oauth2/token.",
            headers={"WWW-Authenticate": CHALLENGE},
        )
    value = value.strip(WHITE_SPACE)
    if not B64TOKEN.fullmatch(value):
        raise MalformedRequest("The Bearer token is malformed.", "Send one token, exactly as you got it.")
    return value.decode()


def _is_token(field: bytes) -> bool:
    """Whether a part of a query is named `access_token`; only a name that could be it is decoded."""
    name = field.partition(b"=")[0]
    return name == b"access_token" or (
        len(name) > len(b"access_token") and b"%" in name and unquote_to_bytes(name) == b"access_token"
    )

"""POST /oauth2/token: HTTP Basic in, a JWT out; client credentials, RFC 6749, section 4.4."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic
from typing import Literal
from uuid import uuid4

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from app.auth.basic import AuthenticationFailed, TooManyFailures, authenticate
from app.auth.clients import Client, Clients
from app.auth.limits import FAILURES, REQUESTS, Limit, sender_of
from app.auth.token_request import (
    InvalidRequest,
    InvalidScope,
    UnauthorizedClient,
    UnsupportedGrantType,
    granted,
    read_request,
)
from app.auth.tokens import issue
from app.web.body import Body, ClientGone, content_coding, declared_length, read_body
from app.web.negotiation import accepts_json
from app.web.openapi.operations import Answer, Operation
from app.web.problems import (
    NO_STORE,
    LimitReached,
    NotAcceptable,
    Problem,
    TooLarge,
    TooSlow,
    Unavailable,
    Unprocessable,
    UnsupportedMediaType,
)

MOST_BYTES = 8 * 1024
"""The largest body: a hundred times what a request needs."""

CLIENT_ERRORS = range(400, 500)


class TooManyRequests(LimitReached):
    """Too many requests, or too many failed ones, from a client or from an address."""


class NoKeys(Unavailable):
    """No key to sign tokens is configured."""


class TokenQuestion(BaseModel):
    """What is asked for."""

    grant_type: Literal["client_credentials"] = Field(description="How the client proves who it is: by HTTP Basic.")
    scope: str = Field(
        default="",
        description="Some of the client's scopes, separated by spaces. Without it the token has all of them.",
    )


class TokenAnswer(BaseModel):
    """The token."""

    access_token: str = Field(description="A JWT. Send it as Authorization: Bearer.")
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="Seconds.")
    scope: str = Field(default="", description="The token's scopes, if they are not exactly those asked for.")


@Operation(
    tag="token",
    description="A token for everything under /api, by client credentials: RFC 6749, section 4.4.",
    body=TokenQuestion,
    body_types=("application/x-www-form-urlencoded", "application/json"),
    examples={
        "all that the client may do": {"grant_type": "client_credentials"},
        "to read": {"grant_type": "client_credentials", "scope": "events:read"},
    },
    answers={
        200: Answer(
            description="The token.",
            model=TokenAnswer,
            headers={
                "Cache-Control": "no-store: only the client that asked may keep the token.",
                "Pragma": "no-cache: the same for caches of HTTP/1.0.",
            },
        ),
    },
    problems=(
        AuthenticationFailed,
        TooManyFailures,
        TooManyRequests,
        NoKeys,
        NotAcceptable,
        TooLarge,
        UnsupportedMediaType,
        TooSlow,
        InvalidRequest,
        Unprocessable,
        UnsupportedGrantType,
        UnauthorizedClient,
        InvalidScope,
    ),
)
@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEndpoint:
    """Get a token.

    This is the endpoint and its authentication, as plain ASGI. Wrong credentials count against their address, and a
    right one passes all the same. Bad requests count against the client that sent them. So nobody can lock a client out
    by failing in its name or from its address.
    """

    keys: Sequence[bytes]
    clients: Clients
    failures: Limit
    lifetime: timedelta
    body_timeout: timedelta
    of_strangers: Limit = field(init=False, default_factory=partial(Limit, REQUESTS, senders=1000))
    of_clients: Limit = field(init=False, default_factory=partial(Limit, REQUESTS))
    failures_of_clients: Limit = field(init=False, default_factory=partial(Limit, FAILURES))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = self._authenticated(scope)
        now = monotonic()
        _wait(self.failures_of_clients.wait(client.name, now=now) or self.of_clients.count(client.name, now=now))
        try:
            body = await self._body(scope, receive)
            answer = self._token(client, body, _header(scope, b"content-type"))
        except ClientGone:
            return
        except Problem as problem:
            if problem.status in CLIENT_ERRORS:
                self.failures_of_clients.count(client.name, now=monotonic())
            raise
        await answer(scope, receive, send)

    def _authenticated(self, scope: Scope) -> Client:
        try:
            return authenticate(
                scope, clients=self.clients, failures=self.failures, now=datetime.now(UTC), form_encoded=True
            )
        except (AuthenticationFailed, TooManyFailures):
            _wait(self.of_strangers.count(sender_of(scope), now=monotonic()))
            raise

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body, unless the request is refused before it is read.

        Raises:
            Problem: 406, 408, 413, 415 or 503.
        """
        if not self.keys:
            raise NoKeys(
                "No key to sign tokens is configured.", "The operator of this receiver must configure token_keys."
            )
        if not accepts_json(_header(scope, b"accept") or b""):
            raise NotAcceptable("Every answer here is application/json.", "Send Accept: application/json, or none.")
        declared = declared_length(_header(scope, b"content-length"))
        body = await read_body(receive, declared=declared, limit=MOST_BYTES, timeout=self.body_timeout)
        scope["state"]["line"]["bytes"] = body.size
        return _whole(body, coding=content_coding(_header(scope, b"content-encoding") or b""))

    def _token(self, client: Client, body: bytes, content_type: bytes | None) -> JSONResponse:
        asked = read_request(body, content_type=content_type, client=client)
        scopes = granted(asked, client)
        token = issue(
            client.name,
            scopes,
            keys=self.keys,
            lifetime=self.lifetime,
            token_id=str(uuid4()),
            now=datetime.now(UTC),
        )
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": int(self.lifetime.total_seconds())}
        if asked != scopes:
            answer["scope"] = " ".join(sorted(scopes))
        return JSONResponse(answer, headers=NO_STORE)


def _whole(body: Body, *, coding: bytes) -> bytes:
    if body.ending == "too_large":
        raise TooLarge(
            f"The body is over the limit of {MOST_BYTES} bytes.", "Send less.", close=True, unread=body.unread
        )
    if coding:
        raise UnsupportedMediaType("The body has a content coding.", "Send it plain.")
    if body.ending == "too_slow":
        raise TooSlow("The body did not arrive in time.", "Send it again, faster.", close=True, unread=True)
    return body.content


def _wait(seconds: int | None) -> None:
    if seconds is not None:
        raise TooManyRequests(
            "Too many requests, or too many failed ones, within a minute.",
            f"Wait {seconds} seconds.",
            wait=seconds,
        )


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    """The field's value, several joined by commas; RFC 9110, section 5.3."""
    values = [value for name, value in scope["headers"] if name == wanted]
    return b",".join(values) if values else None

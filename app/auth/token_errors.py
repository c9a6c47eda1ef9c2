"""Renders every problem of the token endpoint as RFC 6749, section 5.2, defines it."""

import json
from typing import Literal

from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.token_request import TokenRefused
from app.web.problems import NO_STORE, LingeringResponse, Problem

OF_STATUS = {401: "invalid_client", 429: "temporarily_unavailable", 503: "temporarily_unavailable"}
"""RFC 6749's errors for problems that other URLs have too; any other status is `invalid_request`."""


class TokenError(BaseModel):
    """RFC 6749, section 5.2."""

    error: Literal[
        "invalid_request",
        "invalid_client",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "temporarily_unavailable",
    ]
    error_description: str = Field(description="What was wrong, and what to do.")


class InWordsOfOAuth(Problem):
    """A problem as OAuth clients read it: plain ASCII without quotes."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message, problem.description, headers=problem.headers, unread=problem.unread)
        self.status = problem.status
        self.reason = problem.reason
        self._error = problem.error if isinstance(problem, TokenRefused) else OF_STATUS.get(problem.status)

    def response(self, request_id: str) -> Response:  # noqa: ARG002 - X-Request-Id has it
        error = self._error or TokenRefused.error
        content = {"error": error, "error_description": f"{self.message} {self.description}"}
        kind = LingeringResponse if self.unread else Response
        return kind(json.dumps(content), self.status, {**self.headers, **NO_STORE}, "application/json")


class TokenDoor:
    """ASGI: renders what the token endpoint raises; the endpoint itself authenticates."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Problem as problem:
            raise InWordsOfOAuth(problem) from None

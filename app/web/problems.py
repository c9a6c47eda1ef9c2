"""The answers to requests that fail: Prioticket's ErrorModel, unless the URL's door renders them differently.

Problem                      any status; each feature defines its own beside the line that raises it
├── NotReadable              400
├── NotFound                 404
├── MethodNotAllowed         405, with Allow
├── NotAcceptable            406
├── TooSlow                  408
├── TooLarge                 413
├── UnsupportedMediaType     415
├── Unprocessable            422
├── LimitReached             429, with Retry-After
├── MethodNotImplemented     501
├── Unavailable              503, with Retry-After
└── InternalError            500
"""

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DEFINED_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
"""RFC 9110, section 9.3, and RFC 5789. Methods of other standards, such as WebDAV's, are answered 501."""

CODES = {
    400: "INVALID_REQUEST",
    401: "AUTHENTICATION_FAILED",
    413: "CONTENT_TOO_LARGE",  # older Pythons have another name for it
    414: "URI_TOO_LONG",  # older Pythons too
    422: "UNPROCESSABLE_ENTITY",  # newer Pythons have another name for it
    429: "LIMIT_REACHED",
}
"""Prioticket documents INVALID_REQUEST; 401 and 429 follow its names for responses. Any other status uses HTTP's own
phrase, such as NOT_FOUND."""

CAPITALS = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Where a word begins in the name of a class."""

RETRY_AFTER = timedelta(seconds=10)
"""Long enough for a database to restart, short enough that a ticket is not late."""

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
"""On every error, since caches may keep a 404 or 405 by themselves (RFC 9110, section 15.1), and on every token: RFC
6749, section 5.1, wants both."""

LINGER = timedelta(seconds=2)
LINGER_BYTES = 16 * 1024 * 1024


class Problem(Exception):
    """Why a request fails: a status, a sentence for people, and a description that says what to do.

    Args:
        close: Whether the connection is closed after the answer.
        unread: Whether more of the request may still arrive.
    """

    status = 500
    reason = "problem"
    """One word for logs and counts: the class's name, unless the class says another."""

    def __init_subclass__(cls) -> None:
        if "reason" not in vars(cls):
            cls.reason = CAPITALS.sub("_", cls.__name__).lower()

    def __init__(
        self,
        message: str,
        description: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
        unread: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.description = description
        self.headers = {**(headers or {}), **({"Connection": "close"} if close else {})}
        self.unread = unread

    def response(self, request_id: str) -> Response:
        """The ErrorModel as JSON; its `error_reference` is the request id, which the log line has too."""
        code = CODES.get(self.status) or HTTPStatus(self.status).name
        content = {"error": code, "error_reference": request_id, "error_message": self.message}
        if self.description:
            content["error_description"] = self.description
        kind = LingeringResponse if self.unread else Response
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        return kind(body, self.status, {**self.headers, **NO_STORE}, "application/json")


class NotReadable(Problem):
    """The body is not JSON, or not in the content coding that was declared."""

    status = 400


class NotAcceptable(Problem):
    """The sender does not accept JSON, and every answer with a body is JSON."""

    status = 406


class TooSlow(Problem):
    """The body did not arrive in time."""

    status = 408


class TooLarge(Problem):
    """The body is over the limit."""

    status = 413


class UnsupportedMediaType(Problem):
    """This URL does not take the body's content type or content coding."""

    status = 415


class Unprocessable(Problem):
    """The body is JSON, but not what this URL takes; the message says why."""

    status = 422


class LimitReached(Problem):
    """The sender must wait this many seconds."""

    status = 429

    def __init__(self, message: str, description: str, *, wait: int) -> None:
        super().__init__(message, description, headers={"Retry-After": str(wait)})


class NotFound(Problem):
    """Nothing is at this URL."""

    status = 404


class MethodNotAllowed(Problem):
    """The URL does not have this method."""

    status = 405


class MethodNotImplemented(Problem):
    """HTTP does not define this method."""

    status = 501


class InternalError(Problem):
    """Something unexpected failed; the log has it under the request id."""

    status = 500


class Unavailable(Problem):
    """A temporary problem of ours: the sender should try again."""

    status = 503

    def __init__(self, message: str, description: str = "Nothing is lost: send the same request again.") -> None:
        super().__init__(
            message,
            description,
            headers={"Retry-After": str(int(RETRY_AFTER.total_seconds()))},
        )


class LingeringResponse(Response):
    """A response to a request of which more may still arrive.

    Before the connection closes, what arrives is read and thrown away for a moment. Closing a socket that has unread
    bytes resets it, and the reset can overtake the answer: the sender would see a broken connection instead of its 413.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await _drain(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER.total_seconds()):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


def problem_for(error: Exception, *, method: str) -> Problem | None:
    """The problem to answer for an exception; None if the exception is a bug of ours.

    Starlette's router raises 404 and 405. A 405 becomes a 501 if HTTP does not define the method.
    """
    if isinstance(error, Problem):
        return error
    if not isinstance(error, HTTPException) or error.status_code not in (NotFound.status, MethodNotAllowed.status):
        return None
    if error.status_code == NotFound.status:
        return NotFound("There is nothing at this URL.", "docs/api.md lists the URLs. Paths are case-sensitive.")
    allow = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
    if method not in DEFINED_METHODS:
        return MethodNotImplemented("HTTP does not define this method.", f"This URL takes {allow}.")
    return MethodNotAllowed("This URL does not take this method.", f"It takes {allow}.", headers={"Allow": allow})

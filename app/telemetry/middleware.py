"""A request id for every request, and one log line, whatever happened."""

import logging
import os
from collections.abc import Awaitable
from itertools import count
from secrets import token_hex
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry import traces
from app.telemetry.logs import LogWriter
from app.telemetry.tally import Tally
from app.web.addresses import address_of
from app.web.body import ClientGone
from app.web.problems import InternalError, Problem, problem_for
from app.web.response_headers import SECURITY_HEADERS

NUMBERS = count(1)
_process = token_hex(6)

logger = logging.getLogger(__name__)

HEALTH = frozenset(("/healthz", "/readyz"))
LONGEST_AGENT = 60  # characters

CLIENT_CLOSED_REQUEST = 499
"""The status in the line if the client went away before its answer; nginx's number, never sent."""


def new_request_id() -> str:
    """The process's random name and the request's number there: unique, and cheaper than a random one each."""
    return f"{_process}{next(NUMBERS):010x}"


def _rename_process() -> None:
    global _process  # noqa: PLW0603 - a process has one name
    _process = token_hex(6)


os.register_at_fork(after_in_child=_rename_process)


class RequestLine:
    """Pure ASGI: gives each request an id, turns what was raised into an answer, writes the line, counts refusals.

    The line's fields are in `state["line"]`, where all code adds what it learns. A function in `state["afterwards"]` is
    called once the answer is on its way: it may add what the answer's time must not reveal.
    """

    def __init__(self, app: ASGIApp, *, log: LogWriter, tally: Tally) -> None:
        self._app = app
        self._log = log
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = new_request_id()
        headers = dict(scope["headers"])
        received = headers.get(b"traceparent")
        trace = (received and traces.continued(received)) or traces.begun()
        line: dict[str, Any] = {
            "request_id": request_id,
            "method": scope["method"],
            "path": scope["path"][:200],  # without its query, which can hold credentials
            "address": address_of(scope),
            "user_agent": headers.get(b"user-agent", b"")[:LONGEST_AGENT].decode("latin-1"),
            "trace": traces.trace_id(trace),
        }
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["trace"] = trace
        state["line"] = line
        problem: Problem | None = None
        status = CLIENT_CLOSED_REQUEST

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    *SECURITY_HEADERS,
                ]
            return send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientGone:
            pass  # the line says so
        except Exception as error:
            problem = problem_for(error, method=scope["method"])
            if problem is None:
                logger.exception("request_failed", extra={"fields": {"request_id": request_id}})
                problem = InternalError("Something failed here.", "The log has it under this reference.")
            if status == CLIENT_CLOSED_REQUEST:
                await problem.response(request_id)(scope, receive, send_with_id)
            # Its frames, and those of its cause, refer to the error: a cycle that would keep the body until the garbage
            # collector runs.
            error.__traceback__ = error.__context__ = None
        finally:
            line["status"] = status
            line["ms"] = int((perf_counter() - started) * 10_000 + 0.5) / 10
            if (afterwards := state.get("afterwards")) is not None:
                afterwards()
            if problem is not None:
                line.setdefault("reason", problem.reason)
            self._tally.answered(line)
            # A balancer asks every second or so.
            self._log.write("request", line, level="debug" if scope["path"] in HEALTH else "info")

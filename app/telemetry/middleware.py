"""A request id for every request, and one log line, whatever happened."""

import logging
import os
from collections.abc import Awaitable, Mapping
from itertools import count
from secrets import token_hex
from time import perf_counter, time_ns
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry import traces
from app.telemetry.logs import LogWriter
from app.telemetry.meter import Meter
from app.telemetry.spans import Recorder, Spans
from app.telemetry.tally import Tally
from app.web.addresses import address_of
from app.web.body import ClientGone
from app.web.problems import InternalError, problem_for
from app.web.response_headers import SECURITY_HEADERS

NUMBERS = count(1)
_process = token_hex(6)

logger = logging.getLogger(__name__)

HEALTH = frozenset(("/healthz", "/readyz"))
WEBHOOK = "/webhooks/prioticket"
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

    `state["headers"]` has the headers by name, of repeated ones the last. The line's fields are in `state["line"]`,
    where all code adds what it learns. A function in `state["afterwards"]` is called once the answer is on its way: it
    may add what the answer's time must not reveal. One in `state["as_page"]` renders a problem for people.
    `state["began"]` is when the first byte came, if the server says it.
    """

    def __init__(self, app: ASGIApp, *, log: LogWriter, tally: Tally, spans: Spans, meter: Meter | None = None) -> None:
        self._app = app
        self._log = log
        self._meter = meter
        self._tally = tally
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = new_request_id()
        headers = dict(scope["headers"])
        received = headers.get(b"traceparent")
        sender, trace = self._placed(received, request_id) if received else (None, self._spans.begun(request_id))
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
        state["headers"] = headers
        state["line"] = line
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
            line["reason"] = problem.reason
            if status == CLIENT_CLOSED_REQUEST:
                as_page = state.get("as_page")
                answer = as_page(problem, request_id) if as_page else problem.response(request_id)
                await answer(scope, receive, send_with_id)
            # Its frames, and those of its cause, refer to the error: a cycle that would keep the body until the garbage
            # collector runs.
            error.__traceback__ = error.__context__ = None
        finally:
            line["status"] = status
            line["ms"] = int((perf_counter() - started) * 10_000 + 0.5) / 10
            self._count(line, state, started)
            if self._spans.recorder is not None and line["path"] == WEBHOOK:
                _record(self._spans.recorder, state, sender=sender, started=started)
            # A balancer asks every second or so.
            self._log.write("request", line, level="debug" if scope["path"] in HEALTH else "info")

    def _count(self, line: dict[str, Any], state: Mapping[str, Any], started: float) -> None:
        if (afterwards := state.get("afterwards")) is not None:
            afterwards()
        self._tally.answered(line)
        if self._meter is not None:
            self._meter.answered(line, perf_counter() - state.get("began", started))

    def _placed(self, received: bytes, request_id: str) -> tuple[str | None, str]:
        """The sender's `traceparent`, if it is valid, and that of this request."""
        trace = traces.continued(received)
        return (None, self._spans.begun(request_id)) if trace is None else (received[: traces.LENGTH].decode(), trace)


def _record(recorder: Recorder, state: Mapping[str, Any], *, sender: str | None, started: float) -> None:
    """Records the span of a webhook, and the one of its wait for the commit, if it got that far.

    Args:
        recorder: Records them.
        state: The request's.
        sender: The sender's `traceparent`.
        started: When the request came, as `perf_counter` tells the time.
    """
    line, trace = state["line"], state["trace"]
    offset = time_ns() - int(perf_counter() * 1e9)
    recorder.record(
        "receive",
        trace,
        parent=sender,
        begun_ns=offset + int(started * 1e9),
        ended_ns=offset + int((started + line["ms"] / 1000) * 1e9),
        outgoing=False,
        failed=line["status"] >= InternalError.status,
        attributes={
            "http.request.method": line["method"],
            "http.response.status_code": line["status"],
            "url.path": line["path"],
            "client.address": line["address"],
            "user_agent.original": line["user_agent"] or None,
            "priohook.request.id": line["request_id"],
            "priohook.client": line.get("client"),
            "priohook.event.id": line.get("event_id"),
            "priohook.event.type": line.get("type"),
            "priohook.event.duplicate": line.get("duplicate"),
            "priohook.reference": line.get("reference"),
            "priohook.reason": line.get("reason"),
        },
    )
    if (asked := state.get("asked")) is not None:
        recorder.record(
            "commit",
            traces.child(trace),
            parent=trace,
            begun_ns=offset + int(asked * 1e9),
            ended_ns=offset + int((asked + line["wait_ms"] / 1000) * 1e9),
            outgoing=None,
            failed="event_id" not in line,
            attributes={"priohook.event.id": line.get("event_id")},
        )

"""One connection to a sender: bounded in bytes and time, with our error bodies even before ASGI begins.

    accepted ── no room ──────────────────────────────▶ refused, 503
       │
       ▼
    head ────── nothing comes within HEAD_TIMEOUT ────▶ closed
     ▲ │ ────── not whole by then ────────────────────▶ refused, 408
     │ │ ────── too large, malformed, … ──────────────▶ refused, 431, 414, 400, 501 …
     │ ▼ whole: ASGI begins
     │ body ─── outgrows `most_bytes` ────────────────▶ closed     (its deadline is the receiver's)
     │ │ ────── answered early, and the rest is late ─▶ closed     (after HEAD_TIMEOUT; else idle)
     │ ▼ whole
     │ answer ─ what comes meanwhile waits as bytes, or pipelined
     │ ▼ complete
     └ idle ─── nothing comes within IDLE_TIMEOUT ────▶ closed

Refused: answers to earlier requests are written first, then the refusal, unless the answer to this request has begun;
then the connection is closed.
In each state: a peer that takes nothing for WRITE_TIMEOUT is dropped. If a new connection needs room, the one that has
waited longest is dropped. A peer that half-closes still gets the answers to all its complete requests.
"""

import re
from asyncio import TimerHandle, Transport
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.server.connections import Connections
from app.server.exchange import Exchange
from app.server.head import (
    LARGEST_HEAD_BYTES,
    LONGEST_TARGET_BYTES,
    MOST_FIELDS,
    HeadTooLarge,
    HeadTooSlow,
    TargetTooLong,
    check_size,
    expects_continue,
    problem_of,
    target,
    without_upgrade,
)
from app.server.wire import Wire
from app.telemetry.logs import LogWriter
from app.telemetry.meter import Meter
from app.telemetry.middleware import new_request_id
from app.web.problems import Problem, Unavailable
from app.web.response_headers import SECURITY_HEADERS

HEAD_TIMEOUT = timedelta(seconds=10)
WRITE_TIMEOUT = timedelta(seconds=15)
"""How long a peer may take nothing of what is written to it, see `Wire`."""

LAST_WRITE_TIMEOUT = timedelta(seconds=1)
"""The same while the server shuts down."""

MAPPED = "::ffff:"
"""How an IPv4 address begins if it is written as IPv6; RFC 4291, section 2.5.5.2."""

MOST_CONNECTIONS = 4096
MOST_OF_ADDRESS = 2048
PIECE_BYTES = 8 * 1024
"""How much is parsed at once. What else arrived of pipelined requests waits as bytes: a parsed request is a hundred
times as large."""


class TooManyConnections(Unavailable):
    """There is no room for another connection: every open one has a request under way."""


class Protocol(HttpToolsProtocol):
    """One connection. `server_for` sets the class attributes, since uvicorn makes the instances."""

    paths: ClassVar[tuple[re.Pattern[str], ...]]
    log: ClassVar[LogWriter]
    meter: ClassVar[Meter | None] = None
    most_bytes: ClassVar[int]
    open: ClassVar[Connections] = Connections(most=MOST_CONNECTIONS, most_of_address=MOST_OF_ADDRESS)
    head_timeout: ClassVar[timedelta] = HEAD_TIMEOUT
    write_timeout: ClassVar[timedelta] = WRITE_TIMEOUT

    transport: Wire  # type: ignore[assignment] # all of a transport that uvicorn uses
    cycle: Exchange  # None before the first request, as uvicorn has it
    _timer: TimerHandle
    _since = 0.0  # on the loop's clock: when it last began to wait, for a request or for a peer that does not read
    _received = 0  # bytes of the request under way
    _between = 0  # bytes after the last piece of a body: chunk extensions and trailers
    _in_head = True
    _began = 0.0  # as `perf_counter` tells the time: when the first byte of a head came; for the meter only
    _head_late_at: float | None = None  # on the loop's clock, while a head or the rest of a body is waited for
    _headers_sent: list[tuple[bytes, bytes]] | None = None  # of a head that is parsed again
    _refusal: Problem | None = None  # waits for the answers to earlier requests
    _unparsed = b""  # waits for them too
    _half_closed = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Starts waiting for a head, if there is room."""
        stalled = partial(self.drop, "The peer does not read its answers.")
        wire = Wire(transport, self.loop, patience=self.write_timeout, stalled=stalled)
        super().connection_made(wire)  # type: ignore[arg-type] # all of a transport that uvicorn uses
        if self.client and self.client[0].startswith(MAPPED):  # the socket serves IPv6 and IPv4
            self.client = (self.client[0].removeprefix(MAPPED), self.client[1])
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self.head_timeout.total_seconds(), self._look)
        if self.open.admit(self, self._address()):
            self._wait_for_head()
        else:
            self._refuse(TooManyConnections("There are too many connections."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection, and tells the application that nobody waits for its answer."""
        self.open.left(self)
        self.connections.discard(self)
        self._timer.cancel()
        if self.cycle is not None:
            self.cycle.disconnect()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.transport.forget()
        self.parser = None  # type: ignore[assignment] # which holds this

    def waiting_since(self) -> float | None:
        """Since when it has waited for its peer; None while its request is being worked on."""
        answered = self.cycle is None or self.cycle.response_complete
        return self._since if answered or self.flow.write_paused else None

    def drop(self, why: str) -> None:
        """Ends the connection at once."""
        self.log.write("connection_dropped", {"address": self._address(), "reason": why})
        self.transport.abort()

    def pause_writing(self) -> None:
        """Begins to watch whether the peer takes what is written."""
        super().pause_writing()
        self._since = self.loop.time()
        self.transport.watch()

    def shutdown(self) -> None:
        """Ends the connection after its answer, sooner if the peer does not take it.

        An answer that has no end of its own says in `state["end"]` how to end it.
        """
        super().shutdown()
        if self.cycle is not None and (end := self.cycle.scope.get("state", {}).get("end")) is not None:
            end()
        self.transport.hurry(LAST_WRITE_TIMEOUT)

    def data_received(self, data: bytes) -> None:
        """Parses; a head or a request that outgrows its bounds ends the connection."""
        data = self._unparsed + data
        self._unparsed = b""
        if self.meter is not None and self._in_head and not self._received:
            self._began = perf_counter()
        start = 0
        while start < len(data) and self._refusal is None and not self.transport.is_closing():
            if self.pipeline:
                self._unparsed = data[start:]
                self.flow.pause_reading()
                break
            piece = data[start : start + PIECE_BYTES]
            start += PIECE_BYTES
            self._received += len(piece)
            self._between += len(piece)
            self._parse(piece)
        if self._refusal is None and not self.transport.is_closing():
            self._keep_bounds()

    def _keep_bounds(self) -> None:
        if self._in_head and self._received > LARGEST_HEAD_BYTES:
            self._refuse(HeadTooLarge("The request's head is too large.", "Send fewer and shorter headers."))
        elif not self._in_head and self._between > LARGEST_HEAD_BYTES:
            self._refuse(HeadTooLarge("The request's trailers are too large.", "Send fewer, and no chunk extensions."))
        elif max(self._received, len(self._unparsed)) > self.most_bytes:
            self.transport.abort()
        elif self._in_head and self._received:
            self._wait_for_head()
        elif self._is_idle():
            self._since = self.loop.time()  # the rest of a request that was refused early has come

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's protocols may return it
        """Keeps a half-closed connection as long as it waits for an answer."""
        self._half_closed = True
        waits = self._waits_for_answer()
        if waits and not self._unparsed:
            self.cycle.keep_alive = False
        return waits

    def on_url(self, url: bytes) -> None:
        """Takes a part of the target; an endless one is refused before its end."""
        self.url += url
        if len(self.url) > LONGEST_TARGET_BYTES:
            raise TargetTooLong("The request's target is too long.", f"Send {LONGEST_TARGET_BYTES} bytes at most.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a field of the head; trailers are thrown away, RFC 9110, section 6.5.1."""
        if not self._in_head:
            return
        # A short field costs thirty times its bytes.
        if len(self.headers) >= MOST_FIELDS:
            raise HeadTooLarge("The request has too many header fields.", f"Send {MOST_FIELDS} at most.")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The body follows; its own deadline is the receiver's."""
        if self._received + PIECE_BYTES > LARGEST_HEAD_BYTES:  # else it cannot be larger
            check_size(self.headers)
        if self._offers_upgrade():
            return
        version = self.parser.get_http_version()
        expects = expects_continue(version, self.headers)
        raw_path, path, query_string = target(self.url)
        if self._headers_sent is not None:
            self.headers[:] = self._headers_sent
            self._headers_sent = None
        scope: Any = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["raw_path"] = raw_path
        scope["path"] = path
        scope["query_string"] = query_string
        if self.meter is not None:
            scope["state"]["began"] = self._began
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        before, self.cycle = self.cycle, Exchange(self, scope, expects_continue=expects, keep_alive=keep_alive)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        self._in_head = False
        self._between = 0
        self._head_late_at = None

    def on_body(self, body: bytes) -> None:
        """Resets the count of what comes between two pieces of a body, which the parser gathers without a bound."""
        self._between = 0
        if not self.cycle.response_complete:
            self.cycle.take(body)

    def on_message_complete(self) -> None:
        """The next request may follow."""
        if self._offers_upgrade():
            return
        self._in_head = True
        self._received = 0
        self._head_late_at = None
        if not self.cycle.response_complete:
            self.cycle.end()

    def on_response_complete(self) -> None:
        """Goes on with what arrived after the request that is now answered."""
        self.server_state.total_requests += 1
        self._since = self.loop.time()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self._unparsed:
            self.data_received(b"")
            if self._half_closed and not self._unparsed and not self.eof_received():
                self.transport.close()
        elif self._refusal is not None:
            self._refuse(self._refusal)
        elif not self._in_head and self.cycle.response_complete:
            self._wait_for_head()  # and for the rest of a body that was refused early: nothing else waits for it

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as end:
                rest = data[end.args[0] :]
                data = self._without_upgrade() + rest if self._offers_upgrade() else rest
            except httptools.HttpParserError as error:
                begins_here = self._received == len(data)
                self._refuse(problem_of(error, data if begins_here else b"", self.paths))
                return
            else:
                return

    def _offers_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _without_upgrade(self) -> bytes:
        """The head without its offer to speak another protocol, for a new parser.

        The old parser takes what follows for that protocol, so the body would be lost. Java's HttpClient offers h2c
        with every first request, and RFC 9110, section 7.8, lets a server ignore it.
        """
        head = without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        self._headers_sent = self.headers
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return head

    def _address(self) -> str:
        return self.client[0] if self.client else "unknown"

    def _wait_for_head(self) -> None:
        if self._head_late_at is None:
            self._head_late_at = self.loop.time() + self.head_timeout.total_seconds()

    def _look(self) -> None:
        """Ends what waits too long: one timer, since one for each wait would be started and cancelled twice a request.

        The timer runs again before anything that begins to wait meanwhile could be late.
        """
        if self._refusal is not None or self.transport.is_closing():
            return
        late_at = self._head_late_at
        if late_at is None and self._is_idle():
            late_at = self._since + self.timeout_keep_alive
        within = self.head_timeout.total_seconds()
        if late_at is not None:
            within = min(within, late_at - self.loop.time())
        if within > 0:
            self._timer = self.loop.call_later(within, self._look)
        elif self._in_head and self._received:
            self._refuse(HeadTooSlow("The request's head did not arrive in time.", "Send it again, faster."))
        else:
            self.transport.close()

    def _is_idle(self) -> bool:
        return self._in_head and not self._received and self.cycle is not None and self.cycle.response_complete

    def _refuse(self, problem: Problem) -> None:
        """Answers outside ASGI, after all earlier answers, and ends the connection; no request gets two answers."""
        self._refusal = problem
        if self._waits_for_answer():
            return
        if self._in_head or not self.cycle.response_started:
            request_id = new_request_id()
            response = problem.response(request_id)
            headers = [
                *self.server_state.default_headers,
                *response.raw_headers,
                (b"x-request-id", request_id.encode()),
                *SECURITY_HEADERS,
                (b"connection", b"close"),
            ]
            head = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(STATUS_LINE[problem.status] + head + b"\r\n" + bytes(response.body))
            fields = {
                "request_id": request_id,
                "status": problem.status,
                "address": self._address(),
                "problem": problem.message,
                "reason": problem.reason,
            }
            self.log.write("request", fields)
            if self.meter is not None:
                self.meter.refused(problem.status, problem.reason)
        self.transport.close()

    def _waits_for_answer(self) -> bool:
        """Whether a complete request is not answered yet."""
        whole = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        return whole or bool(self.pipeline)

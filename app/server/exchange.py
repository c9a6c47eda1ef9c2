"""One request and its answer, as ASGI; uvicorn's own takes several times the instructions."""

from asyncio import Future
from typing import Any

from starlette.types import Message, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

IN_FIELDS = bytes({0x09, *range(0x20, 0x100)} - {0x7F})
"""The bytes that a header field may have; RFC 9110, section 5.5."""

WITHOUT_BODY = (204, 304)


class Exchange(RequestResponseCycle):
    """What the application receives of a request, and sends as its answer."""

    disconnected = False
    response_started = False
    response_complete = False
    chunked_encoding = False
    expected_content_length = 0
    more_body = True
    _head = b""  # not written yet: it goes with the beginning of the body, when that is known to follow at once
    _news = False  # since the application received something
    _waiting: Future[None] | None = None

    def __init__(
        self, connection: HttpToolsProtocol, scope: Scope, *, expects_continue: bool, keep_alive: bool
    ) -> None:
        self.scope = scope  # type: ignore[assignment] # uvicorn has types of its own
        self.transport = connection.transport
        self.flow = connection.flow
        self.logger = connection.logger
        self.default_headers = connection.server_state.default_headers
        self.on_response = connection.on_response_complete
        self.waiting_for_100_continue = expects_continue
        self.keep_alive = keep_alive
        self._loop = connection.loop
        self._body: list[bytes] = []
        self._body_bytes = 0

    def take(self, body: bytes) -> None:
        """Takes a piece of the body, and no more for the moment if the application does not keep up."""
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self._wake()

    def end(self) -> None:
        """The body is whole."""
        self.more_body = False
        self._wake()

    def disconnect(self) -> None:
        """The sender is gone."""
        self.disconnected = not self.response_complete
        self._wake()

    def _wake(self) -> None:
        self._news = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def receive(self) -> Any:
        """As ASGI says."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            while not self._news:
                self._waiting = self._loop.create_future()
                await self._waiting
            self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = b"".join(self._body)
        self._body = []
        self._body_bytes = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """As ASGI says.

        Raises:
            RuntimeError: the application keeps neither to ASGI nor to HTTP.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started and kind == "http.response.start":
            self._begin(message)
        elif self.response_started and not self.response_complete and kind == "http.response.body":
            self._go_on(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind} was sent out of turn.")

    def _begin(self, message: Message) -> None:
        status = message["status"]
        length = None
        closing = False
        fields = (*self.default_headers, *message.get("headers", ()))
        for name, value in fields:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" and b"close" in value.lower():
                closing = True
        lines = b"\r\n".join([*map(b": ".join, fields), b""])
        if lines.translate(None, IN_FIELDS) != b"\r\n" * len(fields):
            raise RuntimeError("A header has a control character.")
        if closing:
            self.keep_alive = False
        elif not self.keep_alive:
            lines += b"connection: close\r\n"
        if length is None and self.scope["method"] != "HEAD" and status not in WITHOUT_BODY:
            self.chunked_encoding = True
            lines += b"transfer-encoding: chunked\r\n"
        self.response_started = True
        self.waiting_for_100_continue = False
        self._head = STATUS_LINE[status] + lines + b"\r\n"
        if length is not None and self.scope["method"] != "HEAD":
            self.expected_content_length = length
        else:
            self.transport.write(self._head)
            self._head = b""

    def _go_on(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        elif self.chunked_encoding:
            body = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            body += b"" if more else b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (self.expected_content_length and not more):
                raise RuntimeError("The body has not the length that Content-Length says.")
        self.transport.write(self._head + body)
        self._head = b""
        if not more:
            self.response_complete = True
            self._wake()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message

from tests.conftest import WEBHOOK, basic_header, payload


@dataclass
class Sender:
    """A request over ASGI: after the chunks of its body, the sender ends it, hangs up or stalls."""

    headers: dict[str, str] | Sequence[tuple[str, str]] = field(default_factory=basic_header)
    chunks: Sequence[bytes] = (payload("01-notification-order-create"),)
    ends: bool = True
    stalls: bool = False
    method: str = "POST"
    path: str = WEBHOOK
    status: int | None = None
    answer: bytes = b""
    answer_headers: dict[str, str] = field(default_factory=dict)

    async def send_to(self, app: ASGIApp) -> "Sender":
        self._left = list(self.chunks)
        self._answered = asyncio.Event()
        headers = self.headers.items() if isinstance(self.headers, dict) else self.headers
        scope = {
            "type": "http",
            "method": self.method,
            "path": self.path,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
            "client": ("127.0.0.1", 50000),
        }
        await app(scope, self._receive, self._send)
        return self

    async def _receive(self) -> Message:
        if self._left:
            chunk = self._left.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._left) or not self.ends}
        if self.stalls:
            await self._answered.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answer_headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            self._answered.set()
        self.answer += message.get("body", b"")

"""A client of `/api/events/stream` in this process: httpx's transport returns an answer only when it has ended."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message

PATIENCE = 30.0  # seconds; a bound for a slow machine, never waited for


class Followed:
    """A stream that is read. `last` is the last id."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.last = ""
        self.gone = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.ended = asyncio.Event()
        self._waiting = b""
        self._news = asyncio.Event()
        self._asked = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            await self.reads.wait()
            self.body += message["body"]
            self._waiting += message["body"]
        self._news.set()

    async def blocks(self) -> list[dict[str, str]]:
        """The blocks that have come since the last call, one at least unless the stream has ended."""
        async with asyncio.timeout(PATIENCE):
            while b"\n\n" not in self._waiting:
                if self.ended.is_set():
                    return []
                self._news.clear()
                await self._news.wait()
        whole, _, self._waiting = self._waiting.rpartition(b"\n\n")
        blocks = [dict(line.split(":", 1) for line in block.splitlines()) for block in whole.decode().split("\n\n")]
        self.last = blocks[-1]["id"].strip()
        return blocks

    async def events(self, count: int) -> list[dict[str, Any]]:
        """The next events; as many as asked for, and no more may come with them."""
        events: list[dict[str, Any]] = []
        while len(events) < count:
            events += [json.loads(block["data"]) for block in await self.blocks() if "data" in block]
        assert len(events) == count, events
        return events

    async def ids(self, count: int) -> list[str]:
        return [event["id"] for event in await self.events(count)]


@asynccontextmanager
async def following(
    app: ASGIApp, headers: Mapping[str, str], *, path: str = "/api/events/stream", **query: str
) -> AsyncIterator[Followed]:
    """Follows the stream, from when its first block has come."""
    followed = Followed()
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": urlencode(query).encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("priohook", 80),
        "scheme": "http",
        "http_version": "1.1",
    }

    async def run() -> None:
        await app(scope, followed.receive, followed.send)
        followed.ended.set()
        await followed.send({"type": "http.response.body", "body": b""})

    running = asyncio.create_task(run())
    try:
        async with asyncio.timeout(PATIENCE):
            while b"\n\n" not in followed.body and not followed.ended.is_set():  # noqa: ASYNC110 - another task's doing
                await asyncio.sleep(0.01)
        if followed.status == 200:
            followed.last = followed.body.split(b"id: ")[1].split(b"\n")[0].decode()
        yield followed
    finally:
        followed.gone.set()
        followed.reads.set()
        async with asyncio.timeout(PATIENCE):
            await running


async def read_on(app: ASGIApp, headers: Mapping[str, str], followed: Followed, *, count: int) -> list[str]:
    """The ids of the next events for a client that comes back whenever its stream ends."""
    ids: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while True:
            while len(ids) < count and (blocks := await followed.blocks()):
                ids += [json.loads(block["data"])["id"] for block in blocks if "data" in block]
            if len(ids) >= count:
                return ids
            async with following(app, {**headers, "Last-Event-ID": followed.last}) as again:
                ids += await read_on(app, headers, again, count=count - len(ids))

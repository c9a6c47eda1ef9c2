"""A consumer of events that fails when it is told to, and remembers the requests it got."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import Thread
from time import monotonic, sleep, time
from typing import Any

from aiohttp import web

PATIENCE = 600.0  # seconds; a bound for a slow machine, never waited for
STALL = 3.0  # seconds; longer than the tests' destinations wait


@dataclass(frozen=True)
class Seen:
    """One request and its answer."""

    at: float
    headers: dict[str, str]
    body: bytes
    answer: "int | str"

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def reference(self) -> str:
        return self.headers.get("Priohook-Reference", "")


@dataclass
class Consumer:
    """Answers each request as `answer` says: a status, `stall`, `reset`, or `later` for a 429 with Retry-After.

    Attributes:
        seen: Every request whose body arrived, in order of arrival.
    """

    answer: "Callable[[str, int], int | str]" = lambda reference, number: 200  # noqa: ARG005
    port: int = 0
    address: str = "127.0.0.1"
    inside: "Callable[[], AbstractContextManager[None]]" = nullcontext
    """In which it makes its socket: on a host of its own."""

    takes: float = 0.0  # seconds for an answer
    at_once: int = 0
    """How many requests arrived while another attempt for the same reference was being answered."""

    seen: list[Seen] = field(default_factory=list)
    _taking: "dict[str, list[tuple[str, str]]]" = field(default_factory=lambda: defaultdict(list))
    _loop: "asyncio.AbstractEventLoop | None" = None
    _runner: "web.AppRunner | None" = None

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}/in"

    def delivered(self) -> list[Seen]:
        """The requests that were answered 200, in order."""
        return [request for request in list(self.seen) if request.answer == 200]

    def until(self, true: Callable[[], bool], *, within: float = PATIENCE) -> None:
        """Waits until `true()` is true."""
        ends = monotonic() + within
        while not true():
            assert monotonic() < ends, f"{len(self.seen)} requests, {len(self.delivered())} delivered"
            sleep(0.01)

    def start(self) -> None:
        """Listens on the same port as before."""
        self._on_loop(self._start())

    def stop(self) -> None:
        """Stops listening: connections are refused."""
        self._on_loop(self._stop())

    @contextmanager
    def running(self) -> Iterator["Consumer"]:
        self._loop = asyncio.new_event_loop()
        thread = Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        try:
            self.start()
            yield self
            self.stop()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def _on_loop(self, work: Any) -> None:
        assert self._loop
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/in", self._take)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0)
        await self._runner.setup()
        with self.inside():
            listener = socket.create_server((self.address, self.port))
        await web.SockSite(self._runner, listener).start()
        self.port = listener.getsockname()[1]

    async def _stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        answer = self.answer(request.headers.get("Priohook-Reference", ""), len(self.seen))
        seen = Seen(time(), dict(request.headers), body, answer)
        self.seen.append(seen)
        attempt, taking = (seen.event_id, seen.headers.get("Priohook-Attempt", "")), self._taking[seen.reference]
        self.at_once += bool(seen.reference and any(other != attempt for other in taking))
        taking.append(attempt)
        try:
            await asyncio.sleep(self.takes)
        finally:
            taking.remove(attempt)
        if answer == "stall":
            await asyncio.sleep(STALL)
        if answer == "reset" and request.transport:
            request.transport.abort()
        if answer == "later":
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response(status=answer if isinstance(answer, int) else 200)

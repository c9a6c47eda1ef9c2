"""A balancer before several receivers, as nginx in compose: it takes another receiver if one does not answer."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import aiohttp
from aiohttp import web

ANSWER_WITHIN = 10.0  # seconds
PATIENCE = 60.0  # seconds; a bound for a slow machine, never waited for
HOP_BY_HOP = ("connection", "host", "transfer-encoding", "content-length", "keep-alive")


@dataclass
class Balancer:
    """Passes webhooks on, and remembers which were acknowledged.

    Attributes:
        receivers: Their addresses, host and port.
        acknowledged: The bytes of each request that got a 200.
        refused: How many requests got anything else, or no answer from any receiver.
    """

    receivers: list[tuple[str, int]]
    acknowledged: list[bytes] = field(default_factory=list)
    refused: int = 0
    url: str = ""
    _taken: int = 0

    @contextmanager
    def running(self) -> Iterator["Balancer"]:
        loop = asyncio.new_event_loop()
        thread = Thread(target=loop.run_forever, daemon=True)
        thread.start()
        runner = asyncio.run_coroutine_threadsafe(self._start(), loop).result(PATIENCE)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._stop(runner), loop).result(PATIENCE)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _start(self) -> web.AppRunner:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN))
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/webhooks/prioticket", self._pass_on)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def _stop(self, runner: web.AppRunner) -> None:
        await runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        self._taken += 1
        for turn in range(len(self.receivers)):
            host, port = self.receivers[(self._taken + turn) % len(self.receivers)]
            status = await self._answer(f"http://{host}:{port}{request.path}", body, headers)
            if status is None:
                continue
            if status == 200:
                self.acknowledged.append(body)
            else:
                self.refused += 1
            return web.Response(status=status)
        self.refused += 1
        return web.Response(status=502)

    async def _answer(self, url: str, body: bytes, headers: dict[str, Any]) -> int | None:
        try:
            async with self._session.post(url, data=body, headers=headers) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return None

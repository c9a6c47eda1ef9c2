"""Limits what the API's reads take from the receiver in the same process: one at a time, with rests."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.problems import Unavailable

REST = 3.0
"""While webhooks arrive, the API rests so many times as long as a request took: they keep two thirds of their rate."""

LONGEST_REST = timedelta(seconds=1)
LONGEST_TURN = timedelta(seconds=1)
"""After this the next one may begin: a longer one waits for the database, and the others should not wait with it."""

MOST_WAITING = 64
MOST_OF_CLIENT = 32
"""How many of one client may wait, so that the others, people at the console above all, are not kept out."""


class TooManyRequests(Unavailable):
    """Too many requests of the API wait for their turn, of all clients or of this one."""


class Turns:
    """Gives one request after another its turn.

    Args:
        receiving: Whether webhooks arrive now; without any the API needs no rest.
    """

    def __init__(self, *, receiving: Callable[[], bool]) -> None:
        self._receiving = receiving
        self._lock = asyncio.Lock()
        self._waiting: Counter[str] = Counter()
        self._free_at = 0.0  # on the loop's clock

    async def begin(self, client: str) -> Callable[[], None]:
        """Waits for a turn of this client, and returns the function that ends it, which may be called more than once.

        Raises:
            TooManyRequests: too many wait already.
        """
        if self._waiting.total() >= MOST_WAITING:
            raise TooManyRequests("Too many requests wait here.")
        if self._waiting[client] >= MOST_OF_CLIENT:
            raise TooManyRequests("Too many requests of this client wait here.")
        self._waiting[client] += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting[client] -= 1
        loop = asyncio.get_running_loop()
        try:
            if self._receiving():
                await asyncio.sleep(self._free_at - loop.time())
        except BaseException:  # its client's request was cancelled
            self._lock.release()
            raise
        began = loop.time()
        ended = False

        def end() -> None:
            nonlocal ended
            if ended:
                return
            ended = True
            latest.cancel()
            took = loop.time() - began
            self._free_at = began + took + min(REST * took, LONGEST_REST.total_seconds())
            self._lock.release()

        latest = loop.call_later(LONGEST_TURN.total_seconds(), end)
        return end

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """One turn of this client.

        Raises:
            TooManyRequests: too many wait already.
        """
        end = await self.begin(client)
        try:
            yield
        finally:
            end()


class InTurn:
    """ASGI: lets reading requests through one at a time, until the answer begins; writing has bounds of its own."""

    def __init__(self, app: ASGIApp, *, turns: Turns) -> None:
        self._app = app
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        end = await self._turns.begin(scope["state"]["client"].name)

        async def send_and_end(message: Message) -> None:
            end()  # its client may read slowly
            await send(message)

        try:
            await self._app(scope, receive, send_and_end)
        finally:
            end()

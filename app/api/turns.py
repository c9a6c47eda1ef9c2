"""Limits what the API's reads take from the receiver in the same process: one at a time, with rests.

Clients take turns, so that one that asks without pause delays the others, people at the console above all, by no more
than its own turn.
"""

import asyncio
from collections import deque
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
"""How many may wait. A client of which none waits may wait all the same, so that no others keep it out."""

MOST_OF_CLIENT = 32


class TooManyRequests(Unavailable):
    """Too many requests of the API wait for their turn, of all clients or of this one."""


class Turns:
    """Gives one request after another its turn.

    Args:
        receiving: Whether webhooks arrive now; without any the API needs no rest.
    """

    def __init__(self, *, receiving: Callable[[], bool]) -> None:
        self._receiving = receiving
        self._taken = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by client; the first one is next
        self._free_at = 0.0  # on the loop's clock

    async def begin(self, client: str) -> Callable[[], None]:
        """Waits for a turn of this client, and returns the function that ends it, which may be called more than once.

        Raises:
            TooManyRequests: too many wait already.
        """
        of_client = len(self._waiting.get(client, ()))
        if of_client >= MOST_OF_CLIENT:
            raise TooManyRequests("Too many requests of this client wait here.")
        if of_client and sum(map(len, self._waiting.values())) >= MOST_WAITING:
            raise TooManyRequests("Too many requests wait here.")
        await self._take(client)
        loop = asyncio.get_running_loop()
        try:
            if self._receiving():
                await asyncio.sleep(self._free_at - loop.time())
        except BaseException:  # its client's request was cancelled
            self._pass_on()
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
            self._pass_on()

        latest = loop.call_later(LONGEST_TURN.total_seconds(), end)
        return end

    async def _take(self, client: str) -> None:
        if not self._taken:
            self._taken = True
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.cancelled():
                self._leave(client, given)
            else:
                self._pass_on()
            raise

    def _leave(self, client: str, given: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(client, deque())
        if given in waiting:  # else `_pass_on` has met it since it was cancelled
            waiting.remove(given)
            if not waiting:
                del self._waiting[client]

    def _pass_on(self) -> None:
        while self._waiting:
            client, waiting = next(iter(self._waiting.items()))
            given = waiting.popleft()
            del self._waiting[client]
            if waiting:
                self._waiting[client] = waiting  # behind the others
            if not given.done():
                given.set_result(None)
                return
        self._taken = False

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

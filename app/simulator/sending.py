"""Sends the requests of a simulated Prioticket, as fast as its plan allows."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from time import monotonic

import aiohttp

from app.simulator.notifying import NEVER_SENT
from app.simulator.requests import ENDED, TOO_LATE, Request
from app.simulator.tally import RETRY, Tally

ANSWER_WITHIN = 60.0  # seconds; longer than a receiver waits for a body
RETRY_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6)  # seconds
"""Prioticket's seven days, compressed into a minute."""

SHOWN_CHARACTERS = 200


class Unreachable(Exception):
    """The URL cannot be reached; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to send.

    Attributes:
        count: How many events to send; None for no limit.
        seconds: How long to send; None for no limit.
        rate: Requests a second; None for as many as possible.
        connections: How many requests run at once.
        retry: Whether to send again what got a wrong answer, as Prioticket does.
    """

    url: str
    username: str
    password: str
    count: int | None
    seconds: float | None
    rate: float | None
    connections: int
    retry: bool


class Simulation:
    """One run; `tally` counts during the run, and `progress` is called after the answer to each event."""

    def __init__(self, plan: Plan, requests: Iterator[Request], *, progress: Callable[[], None]) -> None:
        self.tally = Tally()
        self._plan = plan
        self._requests = requests
        self._progress = progress
        self._ended = asyncio.Event()
        self._orders: dict[str, asyncio.Lock] = {}

    def end(self) -> None:
        """Stops sending, retries too; `run` still waits for the answers to what was sent."""
        self._ended.set()

    async def run(self) -> None:
        """Sends until the plan is carried out.

        Raises:
            Unreachable: not even one connection could be made.
        """
        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, skip_auto_headers=NEVER_SENT) as session:
            await self._reach(session)
            free = asyncio.Semaphore(self._plan.connections)
            async with asyncio.TaskGroup() as group:
                async for request in self._paced():
                    await free.acquire()
                    group.create_task(self._send(session, request)).add_done_callback(lambda _: free.release())

    async def _reach(self, session: aiohttp.ClientSession) -> None:
        try:
            async with session.get(self._plan.url):
                return
        except TimeoutError:
            raise Unreachable(f"{self._plan.url} did not answer within {ANSWER_WITHIN:.0f} seconds.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{self._plan.url} cannot be reached: {error}. Is priohook running there?") from None

    async def _paced(self) -> AsyncIterator[Request]:
        began = monotonic()
        until = inf if self._plan.seconds is None else began + self._plan.seconds
        events = 0
        for sent, request in enumerate(self._requests):
            events += request.kind == "event"
            if self._plan.count is not None and events > self._plan.count:
                return
            if self._plan.rate is not None:
                await self._pause(min(began + sent / self._plan.rate, until) - monotonic())
            if self._ended.is_set() or monotonic() >= until:
                return
            yield request

    async def _pause(self, seconds: float) -> None:
        """Waits for this time, or until `end` is called."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), timeout=max(seconds, 0))

    async def _send(self, session: aiohttp.ClientSession, request: Request) -> None:
        if not request.reference:
            await self._until_right(session, request)
            return
        # Events of one order go one after the other: only `out_of_order` mixes them up, not the connections.
        async with self._orders.setdefault(request.reference, asyncio.Lock()):
            await self._until_right(session, request)
        if request.kind == "event":
            self._progress()

    async def _until_right(self, session: aiohttp.ClientSession, request: Request) -> None:
        pauses = iter(RETRY_PAUSES if self._plan.retry else ())
        kind: str = request.kind
        while True:
            began = monotonic()
            status, event_id, body = await self._post(session, request)
            self.tally.answered(kind, status=status, seconds=None if request.withheld else monotonic() - began)
            pause = None if status in request.expected else next(pauses, None)
            if pause is not None:
                await self._pause(pause)
            if pause is None or self._ended.is_set():
                self.tally.judged(request, status=status, event_id=event_id, body=body)
                return
            kind = RETRY

    async def _post(self, session: aiohttp.ClientSession, request: Request) -> tuple[int, str, str]:
        """The answer's status, event id and beginning of the body."""
        password = "wrong" if request.kind == "credentials" else self._plan.password
        credential = b64encode(f"{self._plan.username}:{password}".encode()).decode()
        headers = dict(request.headers) | {"Authorization": f"Basic {credential}"}
        content = _stalled(request) if request.withheld else request.body
        try:
            # A redirect is a wrong answer: Prioticket accepts only 200.
            async with session.post(self._plan.url, data=content, headers=headers, allow_redirects=False) as response:
                body = (await response.text(errors="replace"))[:SHOWN_CHARACTERS]
                return response.status, response.headers.get("Event-Id", ""), body
        except TimeoutError:
            return TOO_LATE, "", f"No answer within {ANSWER_WITHIN:.0f} seconds."
        except (aiohttp.ClientError, OSError) as error:
            return ENDED, "", f"{type(error).__name__}: {error}"[:SHOWN_CHARACTERS]


async def _stalled(request: Request) -> AsyncIterator[bytes]:
    """The body without its end, which never comes."""
    yield request.body[: -request.withheld]
    await asyncio.sleep(ANSWER_WITHIN)

"""A client and the simulated API, joined in one process; the time passes when somebody waits for it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import httpx2

from app.prioticket.client import Prioticket
from app.prioticket.messages import Answer
from app.prioticket.pace import Clock
from app.prioticket.wire import NoAnswer
from app.settings.prioticket import PrioticketSettings
from app.simulator.api import BASE, Behaviour, FakeAPI
from app.simulator.book import Book, Order
from app.simulator.faults import parse_fault
from app.simulator.registered import Registered

CLIENT_ID, CLIENT_SECRET, API_KEY = "demo", "not&a@real#secret/^$", "not-a-real/key"
START = datetime(2026, 8, 12, 8, tzinfo=UTC)


class Fake:
    """The API, and a time that passes when a client waits."""

    def __init__(self, **behaviour: Any) -> None:
        faults = [parse_fault(text) for text in behaviour.pop("faults", ())]
        self.seconds = 0.0
        self.behaviour = Behaviour(client_id=CLIENT_ID, client_secret=CLIENT_SECRET, faults=faults, **behaviour)
        self.book = Book(7, now=self.now)
        self.webhooks = Registered()
        self.notified: list[tuple[str, Order]] = []
        self.waits: list[float] = []
        self.sent: list[tuple[str, str, Mapping[str, str]]] = []
        self.lost_answers = 0
        """How many more answers get lost after the request was carried out."""
        self.refused_posts = 0
        """How many more webhooks are answered 503 and not registered."""
        self.unreadable_posts: list[bytes] = []
        """The answers in place of those to the next webhooks, which are registered."""
        self.replaced: tuple[int, bytes] | None = None
        """An answer in place of each other one."""
        self.api = FakeAPI(
            self.behaviour,
            self.book,
            self.webhooks,
            now=self.now,
            notify=lambda event, order: self.notified.append((event, order)),
            random=Random(1),  # noqa: S311 - it chooses faults
        )
        self.clock = Clock(lambda: self.seconds, self.wait)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)

    def orders(self, steps: int) -> list[str]:
        """Lets orders live for so many steps, and returns their references."""
        return list(dict.fromkeys(self.book.advance().reference for _ in range(steps)))

    def paths(self) -> list[str]:
        """What was asked for, without the tokens."""
        return [f"{method} {path}" for method, path in self.api.requests if path != "/oauth2/token"]

    @property
    def tokens(self) -> int:
        """How often a token was asked for."""
        return sum(path == "/oauth2/token" for _, path in self.api.requests)

    def settings(self, **values: Any) -> PrioticketSettings:
        whole = {"base_url": f"http://fake{BASE}", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "rate": 16}
        return PrioticketSettings.model_validate(whole | values)

    @asynccontextmanager
    async def client(self, **settings: Any) -> AsyncIterator[Prioticket]:
        transport = httpx2.ASGITransport(self.api.app())
        async with httpx2.AsyncClient(transport=transport) as http:

            async def exchange(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
                self.sent.append((method, url, headers))
                if self.refused_posts and method == "POST" and url.endswith("/webhooks"):
                    self.refused_posts -= 1
                    return Answer(503, "text/html", "", b"")
                reply = await http.request(method, url, headers=dict(headers), content=body)
                if self.lost_answers and method != "GET" and "oauth2" not in url:
                    self.lost_answers -= 1
                    raise NoAnswer("it did not answer within 60 seconds")
                if self.unreadable_posts and method == "POST" and url.endswith("/webhooks"):
                    return Answer(201, "", "", self.unreadable_posts.pop())
                if self.replaced:
                    return Answer(self.replaced[0], "application/json", "", self.replaced[1])
                fields = reply.headers
                return Answer(
                    reply.status_code, fields.get("content-type", ""), fields.get("retry-after", ""), reply.content
                )

            yield Prioticket(self.settings(**settings), exchange, clock=self.clock)

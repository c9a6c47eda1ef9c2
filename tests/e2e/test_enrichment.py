"""Notifications without payload and the fetches of their orders, with real processes."""

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import asyncpg
import pytest
import uvicorn
from sqlalchemy import func, select

from app.database.engines import engine_for, is_sqlite, sqlite_path
from app.events.fetches import FETCH_LOCK, Fetch
from app.events.tables import Event
from app.simulator.api import BASE, Behaviour, FakeAPI
from app.simulator.book import Book
from app.simulator.faults import parse_fault
from app.simulator.registered import Registered
from tests.e2e.conftest import configured, environment_for
from tests.e2e.consumer import PATIENCE, Consumer
from tests.e2e.test_deliveries import send
from tests.e2e.working import Working

ORDERS, COPIES = 100, 10
API_SECRET = "not-a-real-secret-of-the-api"


class Prioticket:
    """The simulated API in a thread of the test, which sees its orders and counts its requests."""

    def __init__(self, *faults: str) -> None:
        self.book = Book(7, now=lambda: datetime.now(UTC))
        behaviour = Behaviour(client_id="demo", client_secret=API_SECRET, faults=[parse_fault(text) for text in faults])
        self.api = FakeAPI(
            behaviour,
            self.book,
            Registered(),
            now=lambda: datetime.now(UTC),
            notify=lambda *_: None,
            random=Random(1),  # noqa: S311 - it chooses faults
        )

    def orders(self, count: int) -> list[str]:
        """Makes so many orders and returns their references."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[self.book.advance().reference] = None
        return list(found)

    def fetched(self) -> Counter[str]:
        """How often each order was asked for."""
        paths = [path for _, path in self.api.requests]
        return Counter(path.removeprefix("/orders/") for path in paths if path.startswith("/orders/"))

    @contextmanager
    def running(self) -> Iterator["Prioticket"]:
        listener = uvicorn.Config(self.api.app(), host="127.0.0.1", port=0, log_config=None).bind_socket()
        self.port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(self.api.app(), log_config=None, lifespan="off"))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join()
            listener.close()

    def settings(self, url: str, consumer: Consumer, **more: Any) -> dict[str, str]:
        destination = {"url": consumer.url, "timeout": 5, "max_in_flight": 16, "thin": more.pop("thin")}
        account = {
            "base_url": f"http://127.0.0.1:{self.port}{BASE}",
            "client_id": "demo",
            "client_secret": API_SECRET,
            "enrich": True,
            "rate": 16,
        }
        return configured(url, prioticket=json.dumps(account | more), destinations=json.dumps({"erp": destination}))


@pytest.fixture
def consumer() -> Iterator[Consumer]:
    with Consumer().running() as consumer:
        yield consumer


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Callable[..., Working]]:
    running: list[Working] = []

    def work(**settings: str) -> Working:
        running.append(Working(tmp_path, environment_for(**settings)))
        return running[-1]

    yield work
    for each in running:
        each.close()


async def origins(url: str) -> dict[str, int]:
    async with engine_for(url) as engine, engine.connect() as connection:
        query = select(Event.origin, func.count()).group_by(Event.origin)
        return dict((await connection.execute(query)).all())


async def fetch_status(url: str) -> list[str]:
    async with engine_for(url) as engine, engine.connect() as connection:
        return list(await connection.scalars(select(Fetch.status)))


@asynccontextmanager
async def nothing_can_be_stored(url: str) -> AsyncIterator[None]:
    """Holds the lock that a worker needs to store what it has fetched."""
    if is_sqlite(url):
        with closing(sqlite3.connect(sqlite_path(url), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")
        return
    connection = await asyncpg.connect(url)
    await connection.execute(f"SELECT pg_advisory_lock({FETCH_LOCK})")
    yield
    await connection.close()


async def test_a_thousand_notifications_of_a_hundred_orders_are_followed_by_a_hundred_fetches(
    database_url, serve, work, consumer
):
    with Prioticket().running() as prioticket:
        references = prioticket.orders(ORDERS)
        settings = prioticket.settings(database_url, consumer, thin="snapshot")
        server = serve(**settings)
        send(server, *(reference for _ in range(COPIES) for reference in references))
        for _ in range(1 if is_sqlite(database_url) else 2):
            work(**settings)
        consumer.until(lambda: len(consumer.delivered()) >= ORDERS)
        assert prioticket.fetched() == dict.fromkeys(references, 1)
        assert await origins(database_url) == {"received": ORDERS * COPIES, "fetched": ORDERS}
        delivered = {each.reference: each for each in consumer.delivered()}
        assert {reference: json.loads(each.body)["data"]["order"] for reference, each in delivered.items()} == {
            reference: prioticket.book.order(reference) for reference in references
        }
        assert {each.headers.get("Priohook-Origin") for each in consumer.seen} == {"fetched"}
        again = references[:3]
        send(server, *(reference for reference in again for _ in range(2)))
        consumer.until(lambda: all(prioticket.fetched()[reference] >= 2 for reference in again))
    assert len(consumer.delivered()) == ORDERS, "nothing has changed"


async def test_a_worker_that_is_killed_between_a_fetch_and_its_storing_loses_nothing(
    database_url, serve, work, consumer
):
    with Prioticket("/orders/*=slow:2#1").running() as prioticket:
        (reference,) = prioticket.orders(1)
        settings = prioticket.settings(database_url, consumer, thin="both", timeout=3)
        server = serve(**settings)
        (cause,) = send(server, reference)
        first = work(**settings)
        async with asyncio.timeout(PATIENCE):
            while await fetch_status(database_url) != ["fetching"]:  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.05)
        async with nothing_can_be_stored(database_url):
            consumer.until(lambda: '"path": "/orders/' in first.log or '"path":"/orders/' in first.log)
            assert await origins(database_url) == {"received": 1}
            first.kill()
        work(**settings)
        consumer.until(lambda: len(consumer.delivered()) >= 2)
        assert prioticket.fetched() == {reference: 2}
    assert await origins(database_url) == {"received": 1, "fetched": 1}
    notification, order = consumer.delivered()
    assert notification.event_id == cause
    assert order.headers["Priohook-Cause"] == cause
    assert json.loads(order.body)["data"]["order"] == prioticket.book.order(reference)

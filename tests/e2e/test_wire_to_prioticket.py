"""The client's requests over real connections, to the simulated API and to servers that misbehave."""

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from app.prioticket.client import Prioticket, prioticket_of
from app.prioticket.errors import PrioticketError, Unreadable
from app.prioticket.messages import Answer
from app.prioticket.wire import MOST_BYTES, NoAnswer, over_http
from app.server.server import listen
from app.simulator.api import BASE
from tests.prioticket.fake import API_KEY, CLIENT_SECRET, Fake

SOON = timedelta(seconds=30)
HEADERS = {"Accept-Encoding": "gzip", "Authorization": "Bearer not-a-real-token"}


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    config = uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listener:
        running = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await running


@asynccontextmanager
async def connected(fake: Fake, **settings: Any) -> AsyncIterator[Prioticket]:
    async with served(fake.api.app()) as url, prioticket_of(fake.settings(base_url=url + BASE, **settings)) as client:
        yield client


def answering(body: bytes, *headers: tuple[bytes, bytes], status: int = 200, times: int = 1) -> ASGIApp:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for _number in range(times):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


async def asked(app: ASGIApp, *, timeout: timedelta = SOON) -> Answer:
    async with served(app) as url, over_http(timeout) as exchange:
        return await exchange("GET", f"{url}/orders/1?key={API_KEY}", HEADERS, None)


async def test_an_order_comes_back_exactly_out_of_gzip_too():
    fake = Fake(api_key=API_KEY)
    fake.orders(400)
    order = max(fake.book.newest(), key=lambda order: len(str(order)))
    async with connected(fake, api_key=API_KEY) as client:
        fetched = await client.order(order["order_reference"])
    assert len(fetched.body) > 250_000, "it has 500 guests"
    assert fetched.order == order


async def test_secrets_and_references_survive_the_wire():
    fake = Fake(api_key="a&b=c#d/+ é")
    fake.orders(1)
    async with connected(fake, api_key="a&b=c#d/+ é") as client:
        with pytest.raises(PrioticketError, match="no such order"):
            await client.order("a/b?c#d%2F+ é")
    assert fake.api.requests[-1] == ("GET", "/orders/a/b?c#d%2F+ é")


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_without_end_is_left_off_at_the_bound(packed):
    body = bytes(4 * MOST_BYTES)
    headers = [(b"content-encoding", b"gzip")] if packed else []
    app = answering(gzip.compress(body, 1) if packed else bytes(1024 * 1024), *headers, times=1 if packed else 1000)
    with pytest.raises(Unreadable, match="longer than 16 MiB"):
        await asked(app)


async def test_an_answer_of_nearly_the_bound_is_whole():
    answer = await asked(answering(bytes(MOST_BYTES)))
    assert len(answer.body) == MOST_BYTES


async def test_a_redirect_is_not_followed():
    asked_for = count()

    async def app(_: Scope, __: Receive, send: Send) -> None:
        next(asked_for)
        await send({"type": "http.response.start", "status": 302, "headers": [(b"location", b"/elsewhere")]})
        await send({"type": "http.response.body", "body": b""})

    answer = await asked(app)
    assert answer.status == 302
    assert next(asked_for) == 1


async def test_a_whole_answer_has_one_deadline():
    async def drips(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.05)

    with pytest.raises(NoAnswer, match=r"did not answer within 0.5 seconds"):
        await asked(drips, timeout=timedelta(seconds=0.5))


async def test_a_cut_answer_is_none():
    fake = Fake(faults=["/webhooks=cut#1"])
    async with connected(fake) as client:
        assert await client.webhooks() == [], "it was asked for again"
    assert fake.paths() == ["GET /webhooks"] * 2


@pytest.mark.parametrize(
    "answer",
    [
        b"not HTTP at all\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Encoding: gzip\r\n\r\n0123456789",
    ],
)
async def test_what_is_not_an_answer_is_none_and_shows_no_url(answer):
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server, over_http(SOON) as exchange:
        with pytest.raises(NoAnswer) as raised:
            await exchange("GET", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/?key={API_KEY}", {}, None)
    assert API_KEY not in str(raised.value)


async def test_nobody_there_is_said_without_the_key():
    async with over_http(SOON) as exchange:
        with pytest.raises(NoAnswer, match="cannot be reached") as raised:
            await exchange("GET", f"http://127.0.0.1:9/?key={API_KEY}", {"Authorization": CLIENT_SECRET}, None)
    assert API_KEY not in str(raised.value)
    assert CLIENT_SECRET not in str(raised.value)


async def test_nothing_that_is_logged_on_the_way_holds_a_secret(caplog):
    caplog.set_level(logging.DEBUG)
    fake = Fake(api_key=API_KEY, faults=["/orders/*=cut#1"])
    (reference, *_) = fake.orders(1)
    async with connected(fake, api_key=API_KEY) as client:
        await client.order(reference)
        with pytest.raises(PrioticketError):
            await client.order("nothing")
    servers = ("uvicorn", "app.simulator")
    ours = "".join(str(each.__dict__) for each in caplog.records if not each.name.startswith(servers))
    assert "prioticket_request" in ours
    assert [secret for secret in (API_KEY, CLIENT_SECRET, *fake.api.tokens) if secret in ours] == []

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from app.database.writing import writing
from app.telemetry.processes import Gauges, Identity, beat
from tests.conftest import SECRET

ORIGIN = {"Origin": "http://priohook"}
SIGN_IN = "/console/sign-in"
HOSTILE = """'"><script>alert(1)</script>\u202eevil"""
DESTINATIONS = {"erp": {"url": "https://erp.example/hook?key=secret"}, "new": {"url": "https://new.example"}}


async def sign_in(client: httpx2.AsyncClient, name: str, secret: str = SECRET, **fields: str) -> httpx2.Response:
    """Sends the form of the page; the client keeps the cookie."""
    return await client.post(SIGN_IN, data={"name": name, "secret": secret, **fields}, headers=ORIGIN)


class Browser:
    """A client that is signed in, and sends forms as a browser does."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    async def see(self, address: str, status: int = 200, **query: str) -> str:
        """The page at an address."""
        reply = await self.client.get(address, params=query or None)
        assert reply.status_code == status, (reply.status_code, reply.headers.get("location"), reply.text)
        return reply.text

    async def send(
        self, address: str, status: int = 303, form: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx2.Response:
        """Sends a form with the session's token; `form` has the fields whose names are taken."""
        token = re.search(r'name="form_token" value="(\w+)"', await self.see("/console/nothing", status=404))
        assert token
        reply = await self.client.post(address, data={"form_token": token[1], **(form or {}), **fields}, headers=ORIGIN)
        assert reply.status_code == status, (reply.status_code, reply.text)
        return reply


@pytest.fixture
async def signed_in(database_url: str, start: Callable[..., Any]) -> AsyncIterator[Callable[..., Awaitable[Browser]]]:
    """`await signed_in("onlooker")`: a browser in which this client is signed in; `desk` may do everything."""
    async with start(database_url, destinations=DESTINATIONS) as client:

        async def signed_in(name: str = "desk") -> Browser:
            client.cookies.clear()
            reply = await sign_in(client, name)
            assert reply.status_code == 303, reply.text
            return Browser(client)

        yield signed_in


@pytest.fixture
async def desk(signed_in: Callable[..., Awaitable[Browser]]) -> Browser:
    """A browser of a client that may do everything."""
    return await signed_in("desk")


@pytest.fixture
async def worker(engine):
    """A worker that runs, with other settings than the receiver."""
    now = datetime.now(UTC)
    identity = Identity.of_this_process("worker", name="worker", settings="other-digest", now=now)
    async with writing(engine) as connection:
        await beat(connection, identity, Gauges(), now=now)

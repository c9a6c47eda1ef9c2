import re

import httpx2
import pytest

from tests.api.streams import following
from tests.conftest import WEBHOOK, basic_header, payload
from tests.console.conftest import sign_in

STREAM = "/console/stream"


@pytest.fixture
async def app(database_url, serve):
    async with serve(database_url) as app:
        yield app


@pytest.fixture
async def client(app):
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://priohook") as client:
        yield client


async def test_who_is_signed_in_is_told_of_each_event(app, client):
    cookie = (await sign_in(client, "onlooker")).headers["Set-Cookie"].partition(";")[0]
    async with following(app, {"Cookie": cookie}, path=STREAM) as followed:
        assert followed.status == 200
        posted = await client.post(WEBHOOK, content=payload("01-notification-order-create"), headers=basic_header())
        (event,) = await followed.events(1)
    assert event["id"] == posted.headers["event-id"]
    assert "body" not in event


async def test_a_stranger_is_told_nothing(client):
    assert (await client.get(STREAM)).status_code == 303


async def test_only_the_newest_page_of_a_list_follows_what_arrives(desk):
    page = await desk.see("/console/events")
    assert 'data-tail="event events"' in page
    older = await desk.see("/console/events", until="2026-01-01")
    assert "data-tail" in older
    for number in range(3):
        body = payload("01-notification-order-create") + b" " * number
        await desk.client.post(WEBHOOK, content=body, headers=basic_header())
    page = await desk.see("/console/events", limit="1")
    (following_page,) = re.findall(r'rel="next" href="([^"]+)"', page)
    older = await desk.see(following_page.replace("&amp;", "&").replace("&#38;", "&"))
    assert "data-tail" not in older

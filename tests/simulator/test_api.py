"""The simulated API, asked as its documents say."""

import json
from base64 import b64encode
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from app.simulator.api import BASE
from tests.prioticket.fake import API_KEY, CLIENT_ID, CLIENT_SECRET, START, Fake

BASIC = {"Authorization": "Basic " + b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()}


class Asker:
    """Asks the API with a token."""

    def __init__(self, **behaviour: Any) -> None:
        self.fake = Fake(**behaviour)
        self._transport = httpx2.ASGITransport(self.fake.api.app())

    async def ask(self, method: str, path: str, **request: Any) -> httpx2.Response:
        async with httpx2.AsyncClient(transport=self._transport, base_url=f"http://fake{BASE}") as http:
            return await http.request(method, f"http://fake{BASE}{path}", **request)

    async def known(self, method: str, path: str, **request: Any) -> httpx2.Response:
        token = (await self.ask("POST", "/oauth2/token", headers=BASIC)).json()["access_token"]
        return await self.ask(method, path, headers={"Authorization": f"Bearer {token}"}, **request)


@pytest.mark.parametrize("body", [b"", b'{"grant_type": "client_credentials"}', b'{"scope": "orders"}'])
async def test_a_token_needs_basic_and_little_else(body):
    asker = Asker(expires_in="3600")
    given = await asker.ask("POST", "/oauth2/token", headers=BASIC, content=body)
    assert given.status_code == 200
    assert given.json()["expires_in"] == "3600"


async def test_without_the_right_credentials_there_is_a_challenge():
    for headers in ({}, {"Authorization": "Basic d3Jvbmc6d3Jvbmc="}):
        refused = await Asker().ask("POST", "/oauth2/token", headers=headers)
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Basic")
        assert refused.json() == {"error": "invalid_client"}


async def test_without_a_token_400_and_with_a_wrong_one_401():
    asker = Asker(api_key=API_KEY)
    assert (await asker.ask("GET", "/webhooks")).status_code == 400
    assert (await asker.ask("GET", "/webhooks", headers={"Authorization": "Bearer x"})).status_code == 401
    assert (await asker.known("GET", "/webhooks")).status_code == 403
    assert (await asker.known("GET", "/webhooks", params={"key": API_KEY})).status_code == 200


async def test_a_token_ends():
    asker = Asker(expires_in=2)
    assert (await asker.known("GET", "/system/ping")).status_code == 200
    (token,) = asker.fake.api.tokens
    asker.fake.seconds = 2
    assert (await asker.ask("GET", "/system/ping", headers={"Authorization": f"Bearer {token}"})).status_code == 401


@pytest.mark.slow
async def test_lists_are_capped_at_200_whatever_was_asked_for():
    asker = Asker()
    asker.fake.orders(1500)
    page = (await asker.known("GET", "/orders", params={"items_per_page": "500"})).json()["data"]
    assert (page["items_per_page"], page["current_item_count"], len(page["items"])) == (200, 200, 200)
    assert page["total_pages"] == -(-page["total_items"] // 200)
    first = (await asker.known("GET", "/orders")).json()["data"]
    assert (first["items_per_page"], first["page_index"], first["start_index"]) == (10, 1, 1)


async def test_the_newest_orders_come_first_unless_asked_otherwise():
    asker = Asker()
    references = asker.fake.orders(60)
    for order, expected in (("ASC", references), ("DESC", references[::-1])):
        page = await asker.known("GET", "/orders", params={"order_sort_order": order, "items_per_page": "200"})
        assert [item["order_reference"] for item in page.json()["data"]["items"]] == expected


@pytest.mark.parametrize(
    "query",
    [
        {"order_modified": "2026-08-12T08:00:00Z"},
        {"order_created_from": "2026-08-12T08:00:00"},
        {"items_per_page": "200", "page": "52"},
        {"page": "0"},
        {"page": "one"},
    ],
)
async def test_what_the_documents_forbid_is_400(query):
    refused = await Asker().known("GET", "/orders", params=query)
    assert (refused.status_code, refused.json()["error"]) == (400, "INVALID_REQUEST")


async def test_orders_older_than_three_months_need_a_time():
    asker = Asker()
    asker.fake.orders(5)
    asker.fake.seconds = timedelta(days=100).total_seconds()
    assert (await asker.known("GET", "/orders")).json()["data"]["total_items"] == 0
    since = {"order_created_from": (START - timedelta(days=1)).isoformat()}
    assert (await asker.known("GET", "/orders", params=since)).json()["data"]["total_items"] > 0


async def test_a_cached_order_is_old():
    asker = Asker(cached=timedelta(seconds=30))
    asker.fake.orders(100)
    asker.fake.seconds = 60
    asker.fake.orders(100)
    references = [order["order_reference"] for order in asker.fake.book.newest()][:20]
    shown: dict[str, list[Any]] = {"false": [], "true": []}
    for cache, orders in shown.items():
        for reference in references:
            orders.append((await asker.known("GET", f"/orders/{reference}", params={"cache": cache})).json())
    assert shown["false"] != shown["true"]


async def test_a_sample_notification_is_sent():
    asker = Asker()
    (reference, *_) = asker.fake.orders(1)
    asked = {"notification_event": "ORDER_UPDATE", "notification_item_id": reference}
    body = {"data": {"kind": "notification", "notification": asked}}
    assert (await asker.known("POST", "/notifications", json=body)).status_code == 201
    assert [(event, order["order_reference"]) for event, order in asker.fake.notified] == [("ORDER_UPDATE", reference)]
    assert (await asker.known("POST", "/notifications", json={"data": {}})).status_code == 400


async def test_json_is_written_as_php_writes_it():
    asker = Asker()
    asker.fake.orders(60)
    body = (await asker.known("GET", "/orders", params={"items_per_page": "200"})).content
    assert body.isascii()
    assert b": " not in body.replace(b"Simulated", b"")[:200]
    assert json.loads(body)["api_version"] == "3.8.0"


async def test_60_refusals_in_a_minute_block_for_a_minute():
    asker = Asker()
    for _ in range(60):
        assert (await asker.ask("GET", "/webhooks")).status_code == 400
    assert (await asker.ask("POST", "/oauth2/token", headers=BASIC)).status_code == 429
    asker.fake.seconds = 60
    assert (await asker.ask("POST", "/oauth2/token", headers=BASIC)).status_code == 200


async def test_1000_requests_in_a_minute_are_too_many():
    asker = Asker()
    statuses = [(await asker.ask("POST", "/oauth2/token", headers=BASIC)).status_code for _ in range(1001)]
    assert statuses[:999] == [200] * 999
    assert statuses[-1] == 429

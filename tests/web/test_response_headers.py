import pytest

from app.web.response_headers import SECURITY_HEADERS
from tests.conftest import WEBHOOK, basic_header, payload

ANSWERS: dict[str, tuple[str, str, dict[str, str], int]] = {
    "document": ("GET", "/openapi.json", {}, 200),
    "page": ("GET", "/docs", {}, 200),
    "health": ("GET", "/healthz", {}, 200),
    "readiness": ("GET", "/readyz", {}, 200),
    "an event": ("POST", WEBHOOK, basic_header(), 200),
    "a stranger": ("POST", WEBHOOK, {}, 401),
    "unknown path": ("GET", "/nothing", {}, 404),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_every_answer_has_the_security_headers_once_and_lets_no_other_origin_read_it(start, sqlite_url, case):
    method, path, headers, status = ANSWERS[case]
    async with start(sqlite_url) as client:
        headers = {**headers, "Origin": "https://elsewhere.example"}
        reply = await client.request(method, path, headers=headers, content=payload("01-notification-order-create"))
    assert reply.status_code == status
    for name, value in SECURITY_HEADERS:
        assert reply.headers.get_list(name.decode()) == [value.decode()]
    assert not [name for name in reply.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", ["/webhooks/prioticket", "/openapi.json"])
async def test_a_browser_that_asks_for_another_origin_is_refused(start, sqlite_url, path):
    asks = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    async with start(sqlite_url) as client:
        assert (await client.options(path, headers=asks)).status_code == 405

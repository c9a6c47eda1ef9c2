import pytest

from tests.conftest import WEBHOOK, basic_header

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/webhooks", WEBHOOK + "/", WEBHOOK.upper(), "/" + WEBHOOK, WEBHOOK + "/1", "/healthz/"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
async def test_an_unknown_path_is_404_whatever_the_method(start, sqlite_url, path, method):
    async with start(sqlite_url) as client:
        reply = await client.request(method, "http://priohook" + path, headers=basic_header())
    assert (reply.status_code, reply.json()["error"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("path", "allowed"), [(WEBHOOK, {"POST"}), ("/healthz", {"GET", "HEAD"}), ("/readyz", {"GET", "HEAD"})]
)
async def test_a_method_that_the_path_does_not_have_is_405_with_those_that_it_has(start, sqlite_url, path, allowed):
    async with start(sqlite_url) as client:
        replies = [await client.request(method, path) for method in METHODS if method not in allowed]
    assert {reply.status_code for reply in replies} == {405}
    assert all(set(reply.headers["Allow"].split(", ")) == allowed for reply in replies)


async def test_405_says_so_in_an_error_model(start, sqlite_url):
    async with start(sqlite_url) as client:
        reply = await client.get(WEBHOOK)
    assert reply.json()["error"] == "METHOD_NOT_ALLOWED"
    assert reply.json()["error_description"] == "It takes POST."


@pytest.mark.parametrize(("method", "status"), [("PUT", 405), ("BREW", 501)])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic !"}, basic_header()], ids=["none", "wrong", "right"])
async def test_the_method_is_judged_before_the_credential(start, sqlite_url, method, status, headers):
    async with start(sqlite_url) as client:
        reply = await client.request(method, WEBHOOK, headers=headers)
    assert reply.status_code == status


@pytest.mark.parametrize("host", ["evil.example", "priohook/healthz?", "[::1]", ""])
async def test_the_host_header_changes_no_path(start, sqlite_url, host):
    async with start(sqlite_url) as client:
        reply = await client.post(WEBHOOK, headers={"Host": host})
    assert reply.status_code == 401

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import httpx2
import pytest

from app.auth.clients import Client, Clients, digest
from app.auth.sessions import LIFETIME, begin, resume
from app.auth.tokens import InvalidToken, issue
from app.settings.clients import Scope
from tests.conftest import SECRET, TOKEN_KEY, bearer_header
from tests.console.conftest import ORIGIN, SIGN_IN, sign_in

NOW = datetime(2026, 8, 12, 10, tzinfo=UTC)
KEYS = [b"a-key-that-signs-sessions-in-tests-alone"]


@pytest.fixture
async def browser(sqlite_url, start):
    async with start(sqlite_url) as client:
        yield client


def anna(secret: str = SECRET, **changes) -> Client:
    scopes = frozenset([Scope.CONSOLE])
    return Client(name="anna", username="anna", digest=digest("anna", secret), scopes=scopes, **changes)


async def test_who_signs_in_comes_back_to_the_page_that_was_asked_for(browser):
    asked = await browser.get("/console/events?type=ORDER_CANCEL&reference=")
    page = await browser.get(asked.headers["Location"])
    (place,) = re.findall(r'name="next" value="(.*?)"', page.text)
    reply = await sign_in(browser, "desk", next=place)
    assert (reply.status_code, reply.headers["Location"]) == (303, "/console/events?type=ORDER_CANCEL")
    assert (await browser.get(reply.headers["Location"])).status_code == 200


@pytest.mark.parametrize("reference", ["A%231", "A%3F1", "A%2541", "A%2F1"])
async def test_who_signs_in_comes_back_to_the_order_whatever_its_reference_holds(browser, reference):
    asked = await browser.get(f"/console/orders/{reference}")
    page = await browser.get(asked.headers["Location"])
    (place,) = re.findall(r'name="next" value="(.*?)"', page.text)
    back = await browser.get((await sign_in(browser, "desk", next=place)).headers["Location"])
    assert unquote(back.request.url.raw_path.decode()) == unquote(f"/console/orders/{reference}")
    assert (back.request.url.query, back.request.url.fragment) == (b"", "")


async def test_the_cookie_is_for_this_console_only(browser):
    cookie = (await sign_in(browser, "desk")).headers["Set-Cookie"]
    fields = set(re.split(r"; ", cookie.partition("; ")[2]))
    assert fields == {"HttpOnly", "Max-Age=43200", "Path=/console", "SameSite=strict"}


async def test_behind_tls_the_cookie_is_for_this_host_and_tls_only(serve, sqlite_url):
    async with serve(sqlite_url) as app:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="https://priohook") as client:
            reply = await client.post(
                SIGN_IN, data={"name": "desk", "secret": SECRET}, headers={"Origin": "https://priohook"}
            )
            name, _, rest = reply.headers["Set-Cookie"].partition("=")
            assert name == "__Host-priohook"
            assert set(re.split(r"; ", rest)[1:]) == {
                "HttpOnly", "Max-Age=43200", "Path=/", "SameSite=strict", "Secure"
            }  # fmt: skip
            assert (await client.get("/console")).status_code == 200


@pytest.mark.parametrize("name", ["anna", "anna@example.com"])
async def test_a_client_signs_in_by_its_name_or_its_username(sqlite_url, start, name):
    clients = {"anna": {"secret": SECRET, "username": "anna@example.com", "scopes": ["console"]}}
    async with start(sqlite_url, clients=clients) as client:
        assert (await sign_in(client, name)).status_code == 303
        assert (await sign_in(client, name, "wrong" + SECRET)).status_code == 401


@pytest.mark.parametrize(("secret", "client"), [(SECRET, "anna"), (f"{SECRET} of Ben", "ben")])
async def test_a_name_that_is_another_clients_username_is_told_apart_by_the_secret(sqlite_url, start, secret, client):
    clients = {
        "anna": {"secret": SECRET, "username": "anna@example.com", "scopes": ["console"]},
        "ben": {"secret": f"{SECRET} of Ben", "username": "anna", "scopes": ["console"]},
    }
    async with start(sqlite_url, clients=clients) as browser:
        assert (await sign_in(browser, "anna", secret)).status_code == 303
        assert f"<span>{client}</span>" in (await browser.get("/console")).text


@pytest.mark.parametrize(
    ("name", "secret"),
    [("desk", "wrong"), ("nobody", SECRET), ("", SECRET), ("desk", ""), ("des\0k", SECRET), ("désk", "ü")],
)
async def test_a_wrong_name_or_secret_is_401_and_one_sentence(browser, name, secret):
    reply = await sign_in(browser, name, secret)
    assert reply.status_code == 401
    assert "not those of a client" in reply.text
    assert "Set-Cookie" not in reply.headers


async def test_wrong_secrets_are_limited_and_a_right_one_always_passes(browser):
    replies = [await sign_in(browser, "desk", f"wrong {number}") for number in range(61)]
    assert [reply.status_code for reply in replies] == [401] * 60 + [429]
    assert int(replies[-1].headers["Retry-After"]) > 0
    assert (await sign_in(browser, "desk")).status_code == 303


async def test_a_client_without_the_scope_cannot_sign_in(browser):
    reply = await sign_in(browser, "operator")
    assert reply.status_code == 403
    assert "Add `console` to the scopes" in reply.text


@pytest.mark.parametrize(
    "place",
    ["https://evil.example", "//evil.example", "/\\evil.example", "/consoles", "/console\n", "", "/console/%5c"],
)
async def test_signing_in_leads_nowhere_else(browser, place):
    assert (await sign_in(browser, "desk", next=place)).headers["Location"] == "/console"


async def test_who_signs_out_is_a_stranger_again_and_the_audit_has_both(desk):
    reply = await desk.send("/console/sign-out")
    assert "You are signed out." in (await desk.client.get(reply.headers["Location"])).text
    assert (await desk.client.get("/console")).status_code == 303
    actions = (await desk.client.get("/api/audit", headers=bearer_header())).json()["actions"]
    found = [(action["action"], action["client"], action["channel"], action["target"]) for action in actions]
    assert found == [("sign_out", "desk", "console", "desk"), ("sign_in", "desk", "console", "desk")]


async def test_a_form_that_is_sent_after_the_session_has_ended_did_nothing_and_says_so(desk):
    desk.client.cookies.clear()
    reply = await desk.client.post("/console/replays/new?to=erp", data={"events": "1"}, headers=ORIGIN)
    assert reply.status_code == 303
    assert "nothing was done" in (await desk.client.get(reply.headers["Location"])).text


async def test_a_token_of_the_api_is_no_session_and_a_session_no_token(browser):
    token = issue(
        "desk",
        frozenset(Scope),
        keys=[TOKEN_KEY.encode()],
        lifetime=timedelta(hours=1),
        token_id="1",
        now=datetime.now(UTC),
    )
    assert (await browser.get("/console", headers={"Cookie": f"priohook={token}"})).status_code == 303
    cookie = (await sign_in(browser, "desk")).headers["Set-Cookie"].partition(";")[0].partition("=")[2]
    reply = await browser.get("/api/events", headers={"Authorization": f"Bearer {cookie}"})
    assert reply.status_code == 401


@pytest.mark.parametrize(
    "origin",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://priohook.evil.example"},
        {"Origin": "http://["},
    ],
)
async def test_a_form_of_another_site_is_refused(desk, origin):
    (token,) = re.findall(r'name="form_token" value="(\w+)"', await desk.see("/console"))
    for address in ("/console/sign-out", SIGN_IN):
        reply = await desk.client.post(
            address, data={"form_token": token, "name": "desk", "secret": SECRET}, headers=origin
        )
        assert reply.status_code == 403
        assert "not sent by a page of this console" in reply.text
    assert (await desk.client.get("/console")).status_code == 200


@pytest.mark.parametrize("token", [{}, {"form_token": ""}, {"form_token": "ü"}, {"form_token": "0" * 64}])
async def test_a_form_without_the_token_of_the_session_is_refused(desk, token):
    reply = await desk.client.post("/console/sign-out", data=token | {"a": "b"}, headers=ORIGIN)
    assert reply.status_code == 403
    assert (await desk.client.get("/console")).status_code == 200


def test_a_session_lasts_twelve_hours():
    cookie = begin(anna(), keys=KEYS, session_id="1", now=NOW)
    session = resume(cookie, keys=KEYS, clients=Clients([anna()]), now=NOW + LIFETIME - timedelta(seconds=1))
    assert (session.client.name, session.ends_at) == ("anna", NOW + timedelta(hours=12))
    with pytest.raises(InvalidToken, match="ended"):
        resume(cookie, keys=KEYS, clients=Clients([anna()]), now=NOW + LIFETIME)


@pytest.mark.parametrize(
    "clients",
    [[], [anna("another secret")], [anna(not_after=NOW - timedelta(days=1))]],
    ids=["removed", "rotated", "expired"],
)
def test_a_session_ends_with_its_client(clients):
    cookie = begin(anna(), keys=KEYS, session_id="1", now=NOW)
    with pytest.raises(InvalidToken, match="not valid any more"):
        resume(cookie, keys=KEYS, clients=Clients(clients), now=NOW)


def test_a_session_that_another_key_signed_is_none():
    cookie = begin(anna(), keys=[b"another key that is long enough to sign"], session_id="1", now=NOW)
    with pytest.raises(InvalidToken):
        resume(cookie, keys=KEYS, clients=Clients([anna()]), now=NOW)


def test_two_sessions_of_one_client_have_different_form_tokens():
    cookies = [begin(anna(), keys=KEYS, session_id=number, now=NOW) for number in "12"]
    sessions = [resume(cookie, keys=KEYS, clients=Clients([anna()]), now=NOW) for cookie in cookies]
    assert sessions[0].form_token != sessions[1].form_token

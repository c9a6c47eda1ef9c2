"""POST /oauth2/token: each row of Prioticket's authentication page, and RFC 6749."""

import asyncio
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.auth.basic import CHALLENGE
from app.auth.clients import Client
from app.auth.token_endpoint import MOST_BYTES
from app.auth.token_request import read_request
from app.auth.tokens import verify
from app.settings.clients import Scope
from app.web.problems import Problem
from tests.conftest import SECRET, TOKEN_KEY, basic_header

URL = "/oauth2/token"
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
GRANT = "grant_type=client_credentials"
CLIENTS = {
    "admin": {"secret": SECRET, "scopes": ["events:read", "events:replay", "console", "webhooks:send"]},
    "reader": {"secret": SECRET, "scopes": ["events:read"]},
    "prioticket": {"secret": SECRET, "scopes": ["webhooks:send"]},
    "odd": {"username": "od d", "secret": "p+ss wörd & 100%25!", "scopes": ["events:read"]},
}

Ask = Callable[..., Awaitable[httpx2.Response]]


def asking(client: httpx2.AsyncClient) -> Ask:
    async def ask(content: Any = GRANT, content_type: str = FORM, *, by: str = "admin", **headers: str):
        fields = basic_header(by) | {"Content-Type": content_type} | headers
        return await client.post(URL, content=content, headers={name: each for name, each in fields.items() if each})

    return ask


@pytest.fixture
async def ask(sqlite_url, start):
    """`await ask("grant_type=…")`: a request of a client."""
    async with start(sqlite_url, clients=CLIENTS) as client:
        yield asking(client)


def error(reply: httpx2.Response) -> tuple[int, str]:
    """Status and code of an error, which has the form of RFC 6749, section 5.2."""
    content = reply.json()
    assert reply.headers["Content-Type"] == "application/json"
    assert (reply.headers["Cache-Control"], reply.headers["Pragma"]) == ("no-store", "no-cache")
    assert set(content) == {"error", "error_description"}
    assert content["error_description"].isascii()
    assert not set('"\\') & set(content["error_description"])
    return reply.status_code, content["error"]


def scopes_of(reply: httpx2.Response) -> set[str]:
    token = reply.json()["access_token"]
    return set(verify(token, keys=[TOKEN_KEY.encode()], now=datetime.now(UTC)).scopes)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (GRANT, FORM),
        (GRANT, FORM + "; charset=UTF-8"),
        (GRANT, FORM.upper()),
        ('{"grant_type":"client_credentials"}', JSON),
        ('{"grant_type":"client_credentials","scope":null}', JSON + "; charset=utf-8"),
        ('{"grant_type":"client_credentials","scope":""}', "application/vnd.prioticket+json"),
        (GRANT + "&scope=", FORM),
        (GRANT + "&audience=x&resource=y", FORM),
        ('{"grant_type":"client_credentials","audience":["x"]}', JSON),
        (GRANT + "&client_id=admin", FORM),
        (b"\xef\xbb\xbf" + b'{"grant_type":"client_credentials"}', JSON + "; charset=utf-8"),
        (b"\xef\xbb\xbf" + GRANT.encode(), FORM),
    ],
)
async def test_a_form_or_json_gets_a_token_with_all_that_the_client_may_do(ask: Ask, content, content_type):
    reply = await ask(content, content_type)
    answer = reply.json()
    assert (reply.status_code, reply.headers["Cache-Control"], reply.headers["Pragma"]) == (200, "no-store", "no-cache")
    assert set(answer) == {"access_token", "token_type", "expires_in", "scope"}
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)
    assert answer["scope"] == "console events:read events:replay"
    assert scopes_of(reply) == {"console", "events:read", "events:replay"}


@pytest.mark.parametrize("scope", ["events:read", "events:replay events:read", "events:read events:read"])
async def test_a_token_has_the_scopes_that_were_asked_for_and_the_answer_need_not_repeat_them(ask: Ask, scope):
    for content, content_type in (
        (f"{GRANT}&scope={quote_plus(scope)}", FORM),
        (json.dumps({"grant_type": "client_credentials", "scope": scope}), JSON),
    ):
        reply = await ask(content, content_type)
        assert "scope" not in reply.json()
        assert scopes_of(reply) == set(scope.split())


async def test_a_token_lives_as_long_as_the_settings_say(sqlite_url, start):
    async with start(sqlite_url, clients=CLIENTS, token_lifetime=timedelta(minutes=5)) as client:
        answer = (await asking(client)()).json()
    token = verify(answer["access_token"], keys=[TOKEN_KEY.encode()], now=datetime.now(UTC))
    assert answer["expires_in"] == 300
    assert timedelta(minutes=4) < token.expires_at - datetime.now(UTC) <= timedelta(minutes=5, seconds=1)


async def test_two_tokens_are_never_the_same(ask: Ask):
    tokens = {(await ask()).json()["access_token"] for _ in range(5)}
    assert len(tokens) == 5


PRIOTICKETS = "https://www.prioticketapis.com/auth/distributor.booking"

REFUSED = {
    "nothing": ("", FORM, (400, "invalid_request")),
    "no body and no content type": ("", "", (400, "invalid_request")),
    "no grant_type": ("scope=events:read", FORM, (400, "invalid_request")),
    "an empty grant_type": ("grant_type=", FORM, (400, "invalid_request")),
    "no grant_type in JSON": ("{}", JSON, (400, "invalid_request")),
    "a grant_type that is null": ('{"grant_type":null}', JSON, (400, "invalid_request")),
    "a grant_type that is no string": ('{"grant_type":["client_credentials"]}', JSON, (400, "invalid_request")),
    "a scope that is no string": ('{"grant_type":"client_credentials","scope":7}', JSON, (400, "invalid_request")),
    "a repeated grant_type": (f"{GRANT}&{GRANT}", FORM, (400, "invalid_request")),
    "a repeated scope": (f"{GRANT}&scope=events:read&scope=console", FORM, (400, "invalid_request")),
    "a repeated unknown parameter": (f"{GRANT}&x=1&x=2", FORM, (400, "invalid_request")),
    "a repeated key in JSON": (
        '{"grant_type":"client_credentials","grant_type":"client_credentials"}',
        JSON,
        (400, "invalid_request"),
    ),
    "a secret in the body too": (f"{GRANT}&client_secret={SECRET}", FORM, (400, "invalid_request")),
    "both in the body too": (
        json.dumps({"grant_type": "client_credentials", "client_id": "admin", "client_secret": SECRET}),
        JSON,
        (400, "invalid_request"),
    ),
    "an assertion in the body too": (f"{GRANT}&client_assertion=x", FORM, (400, "invalid_request")),
    "another client in the body": (f"{GRANT}&client_id=reader", FORM, (400, "invalid_request")),
    "a form that is not UTF-8": (f"{GRANT}&scope=%ff", FORM, (400, "invalid_request")),
    "no JSON": ("{", JSON, (400, "invalid_request")),
    "JSON that is not UTF-8": (b'{"grant_type":"\xff"}', JSON, (400, "invalid_request")),
    "JSON too deep": ("[" * 4000, JSON, (400, "invalid_request")),
    "a form that says it is JSON": (GRANT, JSON, (400, "invalid_request")),
    "another grant type": ("grant_type=password", FORM, (400, "unsupported_grant_type")),
    "a grant type in capitals": ("grant_type=CLIENT_CREDENTIALS", FORM, (400, "unsupported_grant_type")),
    "another grant type in JSON": ('{"grant_type":"refresh_token"}', JSON, (400, "unsupported_grant_type")),
    "an unknown scope": (f"{GRANT}&scope=everything", FORM, (400, "invalid_scope")),
    "a known and an unknown scope": (f"{GRANT}&scope=events:read+everything", FORM, (400, "invalid_scope")),
    "a scope of Prioticket's": (f"{GRANT}&scope={PRIOTICKETS}", FORM, (400, "invalid_scope")),
    "the scope that no token carries": (f"{GRANT}&scope=webhooks:send", FORM, (400, "invalid_scope")),
    "two spaces in the scope": (f"{GRANT}&scope=events:read++console", FORM, (400, "invalid_scope")),
    "a quote in the scope": (f"{GRANT}&scope=%22", FORM, (400, "invalid_scope")),
    "another content type": (GRANT, "text/plain", (415, "invalid_request")),
    "no content type": (GRANT, "", (415, "invalid_request")),
    "an array": ("[]", JSON, (422, "invalid_request")),
    "a string": (f'"{GRANT}"', JSON, (422, "invalid_request")),
    "null": ("null", JSON, (422, "invalid_request")),
    "a body over the limit": ("x" * (MOST_BYTES + 1), FORM, (413, "invalid_request")),
}


@pytest.mark.parametrize(("content", "content_type", "expected"), REFUSED.values(), ids=REFUSED)
async def test_what_is_wrong_is_said_in_the_words_of_rfc_6749(ask: Ask, content, content_type, expected):
    assert error(await ask(content, content_type)) == expected


async def test_a_scope_that_another_client_has_is_invalid(ask: Ask):
    reply = await ask(f"{GRANT}&scope=console", by="reader")
    assert error(reply) == (400, "invalid_scope")
    assert "events:read" in reply.json()["error_description"]


async def test_a_client_that_only_sends_webhooks_gets_no_token(ask: Ask):
    assert error(await ask(by="prioticket")) == (400, "unauthorized_client")


async def test_credentials_in_the_body_alone_are_an_unsupported_method(ask: Ask):
    reply = await ask(f"{GRANT}&client_id=admin&client_secret={SECRET}", Authorization="")
    assert error(reply) == (401, "invalid_client")
    assert reply.headers["WWW-Authenticate"] == CHALLENGE


@pytest.mark.parametrize("authorization", ["", "Bearer x", "Basic !", basic_header("nobody")["Authorization"]])
async def test_a_failed_authentication_is_401_with_the_challenge(ask: Ask, authorization):
    reply = await ask(Authorization=authorization)
    assert error(reply) == (401, "invalid_client")
    assert reply.headers["WWW-Authenticate"] == CHALLENGE


@pytest.mark.parametrize("form_encoded", [True, False])
async def test_a_credential_may_be_form_encoded_as_rfc_6749_wants_or_plain_as_most_send_it(ask: Ask, form_encoded):
    username, secret = CLIENTS["odd"]["username"], str(CLIENTS["odd"]["secret"])
    parts = [quote_plus(each) if form_encoded else each for each in (str(username), secret)]
    reply = await ask(Authorization="Basic " + b64encode(":".join(parts).encode()).decode())
    assert reply.status_code == 200


async def test_an_accept_that_excludes_json_is_406(ask: Ask):
    assert error(await ask(Accept="text/html")) == (406, "invalid_request")


async def test_a_content_coding_is_415(ask: Ask):
    assert error(await ask(**{"Content-Encoding": "gzip"})) == (415, "invalid_request")


async def test_a_declared_length_over_the_limit_is_413_and_the_connection_ends(ask: Ask):
    reply = await ask(**{"Content-Length": str(MOST_BYTES + 1)})
    assert error(reply) == (413, "invalid_request")
    assert reply.headers["Connection"] == "close"


async def test_a_body_that_does_not_arrive_is_408(sqlite_url, start):
    async def body():
        yield GRANT.encode()
        await asyncio.sleep(60)

    async with start(sqlite_url, clients=CLIENTS, body_timeout=timedelta(milliseconds=10)) as client:
        headers = basic_header("admin") | {"Content-Type": FORM}
        posting = asyncio.create_task(client.post(URL, content=body(), headers=headers))
        assert error(await posting) == (408, "invalid_request")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_another_method_is_405_with_the_one_that_it_takes(sqlite_url, start, method):
    async with start(sqlite_url, clients=CLIENTS) as client:
        reply = await client.request(method, URL, headers=basic_header("admin"))
    assert (reply.status_code, reply.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("method", "path"), [("GET", URL), ("BREW", URL), ("POST", URL + "/"), ("GET", "/nowhere")])
async def test_no_cache_keeps_an_answer_that_the_url_or_the_method_gets(client, method, path):
    reply = await client.request(method, path)
    assert reply.status_code in (404, 405, 501)
    assert (reply.headers["Cache-Control"], reply.headers["Pragma"]) == ("no-store", "no-cache")


async def test_without_a_key_it_is_not_ready(postgres_url, start):
    async with start(postgres_url, clients=CLIENTS, token_keys=()) as client:
        reply = await asking(client)()
    assert error(reply) == (503, "temporarily_unavailable")
    assert "token_keys" in reply.json()["error_description"]
    assert int(reply.headers["Retry-After"]) > 0


async def test_a_client_that_failed_sixty_times_waits_whatever_it_sends_and_nobody_else_does(ask: Ask):
    for _ in range(60):
        assert error(await ask("")) == (400, "invalid_request")
    reply = await ask()
    assert error(reply) == (429, "temporarily_unavailable")
    assert 0 < int(reply.headers["Retry-After"]) <= 60
    assert (await ask(by="reader")).status_code == 200


async def test_nobody_can_lock_a_client_out_by_failing_in_its_name(ask: Ask):
    for _ in range(120):
        assert (await ask(Authorization=basic_header("admin", SECRET + "!")["Authorization"])).status_code in (401, 429)
    assert (await ask()).status_code == 200


async def test_a_thousand_requests_a_minute_are_free_and_the_next_has_to_wait(ask: Ask):
    statuses = [(await ask()).status_code for _ in range(1001)]
    assert statuses == [200] * 1000 + [429]


async def test_an_address_without_credentials_waits_after_a_thousand_requests_and_a_client_there_does_not(ask: Ask):
    replies = [await ask(Authorization="") for _ in range(1001)]
    assert {reply.status_code for reply in replies[:1000]} == {401}
    assert error(replies[-1]) == (429, "temporarily_unavailable")
    assert (await ask()).status_code == 200


async def test_neither_a_token_nor_a_credential_is_in_the_log(sqlite_url, start, log):
    async with start(sqlite_url, clients=CLIENTS) as client:
        token = (await asking(client)()).json()["access_token"]
        await asking(client)(f"{GRANT}&client_secret={SECRET}")
    assert '"client":"admin"' in log.getvalue()
    assert token not in log.getvalue()
    assert SECRET not in log.getvalue()


@given(
    content=st.binary(max_size=100) | st.text().map(lambda text: f"{GRANT}&scope={quote_plus(text)}".encode()),
    content_type=st.sampled_from([FORM.encode(), JSON.encode(), None]) | st.binary(max_size=20),
)
def test_any_body_is_a_request_or_is_refused(content, content_type):
    client = Client(name="admin", username="admin", digest=bytes(32), scopes=frozenset(Scope))
    with suppress(Problem):
        asked = read_request(content, content_type=content_type, client=client)
        assert asked is None or all(asked)

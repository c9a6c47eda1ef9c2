"""The contract of the door that takes Bearer tokens, RFC 6750."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.auth.bearer import BearerDoor
from app.auth.clients import clients_from
from app.auth.limits import FAILURES, Limit
from app.auth.tokens import issue
from app.settings.clients import ClientSettings, Scope
from app.telemetry.logs import LogWriter
from app.telemetry.middleware import RequestLine
from app.telemetry.spans import Spans
from app.telemetry.tally import Tally
from tests.conftest import SECRET, basic_header

NOW = datetime(2026, 7, 1, tzinfo=UTC)
KEY = b"k" * 32
CLIENTS = {
    "reader": {"secret": SECRET, "scopes": ["events:read"]},
    "demoted": {"secret": SECRET + "!", "scopes": ["console"]},
    "expired": {"secret": SECRET, "scopes": ["events:read"], "not_after": "2026-06-30T23:59:59Z"},
}
CHALLENGE = 'Bearer realm="priohook"'

Knock = Callable[..., Awaitable[httpx2.Response]]


def token(client: str = "reader", *scopes: Scope, key: bytes = KEY, now: datetime = NOW, lifetime: int = 3600) -> bytes:
    made = issue(
        client,
        frozenset(scopes or [Scope.READ]),
        keys=[key],
        lifetime=timedelta(seconds=lifetime),
        token_id="1",
        now=now,
    )
    return made.encode()


@pytest.fixture
def writer(log):
    return LogWriter(log, style="json")


@pytest.fixture
async def knock(writer):
    """`await knock(b"Bearer …")`: a request with these Authorization headers at a URL that takes `events:read`."""

    async def inside(scope, receive, send):
        answer = JSONResponse({"client": Request(scope).state.client.name})
        await answer(scope, receive, send)

    clients = clients_from({name: ClientSettings.model_validate(each) for name, each in CLIENTS.items()})
    door = BearerDoor(inside, keys=[KEY], clients=clients, failures=Limit(FAILURES), scope=Scope.READ, now=lambda: NOW)
    transport = httpx2.ASGITransport(RequestLine(door, log=writer, tally=Tally(), spans=Spans()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://priohook") as client:

        async def knock(*authorizations: bytes, url: str = "/api/events", method: str = "GET", content: Any = None):
            headers = [(b"Authorization", each) for each in authorizations]
            return await client.request(method, url, headers=headers, content=content)

        yield knock


@pytest.mark.parametrize("end", [b" ", b"\t", b" \t "])
async def test_white_space_behind_a_token_is_not_part_of_it(knock: Knock, end):
    assert (await knock(b"Bearer " + token() + end)).status_code == 200


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"Bearer   "])
async def test_a_valid_token_opens_the_door_for_its_client(knock: Knock, scheme):
    reply = await knock(scheme + token())
    assert (reply.status_code, reply.json()) == (200, {"client": "reader"})


async def test_without_a_token_the_challenge_comes_alone_and_names_no_error(knock: Knock):
    reply = await knock()
    assert (reply.status_code, reply.content) == (401, b"")
    assert reply.headers["WWW-Authenticate"] == CHALLENGE


@pytest.mark.parametrize("authorization", [basic_header("reader")["Authorization"].encode(), b"Digest x", b"", b"x"])
async def test_another_scheme_gets_the_challenge_without_an_error_and_learns_where_tokens_are(
    knock: Knock, authorization
):
    reply = await knock(authorization)
    assert (reply.status_code, reply.headers["WWW-Authenticate"]) == (401, CHALLENGE)
    assert reply.json()["error"] == "AUTHENTICATION_FAILED"
    assert "/oauth2/token" in reply.json()["error_description"]


INVALID = {
    "another key": token(key=b"o" * 32),
    "expired": token(now=NOW - timedelta(hours=2)),
    "not valid yet": token(now=NOW + timedelta(hours=2)),
    "an unknown client": token("removed"),
    "an expired client": token("expired"),
    "no token": b"abc",
    "a changed token": token()[:-2] + b"AA",
}


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID)
async def test_an_invalid_token_is_401_with_invalid_token(knock: Knock, invalid):
    reply = await knock(b"Bearer " + invalid)
    assert (reply.status_code, reply.json()["error"]) == (401, "AUTHENTICATION_FAILED")
    assert reply.headers["WWW-Authenticate"].startswith(f'{CHALLENGE}, error="invalid_token", error_description="')
    assert reply.json()["error_reference"] == reply.headers["X-Request-Id"]


REASONS: dict[str, tuple[list[bytes], int, str, str | None]] = {
    "nothing": ([], 401, "missing", None),
    "another scheme": ([basic_header("reader")["Authorization"].encode()], 401, "malformed", None),
    "two headers": ([b"Bearer " + token()] * 2, 400, "malformed", None),
    "no token": ([b"Bearer abc"], 401, "malformed", None),
    "another key": ([b"Bearer " + INVALID["another key"]], 401, "wrong_signature", None),
    "a removed client": ([b"Bearer " + token("removed")], 401, "unknown_client", None),
    "an expired client": ([b"Bearer " + token("expired")], 401, "expired", "expired"),
    "an expired token": ([b"Bearer " + INVALID["expired"]], 401, "expired", "reader"),
    "an expired token of a removed client": ([b"Bearer " + token("removed", lifetime=-1)], 401, "expired", None),
    "a token of the future": ([b"Bearer " + INVALID["not valid yet"]], 401, "not_yet_valid", "reader"),
}


@pytest.mark.parametrize("case", REASONS.values(), ids=REASONS)
async def test_the_log_says_why_a_token_was_refused_and_names_none_but_configured_clients(
    knock: Knock, writer, lines, case
):
    authorizations, status, reason, named = case
    with writer.running():
        assert (await knock(*authorizations)).status_code == status
    (line,) = lines()
    assert (line["status"], line["reason"], line.get("client"), line["address"]) == (status, reason, named, "127.0.0.1")


MALFORMED = {
    "the scheme alone": [b"Bearer"],
    "the scheme and a space": [b"Bearer "],
    "two tokens in one field": [b"Bearer " + token() + b" " + token()],
    "two fields": [b"Bearer " + token()] * 2,
    "Basic and Bearer": [basic_header("reader")["Authorization"].encode(), b"Bearer " + token()],
    "a comma": [b"Bearer " + token() + b",x"],
    "no ASCII": [b"Bearer \xe9"],
    "a parameter": [b'Bearer token="x"'],
}


@pytest.mark.parametrize("authorizations", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request_is_400_with_invalid_request(knock: Knock, authorizations):
    reply = await knock(*authorizations)
    assert (reply.status_code, reply.json()["error"]) == (400, "INVALID_REQUEST")
    assert reply.headers["WWW-Authenticate"] == f'{CHALLENGE}, error="invalid_request"'


@pytest.mark.parametrize("query", ["access_token=", "limit=1&access_token=x", "%61ccess_token=x"])
@pytest.mark.parametrize("authorizations", [[], [b"Bearer " + token()]], ids=["alone", "beside a header"])
async def test_a_token_in_the_query_is_refused(knock: Knock, query, authorizations):
    reply = await knock(*authorizations, url=f"/api/events?{query}")
    assert (reply.status_code, reply.json()["error"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "presented",
    [token("reader", Scope.REPLAY), token("reader", Scope.CONSOLE), token("demoted", Scope.READ)],
    ids=["a token without it", "another", "a client that lost it"],
)
async def test_a_token_without_the_scope_is_403_with_the_scope_named(knock: Knock, presented):
    reply = await knock(b"Bearer " + presented)
    assert (reply.status_code, reply.json()["error"]) == (403, "FORBIDDEN")
    assert reply.headers["WWW-Authenticate"] == f'{CHALLENGE}, error="insufficient_scope", scope="events:read"'


@pytest.mark.parametrize("authorizations", [[], [b"Bearer abc"], [b"Bearer"], [b"Bearer " + token("demoted")]])
async def test_a_refusal_comes_before_anything_of_the_body_is_read(knock: Knock, authorizations):
    read = []

    async def body():
        read.append(b"{}")
        yield b"{}"

    reply = await knock(*authorizations, method="POST", content=body())
    assert reply.status_code in (400, 401, 403)
    assert read == []


async def test_after_sixty_invalid_tokens_the_answer_is_429_and_a_valid_one_still_passes(knock: Knock):
    replies = [await knock(b"Bearer abc") for _ in range(61)]
    assert [reply.status_code for reply in replies] == [401] * 60 + [429]
    assert 0 < int(replies[-1].headers["Retry-After"]) <= 60
    assert (await knock(b"Bearer " + token())).status_code == 200
    assert (await knock()).status_code == 401


@given(authorization=st.binary(max_size=60) | st.binary(max_size=60).map(lambda raw: b"Bearer " + raw))
async def test_any_bytes_are_answered_and_open_nothing(knock: Knock, authorization):
    assert (await knock(authorization)).status_code in (400, 401, 429)

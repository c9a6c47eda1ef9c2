"""The contract of every door that takes HTTP Basic, RFC 7617. A new door joins `DOORS` and gets every test."""

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message

from app.auth.basic import CHALLENGE, credential
from app.auth.clients import clients_from, digest
from app.settings.clients import ClientSettings, Scope
from tests.conftest import SECRET, WEBHOOK, payload


@dataclass(frozen=True, kw_only=True)
class Door:
    """A URL behind HTTP Basic.

    Attributes:
        errors: The `error` of a credential that is wrong, one without the scope, and one failure too many.
        stranger: The scope of a client that may not come in, and the status that it gets.
        alone: Whether the challenge comes without a body where nothing was presented.
    """

    path: str
    scope: Scope
    body: bytes
    content_type: str
    errors: tuple[str, str, str]
    stranger: tuple[Scope, int]
    alone: bool


DOORS = [
    Door(
        path=WEBHOOK,
        scope=Scope.SEND,
        body=payload("01-notification-order-create"),
        content_type="application/json",
        errors=("AUTHENTICATION_FAILED", "FORBIDDEN", "LIMIT_REACHED"),
        stranger=(Scope.READ, 403),
        alone=True,
    ),
    Door(
        path="/oauth2/token",
        scope=Scope.READ,
        body=b"grant_type=client_credentials",
        content_type="application/x-www-form-urlencoded",
        errors=("invalid_client", "unauthorized_client", "temporarily_unavailable"),
        stranger=(Scope.SEND, 400),
        alone=False,
    ),
]

Knock = Callable[..., Awaitable[httpx2.Response]]

NOW = datetime(2026, 7, 1, tzinfo=UTC)
UNICODE_SECRET = "pässwörd-密码-🎫🎫🎫🎫"
COLON_SECRET = "first:second::third:"
CONTROL_SECRET = "tab\tin-the-password"
PLUS_AND_SLASH_SECRET = "???>>>???>>>???>>>"  # in base64 it holds both + and /


def clients_of(door: Door) -> dict[str, dict[str, Any]]:
    may = {"scopes": [door.scope]}
    return {
        "prioticket": {"secret": SECRET, **may},
        "unicode": {"username": "tïcket-票", "secret": UNICODE_SECRET, **may},
        "colon": {"secret": COLON_SECRET, **may},
        "plus": {"secret": PLUS_AND_SLASH_SECRET, **may},
        "digest": {"sha256": digest("digest", SECRET).hex(), **may},
        "old": {"username": "rotating", "secret": SECRET + "-old", **may},
        "new": {"username": "rotating", "secret": SECRET + "-new", **may},
        "oldest": {"username": "rotating", "secret": SECRET + "-2019", "not_after": "2020-01-01T00:00:00Z", **may},
        "expired": {"secret": SECRET, "not_after": "2020-01-01T00:00:00Z", **may},
        "early": {"secret": SECRET, "not_before": "2999-01-01T00:00:00Z", **may},
        "control": {"sha256": digest("control", CONTROL_SECRET).hex(), **may},
        "nothing": {"sha256": sha256(b"").hexdigest(), **may},
        "stranger": {"secret": SECRET, "scopes": [door.stranger[0]]},
    }


@pytest.fixture(params=DOORS, ids=lambda door: door.path)
def door(request: pytest.FixtureRequest) -> Door:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def knock(door, sqlite_url, start):
    """`await knock(b"Basic …", b"Basic …")`: a request with these Authorization headers."""
    async with start(sqlite_url, clients=clients_of(door)) as client:

        async def knock(*authorizations: bytes, content: Any = door.body):
            headers = [(b"Content-Type", door.content_type.encode())]
            headers += [(b"Authorization", each) for each in authorizations]
            return await client.post(door.path, content=content, headers=headers)

        yield knock


def token(username: str, secret: str) -> bytes:
    return b64encode(f"{username}:{secret}".encode())


def basic(username: str, secret: str) -> bytes:
    return b"Basic " + token(username, secret)


def without_request_id(reply: httpx2.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    request_id = reply.headers["X-Request-Id"]
    headers = [(name, value.replace(request_id, "ID")) for name, value in reply.headers.multi_items()]
    return reply.status_code, headers, reply.content.replace(request_id.encode(), b"ID")


RIGHT = token("prioticket", SECRET)

SPELLINGS = {
    "plain": b"Basic " + RIGHT,
    "lower case": b"basic " + RIGHT,
    "upper case": b"BASIC " + RIGHT,
    "mixed case": b"bAsIc " + RIGHT,
    "several spaces": b"Basic   " + RIGHT,
    "UTF-8": basic("tïcket-票", UNICODE_SECRET),
    "colons in the password": basic("colon", COLON_SECRET),
    "plus and slash in the base64": basic("plus", PLUS_AND_SLASH_SECRET),
    "a client known by its digest": basic("digest", SECRET),
    "the older client of a username": basic("rotating", SECRET + "-old"),
    "the newer client of a username": basic("rotating", SECRET + "-new"),
    "base64 twice": b"Basic " + b64encode(RIGHT),
    "a space behind it": b"Basic " + RIGHT + b" ",
    "a tab and a space behind it": b"Basic " + RIGHT + b"\t ",
    "base64 twice with a space behind it": b"Basic " + b64encode(RIGHT) + b" ",
    "base64 twice, a line end behind the inner one": b"Basic " + b64encode(RIGHT + b"\n"),
    "base64 twice of UTF-8": b"Basic " + b64encode(token("tïcket-票", UNICODE_SECRET)),
}

WRONG = {
    "an unknown user": basic("nobody", SECRET),
    "a wrong password": basic("prioticket", SECRET + "!"),
    "the start of the password": basic("prioticket", SECRET[:-1]),
    "an empty password": basic("prioticket", ""),
    "an empty username": basic("", SECRET),
    "a colon alone": b"Basic " + b64encode(b":"),
    "another username's password": basic("digest", COLON_SECRET),
    "a username in another case": basic("Prioticket", SECRET),
    "a password in another case": basic("prioticket", SECRET.upper()),
    "a client's name in place of its username": basic("old", SECRET + "-old"),
    "an expired client": basic("expired", SECRET),
    "a client that is not valid yet": basic("early", SECRET),
    "no colon": b"Basic " + b64encode(b"prioticket"),
    "a control character, with the right digest": basic("control", CONTROL_SECRET),
    "a NUL at the end": basic("prioticket", SECRET + "\0"),
    "a line end at the end": basic("prioticket", SECRET + "\n"),
    "a DEL in the username": basic("prio\x7fticket", SECRET),
    "Latin-1": b"Basic " + b64encode("tïcket:pässwörd-pässwörd".encode("latin-1")),
    "UTF-16": b"Basic " + b64encode(f"prioticket:{SECRET}".encode("utf-16")),
    "another scheme": b"Bearer " + RIGHT,
    "a scheme that starts alike": b"Basically " + RIGHT,
    "no scheme": RIGHT,
    "no space": b"Basic" + RIGHT,
    "a tab in place of the space": b"Basic\t" + RIGHT,
    "a space before the scheme": b" Basic " + RIGHT,
    "the scheme alone": b"Basic",
    "the scheme and a space": b"Basic ",
    "an empty field": b"",
    "unencoded": f"Basic prioticket:{SECRET}".encode(),
    "junk before the base64": b"Basic !" + RIGHT,
    "junk inside the base64": b"Basic " + RIGHT[:8] + b"*" + RIGHT[8:],
    "a byte that is no ASCII": b"Basic " + RIGHT[:8] + b"\xe9" + RIGHT[8:],
    "white space inside the base64": b"Basic " + RIGHT[:8] + b" " + RIGHT[8:],
    "a line end inside the base64": b"Basic " + RIGHT[:8] + b"\r\n" + RIGHT[8:],
    "missing padding": basic("rotating", SECRET + "-old").rstrip(b"="),
    "too much padding": b"Basic " + RIGHT + b"=",
    "padding that hides bits": basic("rotating", SECRET + "-old")[:-2] + b"R=",
    "padding, then more": b"Basic " + b64encode(b"prioticket:co") + b64encode(SECRET[2:].encode()),
    "one character too few": b"Basic " + RIGHT[:-1],
    "the URL-safe alphabet": b"Basic " + urlsafe_b64encode(f"plus:{PLUS_AND_SLASH_SECRET}".encode()),
    "two credentials in one field": b"Basic " + RIGHT + b", Basic " + RIGHT,
    "a parameter": b'Basic realm="priohook"',
    "base64 three times": b"Basic " + b64encode(b64encode(RIGHT)),
    "base64 twice with junk inside": b"Basic " + b64encode(b"!" + RIGHT),
    "base64 twice, missing the inner padding": b"Basic " + b64encode(token("rotating", SECRET + "-old").rstrip(b"=")),
}


@pytest.mark.parametrize("authorization", SPELLINGS.values(), ids=SPELLINGS)
async def test_a_right_credential_opens_the_door(knock: Knock, door, authorization):
    assert (await knock(authorization)).status_code == 200


async def test_without_credentials_the_challenge_comes_alone_but_where_oauth_wants_an_error(knock: Knock, door):
    reply = await knock()
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == 'Basic realm="priohook", charset="UTF-8"'
    assert ("Content-Type" not in reply.headers and reply.content == b"") == door.alone
    assert door.alone or reply.json()["error"] == "invalid_client"


async def test_a_refused_credential_gets_the_challenge_and_an_error(knock: Knock, door):
    reply = await knock(WRONG["a wrong password"])
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == CHALLENGE
    assert reply.json()["error"] == door.errors[0]
    assert reply.json().get("error_reference", reply.headers["X-Request-Id"]) == reply.headers["X-Request-Id"]


@pytest.mark.parametrize("authorization", WRONG.values(), ids=WRONG)
async def test_whatever_is_wrong_the_answer_is_the_same(knock: Knock, authorization):
    answers = [without_request_id(await knock(each)) for each in (authorization, WRONG["an unknown user"])]
    assert answers[0][0] == 401
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "authorizations",
    [
        (b"Basic " + RIGHT, b"Basic " + RIGHT),
        (b"Basic " + RIGHT, WRONG["a wrong password"]),
        (WRONG["a wrong password"], b"Basic " + RIGHT),
        (b"Bearer x", b"Basic " + RIGHT),
        (b"", b"Basic " + RIGHT),
    ],
    ids=["the same twice", "right then wrong", "wrong then right", "another scheme first", "an empty one first"],
)
async def test_two_authorization_headers_are_refused_though_one_is_right(knock: Knock, authorizations):
    reply = await knock(*authorizations)
    assert without_request_id(reply) == without_request_id(await knock(WRONG["an unknown user"]))


@pytest.mark.parametrize("authorizations", [(), (WRONG["a wrong password"],)], ids=["no credential", "a wrong one"])
async def test_a_refusal_comes_before_anything_of_the_body_is_read(knock: Knock, authorizations):
    read = []

    async def body():
        read.append(b"{}")
        yield b"{}"

    reply = await knock(*authorizations, content=body())
    assert (reply.status_code, read) == (401, [])


async def test_a_right_credential_without_the_scope_is_forbidden(knock: Knock, door):
    reply = await knock(basic("stranger", SECRET))
    assert (reply.status_code, reply.json()["error"]) == (door.stranger[1], door.errors[1])
    assert door.scope in reply.json()["error_description"]
    assert "WWW-Authenticate" not in reply.headers


async def test_after_sixty_failures_the_answer_is_429_with_the_time_to_wait(knock: Knock, door):
    for _ in range(60):
        assert (await knock(WRONG["a wrong password"])).status_code == 401
    reply = await knock(WRONG["a wrong password"])
    assert (reply.status_code, reply.json()["error"]) == (429, door.errors[2])
    assert 0 < int(reply.headers["Retry-After"]) <= 60
    assert reply.headers["Retry-After"] in reply.json()["error_description"]


async def test_without_the_scope_nothing_of_the_body_is_read_at_the_webhook(sqlite_url, start):
    read = []

    async def body():
        read.append(b"{}")
        yield b"{}"

    async with start(sqlite_url, clients=clients_of(DOORS[0])) as client:
        headers = {"Authorization": basic("stranger", SECRET).decode()}
        reply = await client.post(WEBHOOK, content=body(), headers=headers)
    assert (reply.status_code, read) == (403, [])


async def test_during_a_flood_of_failures_a_right_credential_passes(knock: Knock, door):
    replies = [await knock(WRONG["a wrong password"]) for _ in range(61)]
    assert replies[-1].status_code == 429
    assert (await knock(b"Basic " + RIGHT)).status_code == 200
    assert (await knock(basic("stranger", SECRET))).status_code == door.stranger[1]
    assert (await knock()).status_code == 401


@pytest.mark.parametrize(
    "harmless", [(), (basic("stranger", SECRET),), (b"Basic " + RIGHT,)], ids=["no credential", "no scope", "right"]
)
async def test_only_failed_credentials_count_as_failures(knock: Knock, harmless):
    for _ in range(61):
        await knock(*harmless)
    assert (await knock(WRONG["a wrong password"])).status_code == 401


async def test_which_client_of_a_username_came_is_in_the_log(door, sqlite_url, start, lines):
    async with start(sqlite_url, clients=clients_of(door)) as client:
        for secret in ("-old", "-new"):
            headers = {"Authorization": basic("rotating", SECRET + secret).decode(), "Content-Type": door.content_type}
            await client.post(door.path, content=door.body, headers=headers)
    assert [line["client"] for line in lines() if line["event"] == "request"] == ["old", "new"]


REASONS: dict[str, tuple[list[bytes], str, str | None]] = {
    "nothing": ([], "missing", None),
    "another scheme": ([WRONG["another scheme"]], "malformed", None),
    "no base64": ([WRONG["unencoded"]], "malformed", None),
    "no colon": ([WRONG["no colon"]], "malformed", None),
    "the digest of nothing": ([b"Basic "], "malformed", None),
    "two headers": ([b"Basic " + RIGHT] * 2, "malformed", None),
    "a user that nobody is": ([WRONG["an unknown user"]], "unknown_username", None),
    "a secret in the place of the username": ([basic(SECRET, "")], "unknown_username", None),
    "a client's name that is no username": ([basic("old", SECRET)], "unknown_username", None),
    "a wrong secret": ([WRONG["a wrong password"]], "wrong_secret", "prioticket"),
    "a wrong secret of a client that expired": ([basic("expired", SECRET + "!")], "wrong_secret", "expired"),
    "a secret that was right once": ([WRONG["an expired client"]], "expired", "expired"),
    "one that was right once, of a username in use": ([basic("rotating", SECRET + "-2019")], "expired", "oldest"),
    "a secret that will be right": ([WRONG["a client that is not valid yet"]], "not_yet_valid", "early"),
}


@pytest.mark.parametrize("case", REASONS.values(), ids=REASONS)
async def test_the_log_says_why_a_credential_was_refused_and_names_none_but_configured_clients(
    door, sqlite_url, start, lines, case
):
    authorizations, reason, named = case
    async with start(sqlite_url, clients=clients_of(door)) as client:
        headers = [(b"Authorization", each) for each in authorizations]
        assert (await client.post(door.path, headers=headers)).status_code == 401
    (line,) = (line for line in lines() if line["event"] == "request")
    assert (line["status"], line["reason"], line.get("client"), line["address"]) == (401, reason, named, "127.0.0.1")
    assert SECRET not in str(line)


async def test_the_reason_of_a_refusal_is_found_out_after_its_answer(door, sqlite_url, serve, monkeypatch):
    order: list[str] = []

    def noting(*arguments: bytes) -> bool:
        order.append("compared")
        return compare_digest(*arguments)

    async def send(message: Message) -> None:
        order.append(message["type"])

    monkeypatch.setattr("app.auth.reasons.compare_digest", noting)
    async with serve(sqlite_url, clients=clients_of(door)) as app:
        headers = [(b"authorization", WRONG["a wrong password"])]
        scope = {"type": "http", "method": "POST", "path": door.path, "headers": headers, "client": ("::1", 1)}
        await app(scope, never, send)
    assert order[:2] == ["http.response.start", "http.response.body"]
    assert set(order[2:]) == {"compared"}


async def never() -> Message:
    raise AssertionError("nothing of the body is read")


@pytest.fixture
def compared(monkeypatch):
    """The arguments of every call of the compare that opens doors."""
    calls: list[tuple[bytes, bytes]] = []

    def noting(presented: bytes, kept: bytes) -> bool:
        calls.append((presented, kept))
        return compare_digest(presented, kept)

    monkeypatch.setattr("app.auth.clients.compare_digest", noting)
    return calls


@pytest.mark.parametrize(
    "authorization", [*SPELLINGS.values(), *WRONG.values()], ids=[*SPELLINGS, *(f"wrong: {name}" for name in WRONG)]
)
async def test_every_header_is_compared_with_every_client_in_constant_time(knock: Knock, door, compared, authorization):
    await knock(authorization)
    spellings = 2 if door.path == "/oauth2/token" else 1  # there form-encoded or plain
    assert len(compared) == spellings * len(clients_of(door))
    assert {len(each) for call in compared for each in call} == {32}


def is_right(authorization: bytes) -> bool:
    """Whether it is a spelling of the one right credential, by a second reading of RFC 7617."""
    scheme, space, rest = authorization.partition(b" ")
    spelled = rest.lstrip(b" ").rstrip(b" \t\r\n")
    return scheme.lower() == b"basic" and space == b" " and spelled in (RIGHT, b64encode(RIGHT))


def spliced(position: int, length: int, replacement: bytes, original: bytes) -> bytes:
    return original[:position] + replacement + original[position + length :]


DAMAGED = st.builds(
    spliced,
    st.integers(0, 80),
    st.integers(0, 3),
    st.binary(max_size=3) | st.sampled_from([b" ", b"=", b"\t", b"\0", b","]),
    st.sampled_from([b"Basic " + RIGHT, b"Basic " + b64encode(RIGHT)]),
)
ENCODED = st.binary(max_size=60).map(lambda raw: b"Basic " + b64encode(raw))


@given(authorization=st.binary(max_size=100) | DAMAGED | ENCODED)
@settings(max_examples=300)
async def test_any_bytes_are_answered_and_only_the_right_ones_open(knock: Knock, door, authorization):
    status = (await knock(authorization)).status_code
    assert status in ({200} if is_right(authorization) else {401, 429})


SENDABLE = st.characters(exclude_characters="\x7f", exclude_categories=["Cs"], min_codepoint=0x20)


@given(
    username=st.text(SENDABLE, min_size=1).filter(lambda name: ":" not in name),
    secret=st.text(SENDABLE, min_size=16),
    scheme=st.sampled_from(["Basic", "basic", "BASIC"]),
    twice=st.booleans(),
)
def test_any_username_and_password_that_basic_can_carry_come_through(username, secret, scheme, twice):
    clients = clients_from(
        {"it": ClientSettings.model_validate({"username": username, "secret": secret, "scopes": ["console"]})}
    )
    encoded = token(username, secret)
    presented = credential([f"{scheme} ".encode() + (b64encode(encoded) if twice else encoded)])
    assert presented == f"{username}:{secret}".encode()
    assert clients.match(presented, now=NOW) is not None

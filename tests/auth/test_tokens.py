from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.auth.tokens import InvalidToken, Token, issue, verify
from app.settings.clients import Scope

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
KEY, OTHER = b"k" * 32, b"o" * 32
SCOPES = frozenset((Scope.READ, Scope.CONSOLE))

CLAIMS: dict[str, Any] = {
    "iss": "priohook",
    "sub": "admin",
    "aud": "priohook",
    "exp": int((NOW + HOUR).timestamp()),
    "iat": int(NOW.timestamp()),
    "jti": "1",
    "scope": "console events:read",
}


def made(*, keys: tuple[bytes, ...] = (KEY,), lifetime: timedelta = HOUR, now: datetime = NOW) -> str:
    return issue("admin", SCOPES, keys=keys, lifetime=lifetime, token_id="1", now=now)


def read(token: str, *, keys: tuple[bytes, ...] = (KEY,), now: datetime = NOW) -> Token:
    return verify(token, keys=keys, now=now)


def signed(changes: dict[str, Any], *, key: Any = KEY, algorithm: str = "HS256", without: str = "") -> str:
    claims = {name: value for name, value in (CLAIMS | changes).items() if name != without}
    return jwt.encode(claims, key, algorithm=algorithm)


TOKEN = made()


def test_a_token_says_who_and_what_and_until_when():
    assert read(TOKEN) == Token("admin", SCOPES, NOW + HOUR)


def test_a_token_has_the_claims_and_the_algorithm_of_the_readme():
    assert jwt.decode(TOKEN, options={"verify_signature": False}) == CLAIMS
    assert jwt.get_unverified_header(TOKEN) == {"alg": "HS256", "typ": "JWT"}


@given(
    client=st.text(min_size=1),
    scopes=st.frozensets(st.sampled_from(Scope)),
    lifetime=st.timedeltas(SECOND, timedelta(days=3650)),
    now=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001 - Hypothesis wants them so
)
def test_what_was_issued_is_read_again(client, scopes, lifetime, now):
    now = now.replace(tzinfo=UTC)
    token = issue(client, scopes, keys=[KEY], lifetime=lifetime, token_id="1", now=now)
    said = read(token, now=now)
    assert (said.client, said.scopes) == (client, scopes)
    assert lifetime <= said.expires_at - now < lifetime + SECOND


@given(place=st.integers(0, len(TOKEN) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_makes_it_invalid(place, bit):
    damaged = bytearray(TOKEN, "ascii")
    damaged[place] ^= 1 << bit
    with pytest.raises(InvalidToken):
        read(damaged.decode("latin-1"))


@pytest.mark.slow
@given(text=st.text() | st.from_regex(r"\A[\w-]+\.[\w-]+\.[\w-]{43}\Z"))
def test_any_other_text_is_invalid(text):
    with pytest.raises(InvalidToken):
        read(text)


@pytest.mark.parametrize("junk", ["=", "\n", " ", "!", ".", ".x"])
def test_nothing_may_be_added_to_a_token(junk):
    for text in (TOKEN + junk, junk + TOKEN, TOKEN.replace(".", junk + ".", 1)):
        with pytest.raises(InvalidToken):
            read(text)


def test_a_signature_has_one_spelling_only():
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same = [
        TOKEN[:-1] + last
        for last in alphabet
        if urlsafe_b64decode(TOKEN[-43:-1] + last + "=") == urlsafe_b64decode(TOKEN[-43:] + "=")
    ]
    assert len(same) == 4
    for spelling in set(same) - {TOKEN}:
        with pytest.raises(InvalidToken):
            read(spelling)


@pytest.mark.parametrize(
    "token",
    [
        signed({}, key=None, algorithm="none"),
        signed({}, key=None, algorithm="none") + "A" * 43,
        signed({}, key=b"k" * 48, algorithm="HS384"),
        signed({}, key=b"k" * 64, algorithm="HS512"),
        signed({}, key=OTHER),
    ],
    ids=["none", "none with a signature", "HS384", "HS512", "another key"],
)
def test_another_algorithm_or_key_is_refused(token):
    with pytest.raises(InvalidToken):
        read(token, keys=(KEY, b"k" * 48, b"k" * 64))


@pytest.mark.parametrize("algorithm", ["none", "NONE", "HS512", "hs256", ""])
def test_the_algorithm_is_ours_whatever_the_header_names(algorithm):
    head = urlsafe_b64encode(f'{{"alg":"{algorithm}","typ":"JWT"}}'.encode()).rstrip(b"=")
    body = TOKEN.split(".")[1].encode()
    signature = urlsafe_b64encode(jwt.get_algorithm_by_name("HS256").sign(head + b"." + body, KEY)).rstrip(b"=")
    with pytest.raises(InvalidToken):
        read(b".".join((head, body, signature)).decode())


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another"},
        {"aud": None},
        {"iss": "another"},
        {"exp": "soon"},
        {"exp": 10**20},
        {"exp": None},
        {"iat": "x"},
        {"nbf": "x"},
        {"nbf": int((NOW + HOUR).timestamp())},
        {"sub": None},
    ],
    ids=repr,
)
def test_claims_of_others_or_of_the_wrong_kind_are_refused(changes):
    with pytest.raises(InvalidToken):
        read(jwt.encode(CLAIMS | changes, KEY, algorithm="HS256"))


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_is_required(name):
    with pytest.raises(InvalidToken):
        read(signed({}, without=name))


@pytest.mark.parametrize(
    ("after", "valid"),
    [
        (timedelta(minutes=-2), False),
        (timedelta(minutes=-1), True),
        (timedelta(0), True),
        (HOUR - SECOND, True),
        (HOUR, False),
        (HOUR + SECOND, False),
    ],
)
def test_a_token_is_valid_from_its_making_until_it_expires_and_a_clock_may_be_a_minute_behind(after, valid):
    try:
        read(TOKEN, now=NOW + after)
    except InvalidToken:
        assert not valid
    else:
        assert valid


@pytest.mark.parametrize(("keys", "valid"), [((KEY,), True), ((OTHER, KEY), True), ((OTHER,), False), ((), False)])
def test_while_rotating_both_keys_are_believed_and_a_removed_one_no_more(keys, valid):
    if valid:
        assert read(TOKEN, keys=keys).client == "admin"
    else:
        with pytest.raises(InvalidToken):
            read(TOKEN, keys=keys)


def test_the_first_key_signs():
    token = made(keys=(OTHER, KEY))
    assert read(token, keys=(OTHER,)).client == "admin"
    with pytest.raises(InvalidToken):
        read(token, keys=(KEY,))


def test_a_scope_of_a_newer_release_is_left_out():
    assert read(signed({"scope": "events:read events:dream"})).scopes == {Scope.READ}

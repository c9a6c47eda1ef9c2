"""What the time of a refusal tells, measured as `tests/timing.py` says.

What must not show: whether a username exists, how much of a guessed secret is right, how long a secret is, whether an
old secret was right once. So the two classes of a pair are headers of one length that differ in nothing but that.

What may show, since the sender knows it already: the length of his own header, as parsing, decoding and digesting take
as long as what they read, and whether it can be a credential at all. Nothing of ours is in that time. So "short against
long" is measured three ways: for a short and for a long guess, whether the user exists does not show; for a short and
for a long secret, which of them is guessed at does not show; and a long guess against a short one does show, on the
function and on the wire, which is how we know that this would see a difference.
"""

import json
import socket
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random
from secrets import randbits
from string import ascii_letters, digits

import pytest

from app.auth.basic import credential
from app.auth.clients import Clients, clients_from, new_secret
from app.settings.clients import ClientSettings
from tests.conftest import WEBHOOK
from tests.e2e.conftest import configured, serving
from tests.timing import THRESHOLD, Make, largest_t

pytestmark = pytest.mark.slow

NOW = datetime(2026, 7, 1, tzinfo=UTC)
ALPHABET = (ascii_letters + digits).encode()

SECRET = b"correct-horse-battery-staple"
LONG_SECRET = SECRET * 20
RETIRED_SECRETS, OTHER_SECRETS = ([new_secret().encode() for _ in range(8)] for _ in range(2))
KNOWN, LONG, RETIRED, UNKNOWN = b"prioticket", b"box-office", b"old-season", b"nobody-yet"
"""Usernames, all of one length; `UNKNOWN` is nobody's."""

FIRST, LAST = 0, -1


def registry() -> Clients:
    may = {"scopes": ["webhooks:send"]}
    clients = {
        KNOWN: {"secret": SECRET, **may},
        LONG: {"secret": LONG_SECRET, **may},
    }
    old = {"username": RETIRED, "not_after": "2020-01-01T00:00:00Z", **may}
    clients |= {b"old-%d" % number: {"secret": secret, **old} for number, secret in enumerate(RETIRED_SECRETS)}
    return clients_from({name.decode(): ClientSettings.model_validate(each) for name, each in clients.items()})


def header(username: bytes, secret: bytes) -> bytes:
    return b"Basic " + b64encode(username + b":" + secret)


def guess(username: bytes, length: int = len(SECRET)) -> Make:
    """Random secrets for this user."""
    return lambda random: header(username, b64encode(random.randbytes(length))[:length])


def wrong_at(position: int, username: bytes = KNOWN, secret: bytes = SECRET) -> Make:
    """The right secret but for one byte."""

    def make(random: Random) -> bytes:
        wrong = bytearray(secret)
        while wrong == secret:
            wrong[position] = random.choice(ALPHABET)
        return header(username, bytes(wrong))

    return make


def one_of(secrets: Sequence[bytes]) -> Make:
    return lambda random: header(RETIRED, random.choice(secrets))


PAIRS = {
    "right user, wrong password / unknown user": (guess(KNOWN), guess(UNKNOWN)),
    "the same with one byte of password": (guess(KNOWN, 1), guess(UNKNOWN, 1)),
    "the same with 1000 bytes of password": (guess(KNOWN, 1000), guess(UNKNOWN, 1000)),
    "first byte wrong / last byte wrong": (wrong_at(FIRST), wrong_at(LAST)),
    "the same with a long secret": (wrong_at(FIRST, LONG, LONG_SECRET), wrong_at(LAST, LONG, LONG_SECRET)),
    "all bytes wrong / last byte wrong": (guess(KNOWN), wrong_at(LAST)),
    "a short secret is guessed at / a long one": (guess(KNOWN), guess(LONG)),
    "an expired client's secret / a wrong one": (one_of(RETIRED_SECRETS), one_of(OTHER_SECRETS)),
}


def measured(verify: Callable[[bytes], object], classes: tuple[Make, Make], *, calls: int) -> float:
    """The largest t, which `pytest -rP` shows."""
    seed = randbits(32)
    t = largest_t(verify, classes, calls=calls, seed=seed)
    print(f"t = {t:.2f}, seed {seed}, {calls} calls")  # noqa: T201
    return t


def door(clients: Clients) -> Callable[[bytes], object]:
    """What a door does with a header."""

    def verify(value: bytes) -> object:
        presented = credential([value])
        return clients.match(presented or b"", now=NOW)

    return verify


@pytest.mark.parametrize("classes", PAIRS.values(), ids=PAIRS)
def test_the_time_of_a_refusal_does_not_tell(classes, long):
    t = measured(door(registry()), classes, calls=1_000_000 if long else 20_000)
    assert abs(t) < THRESHOLD


RIGHT = header(LONG, LONG_SECRET)


def equals(value: bytes) -> bool:
    """What anybody would write first."""
    return value == RIGHT


def equals_byte_by_byte(value: bytes) -> bool:
    """The same compare as a loop that returns early."""
    username, _, secret = (credential([value]) or b":").partition(b":")
    kept = SECRET if username == KNOWN else b""
    return len(kept) == len(secret) and all(a == b for a, b in zip(kept, secret, strict=True))


def only_of_known_users(verify: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """The right compare, but not for users that do not exist."""

    def verify_known(value: bytes) -> object:
        username, _, _ = (credential([value]) or b":").partition(b":")
        return verify(value) if username == KNOWN else None

    return verify_known


LEAKS = {
    "== on a long secret": (equals, (wrong_at(FIRST, LONG, LONG_SECRET), wrong_at(LAST, LONG, LONG_SECRET))),
    "an early return": (equals_byte_by_byte, (wrong_at(FIRST), wrong_at(LAST))),
    "the length first": (equals_byte_by_byte, (wrong_at(LAST), guess(KNOWN, len(SECRET) - 1))),
    "unknown users at once": (only_of_known_users(door(registry())), (guess(KNOWN), guess(UNKNOWN))),
    "a long guess takes the door longer": (door(registry()), (guess(KNOWN, 400), guess(KNOWN, 40))),
}


@pytest.mark.parametrize(("verify", "classes"), LEAKS.values(), ids=LEAKS)
def test_the_measurement_sees_a_compare_that_tells(verify, classes):
    t = measured(verify, classes, calls=20_000)
    assert abs(t) > THRESHOLD


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Sends a request with this Authorization value to a server, and waits for its answer."""
    folder = tmp_path_factory.mktemp("timing")
    clients = {KNOWN.decode(): {"secret": SECRET.decode(), "scopes": ["webhooks:send"]}}
    settings = configured(f"sqlite+aiosqlite:///{folder / 'priohook.db'}", clients=json.dumps(clients))
    with serving(folder, **settings) as server, socket.create_connection(server.address, timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask(value: bytes) -> None:
            connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n\r\n" % (WEBHOOK.encode(), value))
            answer = b""
            while not answer.endswith(b"}"):  # the end of its body, which may come by itself
                got = connection.recv(65536)
                assert got, answer
                answer += got
            assert answer[9:12] in {b"401", b"429"}, answer

        for _ in range(100):  # most answers are 429 from then on, of either class
            ask(header(UNKNOWN, SECRET))
        yield ask


ON_THE_WIRE = {name: PAIRS[name] for name in [*list(PAIRS)[:1], "first byte wrong / last byte wrong"]}


@pytest.mark.parametrize("classes", ON_THE_WIRE.values(), ids=ON_THE_WIRE)
def test_the_time_of_an_answer_does_not_tell(ask, classes, long):
    t = measured(ask, classes, calls=100_000 if long else 5000)
    assert abs(t) < THRESHOLD


def test_the_measurement_sees_a_longer_header_on_the_wire(ask):
    t = measured(ask, (guess(KNOWN, 40_000), guess(KNOWN, 40)), calls=5000)
    assert t > THRESHOLD

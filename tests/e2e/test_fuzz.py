"""Attacks on a running server: whatever comes, it answers well or hangs up, serves others meanwhile, and stays small.

A few seconds; minutes with `--long`. A failure names its seed: `FUZZ_SEED=… pytest tests/e2e/test_fuzz.py` begins with
the same attack.
"""

import gzip
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from secrets import randbits
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.attacks import (
    BODY,
    CHUNKED,
    REQUESTS,
    TOKENS,
    WRONG,
    Attack,
    attack_of,
    carry_out,
    edited,
    resident_bytes,
    statuses,
)
from tests.e2e.conftest import (
    AUTHORIZATION,
    Wire,
    configured,
    dial,
    new_event,
    request,
    serving,
)
from tests.e2e.load import allow_open_files

SERVED_WITHIN = 30.0  # seconds, for a good request in the midst of an attack, on a machine with much else to do
BETWEEN = 0.02  # seconds between two good requests in the midst of an attack
LARGEST_GROWTH = 48 * 1024 * 1024
"""Bytes that a flood may leave behind or hold; each of the floods below sends more than this, or stands for it."""

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def server(folder):
    allow_open_files()
    database = f"sqlite+aiosqlite:///{folder / 'priohook.db'}"
    with serving(folder, **configured(database, body_timeout="1", trusted_proxies="127.0.0.0/8")) as served:
        for _ in range(200):  # so that what grows later is not the first use of something
            assert_serves(served)
        yield served
        assert served.end() == 0
        assert_no_trouble(served)


def assert_serves(server) -> None:
    """Checks that a good request on a new connection soon gets its 200."""
    started = time.monotonic()
    with dial(server) as wire:
        assert wire.send(request(new_event())).reply().status == 200
    assert time.monotonic() - started < SERVED_WITHIN


def assert_no_trouble(server) -> None:
    """Checks that the log holds only lines of requests and of what was quarantined, and no errors."""
    for text in server.stderr.splitlines():
        line = json.loads(text)
        assert line["level"] in ("debug", "info") or line["event"] == "quarantined", text
        assert line.get("status", 200) != 500, text
        assert "traceback" not in line, text


@pytest.fixture(autouse=True)
def unharmed(server):
    """Makes each attack, then checks what must hold after it."""
    yield
    assert_serves(server)
    assert_no_trouble(server)


@contextmanager
def others_are_served(server) -> Iterator[None]:
    """Keeps a good sender running during the attack."""
    over = Event()
    failed: list[BaseException] = []

    def send() -> None:
        try:
            assert_serves(server)
            while not over.wait(BETWEEN):
                assert_serves(server)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that can fail the test
            failed.append(error)

    sender = Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()
    if failed:
        raise failed[0]


edits = st.lists(
    st.tuples(st.integers(0, 4000), st.sampled_from((0, 1, 2, 50)), st.sampled_from(TOKENS) | st.binary(max_size=8)),
    max_size=5,
)
messages = st.binary(max_size=300) | st.builds(edited, st.sampled_from(REQUESTS), edits)
visible = st.binary(max_size=60).map(lambda value: bytes(each for each in value if each >= 0x20 and each != 0x7F))


@pytest.fixture(scope="module")
def examples(long):
    return settings(max_examples=20_000 if long else 150, print_blob=True)


def test_whatever_bytes_arrive_each_answer_is_well_formed(server, examples):
    @examples
    @given(sent=st.lists(messages, min_size=1, max_size=3), half_close=st.booleans())
    def attack(sent, half_close):
        statuses(carry_out(Attack(tuple(sent), half_close=half_close), server))

    attack()


def test_whatever_the_fields_hold_a_right_request_is_answered(server, examples):
    names = ("accept", "content-type", "content-encoding", "x-forwarded-for", "x-forwarded-proto", "cookie", "expect")

    @examples
    @given(fields=st.dictionaries(st.sampled_from(names), visible), target=st.text(st.characters(codec="ascii")))
    def attack(fields, target):
        headers = [f"{name}: {value.decode('latin-1')}" for name, value in fields.items()]
        path = "/webhooks/prioticket?" + "".join(each for each in target if each.isprintable() and each not in " #")
        sent = request(BODY, *headers, target=path)
        found = statuses(carry_out(Attack((sent,), half_close=True), server))
        assert found[-1:] in ([200], [400], [406], [413], [415], [422]), found

    attack()


def test_thousands_of_broken_connections_do_no_harm(server, long):
    first = int(os.environ.get("FUZZ_SEED") or randbits(32))
    end = time.monotonic() + (240 if long else 4)
    before = resident_bytes(server)
    seed = first
    with others_are_served(server):
        while time.monotonic() < end:
            try:
                statuses(carry_out(attack_of(seed), server))
            except (AssertionError, ValueError, KeyError, OSError) as error:
                raise AssertionError(f"FUZZ_SEED={seed}: {attack_of(seed)}") from error
            seed += 1
    assert seed - first > 100
    assert resident_bytes(server) - before < LARGEST_GROWTH, f"seeds {first} to {seed}"


def endless(head: bytes, more: bytes, mib: int) -> Iterator[bytes]:
    """`head`, then `more` repeated up to this many MiB."""
    yield head
    block = more * (65536 // len(more))
    for _ in range(mib * 16):
        yield block


def chunked(authorization: str) -> bytes:
    return request(b"2\r\n{}\r\n0\r\n", CHUNKED, length=None, authorization=authorization)


def extended(authorization: str) -> bytes:
    return request(b"2;", CHUNKED, length=None, authorization=authorization)


GET = b"GET / HTTP/1.1\r\n"

FLOODS = {
    "many headers": (GET, b"a:b\r\n", 1),
    "one giant header": (GET + b"a: ", b"b", 20),
    "one giant name": (GET, b"b", 20),
    "giant target": (b"GET /", b"b", 20),
    "empty lines": (b"", b"\r\n", 20),
    "many trailers": (chunked(AUTHORIZATION), b"a:b\r\n", 20),
    "many trailers of a stranger": (chunked(WRONG), b"a:b\r\n", 20),
    "one giant trailer": (chunked(WRONG) + b"a: ", b"b", 20),
    "giant chunk extension": (extended(AUTHORIZATION), b"b", 20),
    "giant chunk extension of a stranger": (extended(WRONG), b"b", 20),
    "chunks of one byte": (request(b"", CHUNKED, length=None), b"1\r\n \r\n", 20),
    "pipelined requests": (b"", b"GET / HTTP/1.1\r\n\r\n", 4),
    "pipelined offers of another protocol": (b"", b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n", 1),
    "a body that nobody reads": (request(b"", length=10**9, authorization=WRONG), b"x", 20),
    "a body of an open page": (request(b"", method="GET", target="/healthz", length=10**9), b"x", 20),
    "a body of an unknown path": (request(b"", target="/unknown", length=10**9), b"x", 20),
    "a body without an end of an unknown path": (
        request(b"", CHUNKED, target="/unknown", length=None),
        b"1\r\n \r\n",
        20,
    ),
    "noise": (b"\x16\x03\x01", b"\x00\xff", 20),
}


@pytest.mark.parametrize(("head", "more", "mib"), FLOODS.values(), ids=FLOODS)
def test_a_flood_leaves_no_memory_behind_and_others_are_served(server, long, head, more, mib):
    before = resident_bytes(server)
    for _ in range(20 if long else 1):
        with ExitStack() as stack, others_are_served(server):
            for wire in [stack.enter_context(dial(server, timeout=0.5)) for _ in range(4)]:
                with suppress(ConnectionError, TimeoutError):  # it hangs up, or takes no more before it is read from
                    wire.send(*endless(head, more, mib))
            assert resident_bytes(server) - before < LARGEST_GROWTH
    assert resident_bytes(server) - before < LARGEST_GROWTH


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 9)


BOMBS = {
    "gzip": ("gzip", gzipped(b" " * 200 * MIB)),
    "deflate": ("deflate", zlib.compress(b" " * 200 * MIB, 9)),
    "gzip in gzip": ("gzip", gzipped(gzipped(b" " * 200 * MIB))),
    "gzip in gzip, and it says so": ("gzip, gzip", gzipped(gzipped(b" " * 200 * MIB))),
    "thousands of empty members": ("gzip", gzipped(b"") * (MIB // 20 - 1)),
    "thousands of members of one byte": ("gzip", gzipped(b" ") * (MIB // 21 - 1)),
    "a member that does not end": ("gzip", gzipped(b" " * MIB)[:-9]),
    "deep arrays": ("identity", b"[" * (MIB - 1)),
    "deep objects": ("identity", b'{"data":' * (MIB // 8 - 1)),
    "a number of a million digits": ("identity", b'{"data":' + b"9" * (MIB - 9) + b"}"),
    "a million names": ("identity", b'{"data":{' + b",".join(b'"%x":0' % each for each in range(90_000)) + b"}}"),
}


@pytest.mark.parametrize(("coding", "bomb"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_answered_and_others_are_served(server, long, coding, bomb):
    before = resident_bytes(server)
    with others_are_served(server):
        for _ in range(50 if long else 3):
            with dial(server) as wire:
                wire.send(request(bomb, f"Content-Encoding: {coding}"))
                assert wire.reply().status in {200, 400, 413, 415, 422}
    assert resident_bytes(server) - before < LARGEST_GROWTH


SLOW = {
    "nothing": b"",
    "a head": request(BODY),
    "a body": request(b"", length=1000),
    "a body that nobody reads": request(b"", length=1000, authorization=WRONG),
}


def trickle(wires: list[Wire], sent: bytes, at: int) -> list[Wire]:
    """Sends one more byte on each connection, and returns those that still take it."""
    going = []
    for wire in wires:
        with suppress(ConnectionError):
            wire.send(sent[at : at + 1] or b"x")
            going.append(wire)
    return going


@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW)
def test_hundreds_of_slow_senders_do_not_keep_others_waiting(server, long, sent):
    before = resident_bytes(server)
    with ExitStack() as stack, others_are_served(server):
        wires = [stack.enter_context(dial(server)) for _ in range(2000 if long else 300)]
        for wire in wires:
            wire.send(sent[: len(sent) // 2 if sent is SLOW["a head"] else len(sent)])
        started = time.monotonic()
        at = len(sent) // 2
        while sent and wires and time.monotonic() - started < (30 if long else 1):
            wires = trickle(wires, sent, at)
            at += 1
            time.sleep(0.1)
        if sent and long:
            assert not wires  # every one of them was ended
    assert resident_bytes(server) - before < LARGEST_GROWTH


@pytest.mark.parametrize("count", [1, 5])
def test_who_hangs_up_before_the_answers_does_no_harm(server, long, count):
    for _ in range(3000 if long else 100):
        with dial(server) as wire:
            wire.send(*(request(new_event()) for _ in range(count))).reset()


def test_pipelined_requests_that_wait_as_bytes_are_all_answered(server):
    with dial(server) as wire:
        wire.send(*(request(new_event()) for _ in range(300))).half_close()
        assert [wire.reply().status for _ in range(300)] == [200] * 300
        assert wire.ended()


def test_what_is_malformed_behind_pipelined_requests_that_wait_as_bytes_is_told_last(server):
    with dial(server) as wire:
        wire.send(request(new_event()) * 100 + b"hello there\r\n\r\n")
        assert [wire.reply().status for _ in range(101)] == [200] * 100 + [400]
        assert wire.ended()


@pytest.mark.parametrize("flood", ["many trailers", "giant chunk extension"])
def test_trailers_and_chunk_extensions_over_64_kib_are_refused(server, flood):
    head, more, _ = FLOODS[flood]
    with dial(server) as wire:
        reply = wire.send(head, more * (80_000 // len(more))).reply()
        assert (reply.status, reply.headers["connection"]) == (431, "close")
        assert wire.ended()


def test_trailers_are_not_taken_for_headers(server, folder):
    body = new_event()
    sent = b"%x\r\n%s\r\n0\r\nX-Trailer: secret\r\nAuthorization: Basic c2VjcmV0\r\n\r\n" % (len(body), body)
    with dial(server) as wire:
        reply = wire.send(request(sent, CHUNKED, length=None)).reply()
    assert reply.status == 200
    with closing(sqlite3.connect(folder / "priohook.db")) as database:
        (kept,) = database.execute("SELECT headers FROM events WHERE body = ?", (body,)).fetchone()
    assert b"transfer-encoding" in kept
    assert b"trailer" not in kept

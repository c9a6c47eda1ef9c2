"""Requests of a hostile sender, and the answers that must never come."""

import gzip
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.conftest import basic_header, payload
from tests.e2e.conftest import ANSWERS_WITHIN, Served, request

BODY = payload("01-notification-order-create")
WRONG = "Authorization: " + basic_header(secret="wrong")["Authorization"]
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"5;name=value\r\n%s\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (BODY[:5], len(BODY) - 5, BODY[5:])

REQUESTS = (
    request(BODY),
    request(BODY, authorization=WRONG),
    request(BODY, authorization=None),
    request(CHUNKS, CHUNKED, length=None),
    request(CHUNKS, CHUNKED, length=None, authorization=WRONG),
    request(gzip.compress(BODY), "Content-Encoding: gzip"),
    request(BODY, "Expect: 100-continue", "Accept: application/json;q=0.5, */*;q=0"),
    request(BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    request(BODY, "X-Forwarded-For: 192.0.2.1, [2001:db8::1]:443"),
    request(BODY, version="HTTP/1.0"),
    request(method="GET", target="/healthz?a=b", length=None),
    request(method="HEAD", target="/readyz", length=None),
    request(method="OPTIONS", target="*"),
    request(BODY) + request(b"[]") + request(BODY, authorization=WRONG),
)
"""Valid and nearly valid requests, which attacks break."""

TOKENS = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"%", b"%00", b"%ff", b"/", b"//", b"?",
    b"#", b"\xff", b"\xed\xa0\x80", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1", b"0x10",
    b"99999999999999999999999",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n",
    b"Authorization: Basic Og==\r\n", b"X-Forwarded-For: ,:]%\r\n", b"Host: \r\n", b"HTTP/1.0", b"HTTP/9.9",
    b"CONNECT ", b"HEAD ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b'{"data":', b"[" * 500, b'"\\ud800"', b"1" * 5000,
)  # fmt: skip

Edit = tuple[int, int, bytes]
"""A place (any number), how many bytes to remove there, and the bytes to insert instead."""

STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [A-Za-z '-]+")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\x20-\x7e\t\x80-\xff]*)")
FORBIDDEN = frozenset((500, 502, 504))


def edited(sent: bytes, edits: Sequence[Edit]) -> bytes:
    """The bytes after all edits, made one after the other."""
    for place, gone, come in edits:
        at = place % (len(sent) + 1)
        sent = sent[:at] + come + sent[at + gone :]
    return sent


@dataclass(frozen=True)
class Attack:
    """One connection: the pieces that are sent, and whether the sender then closes its half or hangs up."""

    pieces: tuple[bytes, ...]
    half_close: bool


def attack_of(seed: int) -> Attack:
    """The same attack for the same seed."""
    random = Random(seed)  # noqa: S311 - repeatable
    sent = b"".join(_message(random) for _ in range(random.choice((1, 1, 1, 2, 5))))
    cuts = sorted(random.randrange(len(sent) + 1) for _ in range(random.choice((0, 0, 1, 3, 20))))
    pieces = tuple(sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True))
    return Attack(pieces, half_close=random.random() < 0.7)


def _message(random: Random) -> bytes:
    if random.random() < 0.1:
        return random.randbytes(random.choice((1, 40, 3000)))
    return edited(random.choice(REQUESTS), [_edit(random) for _ in range(random.choice((0, 1, 1, 2, 3, 8)))])


def _edit(random: Random) -> Edit:
    come = random.choice((b"", random.randbytes(1), random.choice(TOKENS), random.choice(REQUESTS)[:60]))
    return random.getrandbits(32), random.choice((0, 0, 1, 1, 2, 20, 200)), come


def carry_out(attack: Attack, server: Served) -> bytes:
    """Carries out the attack. After a half-close, returns all that comes back until the server closes its half too.

    Raises:
        TimeoutError: the server neither answered nor closed.
    """
    received = bytearray()
    # The server may close at the first broken byte.
    with socket.create_connection(server.address, timeout=ANSWERS_WITHIN) as wire, suppress(ConnectionError):
        for piece in attack.pieces:
            wire.sendall(piece)
        if attack.half_close:
            with suppress(OSError):  # ENOTCONN if the server has already closed
                wire.shutdown(socket.SHUT_WR)
            while got := wire.recv(65536):
                received += got
    return bytes(received)


def statuses(received: bytes) -> list[int]:
    """The status of each answer, after a check that it is well-formed. The last answer may be cut off."""
    found = []
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        if not end:
            break
        first, *lines = head.split(b"\r\n")
        status = STATUS.fullmatch(first)
        fields = [FIELD.fullmatch(line) for line in lines]
        assert status, head
        assert all(fields), head
        headers = {field[1].lower(): field[2] for field in fields if field}
        assert len(headers) == len(lines), head
        number = int(status[1])
        assert number not in FORBIDDEN, head
        found.append(number)
        if number == 100:
            continue
        assert headers[b"x-request-id"], head
        size = int(headers[b"content-length"])
        if received[:5] != b"HTTP/":  # an answer to HEAD has no body
            assert not received or received[:1] == b"{", received
            received = received[size:]
    return found


def resident_bytes(server: Served) -> int:
    """How much memory the server's process uses."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024

"""The requests of a simulated Prioticket: events of each shape, copies, events out of order, and bad requests."""

import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import count
from random import Random
from typing import Literal

from app.simulator.bodies import body_of
from app.simulator.orders import lives
from app.simulator.sales import stamp

ENDED = 0
"""Instead of a status: the connection ended without an answer."""

TOO_LATE = -1
"""Instead of a status: no answer in time."""

JSON = "application/json"
MEGABYTE = 1024 * 1024
BOMB_MEGABYTES = 70
"""The size of a bomb after decompression: more than any receiver can be configured to take."""

FILE_NAME = b"\x08"
"""The flag in a gzip header which says that a file name follows."""

COPY_BEHIND = 15
"""A copy comes at most this many requests after its event."""

HELD_FOR = 60
"""An event that is held back is sent after this many events of other orders, as it may be the last of its order."""

STALLS = 8
"""The most stalls of one run: each lasts for the receiver's `body_timeout`, ten seconds by default."""

Shape = Literal["notification", "order", "both", "mixed"]
Kind = Literal["event", "copy", "credentials", "json", "envelope", "type", "bomb", "stall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        kind: What kind of request it is.
        key: Its place in the stream; a copy has the key of its event.
        reference: The order's reference. Requests of one order are sent one after the other.
        expected: The statuses that are right answers.
        kept: Whether a right answer means that the request is kept in quarantine.
        withheld: How many bytes at the end of the body are never sent.
    """

    kind: Kind
    key: int
    body: bytes
    reference: str = ""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", JSON), ("Accept", "*/*"))
    expected: frozenset[int] = frozenset((200,))
    kept: bool = False
    withheld: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What is sent. The three numbers are shares of the events, from 0 to 1; bad requests are sent in addition."""

    shape: Shape = "mixed"
    duplicates: float = 0.0
    out_of_order: float = 0.0
    bad: float = 0.0


def requests(mixture: Mixture, *, seed: int, day: datetime) -> Iterator[Request]:
    """Requests without end; the first order is made on this day. The same arguments give the same requests."""
    random = Random(seed)  # noqa: S311 - as in orders
    keys = count(1)
    waiting: deque[tuple[int, Request]] = deque()
    bad = _bad(random, keys, seed)
    for number, event in enumerate(_changed_order(_events(mixture.shape, random, seed, day, keys), mixture, random)):
        yield event
        if random.random() < mixture.duplicates:
            waiting.append((number + random.randint(0, COPY_BEHIND), event))
        for due, original in [copy for copy in waiting if copy[0] <= number]:
            waiting.remove((due, original))
            yield replace(original, kind="copy")
        if random.random() < mixture.bad:
            yield next(bad)


def _events(shape: Shape, random: Random, seed: int, day: datetime, keys: Iterator[int]) -> Iterator[Request]:
    shapes: dict[str, str] = {}
    for step in lives(seed, day):
        # A webhook is registered with or without payload, so all events of an order have one shape.
        chosen = shapes.setdefault(
            step.reference, random.choice(("notification", "order", "both")) if shape == "mixed" else shape
        )
        body = body_of(step.event, step.order, created=stamp(step.at), shape=chosen, random=random)
        yield Request(kind="event", key=next(keys), reference=step.reference, body=body)


def _changed_order(events: Iterator[Request], mixture: Mixture, random: Random) -> Iterator[Request]:
    """Holds some events back until the next event of the same order has been sent."""
    held: dict[str, tuple[int, Request]] = {}
    for number, event in enumerate(events):
        _, earlier = held.pop(event.reference, (0, None))
        if earlier is None and random.random() < mixture.out_of_order:
            held[event.reference] = (number, event)
        else:
            yield event
        if earlier is not None:
            yield earlier
        for reference in [each for each, (since, _) in held.items() if since + HELD_FOR <= number]:
            yield held.pop(reference)[1]


def _bad(random: Random, keys: Iterator[int], seed: int) -> Iterator[Request]:
    kinds: tuple[Kind, ...] = ("credentials", "json", "envelope", "type", "bomb")
    stalls = 0
    while True:
        kind = random.choice(kinds)
        if stalls < STALLS and random.random() < 0.02:  # noqa: PLR2004 - a share
            kind = "stall"
            stalls += 1
        key = next(keys)
        yield BAD[kind](key, f"simulated-{seed}-{key}")


def _quarantined(kind: Kind, status: int) -> Callable[[int, str], Request]:
    def make(key: int, name: str) -> Request:
        body = {
            "json": f'{{"data": "{name}", '.encode(),
            "envelope": json.dumps({"message": name}).encode(),
            "type": f"<order>{name}</order>".encode(),
        }[kind]
        content_type = "text/xml" if kind == "type" else JSON
        headers = (("Content-Type", content_type),)
        return Request(kind=kind, key=key, body=body, headers=headers, expected=frozenset((status,)), kept=True)

    return make


def _credentials(key: int, name: str) -> Request:
    return Request(kind="credentials", key=key, body=name.encode(), expected=frozenset((401, 429)))


def _bomb(key: int, name: str) -> Request:
    # A file name in the gzip header (RFC 1952) makes each bomb different: two equal ones would be copies of one event.
    head, rest = _zeros()[:10], _zeros()[10:]
    body = head[:3] + FILE_NAME + head[4:] + name.encode() + b"\0" + rest
    headers = (("Content-Type", JSON), ("Content-Encoding", "gzip"))
    return Request(kind="bomb", key=key, body=body, headers=headers, expected=frozenset((413,)), kept=True)


@cache
def _zeros() -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # + 16: gzip
    return b"".join([*(packer.compress(bytes(MEGABYTE)) for _ in range(BOMB_MEGABYTES)), packer.flush()])


def _stall(key: int, name: str) -> Request:
    body = json.dumps({"data": name, "never": "sent"}).encode()
    return Request(kind="stall", key=key, body=body, expected=frozenset((408, ENDED)), kept=True, withheld=10)


BAD: dict[str, Callable[[int, str], Request]] = {
    "credentials": _credentials,
    "json": _quarantined("json", 400),
    "envelope": _quarantined("envelope", 422),
    "type": _quarantined("type", 415),
    "bomb": _bomb,
    "stall": _stall,
}

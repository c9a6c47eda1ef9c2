"""The requests of a simulated Prioticket: events in their shapes, copies, changed orders, and bad ones."""

import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import count
from random import Random
from typing import Any, Literal
from uuid import UUID

from app.simulator.orders import Step, lives

API_VERSION = "3.8.0"
JSON = "application/json"
MEGABYTE = 1024 * 1024
BOMB_MEGABYTES = 70
"""What a bomb becomes: more than any receiver can be configured to take."""

COPY_BEHIND = 15
"""How many requests later a copy comes, at most."""

Shape = Literal["notification", "order", "both", "mixed"]
Kind = Literal["event", "copy", "credentials", "json", "envelope", "type", "bomb", "stall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        kind: What it is.
        key: The same for an event and its copies; its place in the stream.
        reference: The order's; those of one order are sent one after the other.
        expected: Statuses that are right answers.
        kept: Whether a right answer means that it is kept in quarantine.
        withheld: Bytes at the end of the body that are never sent.
    """

    kind: Kind
    key: int
    body: bytes
    reference: str = ""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", JSON), ("Accept", JSON))
    expected: frozenset[int] = frozenset((200,))
    kept: bool = False
    withheld: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What is sent: shares are of the requests, between 0 and 1."""

    shape: Shape = "mixed"
    duplicates: float = 0.0
    out_of_order: float = 0.0
    bad: float = 0.0


def requests(mixture: Mixture, *, seed: int, day: datetime) -> Iterator[Request]:
    """Requests without end. The same arguments give the same ones.

    Args:
        mixture: What they are.
        seed: Chooses them.
        day: When the first order is made.
    """
    random = Random(seed)  # noqa: S311 - as in orders
    keys = count(1)
    waiting: deque[tuple[int, Request]] = deque()
    for number, event in enumerate(_changed_order(_events(mixture.shape, random, seed, day, keys), mixture, random)):
        yield event
        if random.random() < mixture.duplicates:
            waiting.append((number + random.randint(0, COPY_BEHIND), event))
        for due, original in [each for each in waiting if each[0] <= number]:
            waiting.remove((due, original))
            yield _copy(original)
        while random.random() < mixture.bad:
            yield _bad(random, next(keys), seed)


def _copy(event: Request) -> Request:
    return Request(kind="copy", key=event.key, body=event.body, reference=event.reference)


def _events(shape: Shape, random: Random, seed: int, day: datetime, keys: Iterator[int]) -> Iterator[Request]:
    shapes: dict[str, str] = {}
    for step in lives(seed, day):
        # A webhook is registered with payload or without, so an order keeps its shape.
        chosen = shapes.setdefault(
            step.reference, random.choice(("notification", "order", "both")) if shape == "mixed" else shape
        )
        yield Request(kind="event", key=next(keys), reference=step.reference, body=_body(step, chosen, random))


def _body(step: Step, shape: str, random: Random) -> bytes:
    content: dict[str, Any] = {"kind": "order" if shape == "order" else "notification"}
    if shape != "order":
        content["notification"] = {
            "notification_id": str(UUID(int=random.getrandbits(128), version=4)),
            "notification_status": "DELIVERY_PENDING",
            "notification_event": step.event,
            "notification_account_id": "1300501",
            "notification_item_id": step.reference,
            "notification_created": step.at.isoformat(timespec="seconds"),
        }
    if shape != "notification":
        content["order"] = step.order
    return json.dumps({"api_version": API_VERSION, "data": content}, ensure_ascii=False).encode()


def _changed_order(events: Iterator[Request], mixture: Mixture, random: Random) -> Iterator[Request]:
    """Holds some events back until the next one of the same order has gone."""
    held: dict[str, Request] = {}
    for event in events:
        earlier = held.pop(event.reference, None)
        if earlier is None and random.random() < mixture.out_of_order:
            held[event.reference] = event
            continue
        yield event
        if earlier is not None:
            yield earlier


def _bad(random: Random, key: int, seed: int) -> Request:
    kinds: tuple[Kind, ...] = ("credentials", "json", "envelope", "type", "bomb")
    # One in fifty waits for the receiver's patience, ten seconds by default.
    kind: Kind = "stall" if random.random() < 0.02 else random.choice(kinds)  # noqa: PLR2004
    return BAD[kind](key, f"simulated-{seed}-{key}")


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


def _bomb(key: int, _: str) -> Request:
    # The time in its header makes its bytes unlike another bomb's: two that are alike would be one event.
    body = _zeros()[:4] + key.to_bytes(4, "little") + _zeros()[8:]
    headers = (("Content-Type", JSON), ("Content-Encoding", "gzip"))
    return Request(kind="bomb", key=key, body=body, headers=headers, expected=frozenset((413,)), kept=True)


@cache
def _zeros() -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # 16: in gzip's wrapping
    return b"".join([*(packer.compress(bytes(MEGABYTE)) for _ in range(BOMB_MEGABYTES)), packer.flush()])


def _stall(key: int, name: str) -> Request:
    body = json.dumps({"data": name, "never": "sent"}).encode()
    return Request(kind="stall", key=key, body=body, expected=frozenset((408,)), kept=True, withheld=10)


BAD: dict[str, Callable[[int, str], Request]] = {
    "credentials": _credentials,
    "json": _quarantined("json", 400),
    "envelope": _quarantined("envelope", 422),
    "type": _quarantined("type", 415),
    "bomb": _bomb,
    "stall": _stall,
}

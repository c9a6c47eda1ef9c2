"""The load: wrk posts events of their own, each with the right credentials."""

import json
import re
import subprocess
import tempfile
from base64 import b64encode
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from secrets import token_hex
from time import time
from urllib.parse import urlsplit

PROJECT = Path(__file__).parent.parent
SCRIPT = Path(__file__).with_suffix(".lua")
SAMPLES = {
    "notification": ("01-notification-order-create", "04-notification-redemption"),
    "order": ("08-order-payload-confirmed", "10-order-payload-cancelled"),
}
"""By kind: one of a new order, and what comes later of a stored one."""

KINDS = tuple(SAMPLES)
PATH = "/webhooks/prioticket"
SUCCESS = 200
USERNAME = "prioticket"
PASSWORD = "a-secret-that-only-the-benchmark-knows"  # noqa: S105 - of servers that live for a minute on the loopback
HEADERS = {
    "Host": "127.0.0.1",
    "User-Agent": "Prioticket",
    "Accept": "application/json",
    "Content-Type": "application/json",
    "Authorization": f"Basic {b64encode(f'{USERNAME}:{PASSWORD}'.encode()).decode()}",
}
ENDS_WITHIN = 60.0  # seconds beyond the run itself
PACED_CONNECTIONS = 64

PLACES = {b"<number>": b"%016d" % 0, b"<reference>": b"PRI%016d" % 0, b"<time>": b"2026-08-12T10:15:32+02:00"}
"""What is filled in for each request, and something of its length: a number, a reference, the time in seconds."""
FILLED = {
    rb"7c0a4a52-31f4-4a0e-9d1e-5f3b0f6a1c0\d": b"<run>-31f4-4a0e-9d1e-<number>",
    rb"DEMO-ORD-\d+": b"DEMO-<run>-<number>",
    rb"PRI26081200417": b"<reference>",
    rb'("notification_created|"order_modified)": "[^"]*"': rb'\1": "<time>"',
}
"""What of the samples is replaced, and by what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run was answered.

    Attributes:
        requests: Answers of any kind.
        failed: Those with a status above 399.
        broken: Connections that failed, and answers that took over two seconds.
    """

    requests: int
    failed: int
    broken: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def acknowledged(self) -> int:
        """Answers that were 200."""
        return self.requests - self.failed


def run(
    url: str,
    kind: str,
    *,
    connections: int,
    seconds: int,
    orders: int | None = None,
    rate: float = 0.0,
    answers: str = "",
) -> Load:
    """Posts events of a kind for some seconds, on each connection the next as soon as one is answered.

    The numbers begin with the microsecond, so that references rise from run to run as real ones do.

    Args:
        orders: How many orders are stored that the events may be about; None for an order of its own for each.
        rate: How many events a second are sent instead, however long the answers take.
        answers: The file for the ids of these events, each with `monotonic()` of its 200.
    """
    with tempfile.NamedTemporaryFile() as request:
        request.write(request_for(kind, run_id=token_hex(4), later=orders is not None))
        request.flush()
        arguments = (request.name, f"{time() * 1e6:.0f}", str(orders or 0), str(rate), answers)
        command = ("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", SCRIPT, url + PATH, "--", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + ENDS_WITHIN, check=False)
    return parse(done.stdout + done.stderr)


def paced(url: str, kind: str, *, rate: float, seconds: int) -> dict[str, float]:
    """Posts so many events a second; by the id of each event, `monotonic()` of its 200."""
    with tempfile.NamedTemporaryFile("r") as answers:
        run(url, kind, connections=PACED_CONNECTIONS, seconds=seconds, rate=rate, answers=answers.name)
        return {event: float(at) for event, at in map(str.split, answers)}


def parse(output: str) -> Load:
    """The load that wrk's output describes.

    Raises:
        ValueError: it describes none.
    """
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if line is None:
        raise ValueError(f"wrk said no result: {output[-500:]!r}")
    return Load(**json.loads(line))


def post(url: str, kind: str) -> str | None:
    """Posts one event; gives the answer's `Event-Id`, if it has one.

    Raises:
        ValueError: it was not answered 200.
    """
    connection = HTTPConnection(urlsplit(url).netloc)
    connection.request("POST", PATH, filled_in(body_for(kind, run_id=token_hex(4))), HEADERS)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != SUCCESS:
        raise ValueError(f"{url} answered {answer.status} to an event.")
    return answer.headers["Event-Id"]


def request_for(kind: str, *, run_id: str, later: bool = False) -> bytes:
    """A request with `PLACES` to fill in, which make it one of its own.

    Args:
        run_id: 8 hex digits, different for each run.
        later: Whether its order is stored already.
    """
    body = body_for(kind, run_id=run_id, later=later)
    fields = {**HEADERS, "Content-Length": len(filled_in(body))}
    lines = (f"POST {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", "")
    return "\r\n".join(lines).encode() + body


def body_for(kind: str, *, run_id: str, later: bool = False) -> bytes:
    """Its body."""
    body = (PROJECT / "tests" / "payloads" / f"{SAMPLES[kind][later]}.json").read_bytes()
    for pattern, filled in FILLED.items():
        body = re.sub(pattern, filled.replace(b"<run>", run_id.encode()), body)
    return body


def filled_in(request: bytes) -> bytes:
    """With something of the right length in its places."""
    for place, something in PLACES.items():
        request = request.replace(place, something)
    return request

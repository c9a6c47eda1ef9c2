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
PAYLOADS = PROJECT / "tests" / "payloads"
KINDS = {"notification": "01-notification-order-create", "order": "08-order-payload-confirmed"}
LATER = {"notification": "04-notification-redemption", "order": "10-order-payload-cancelled"}
"""What comes of an order that is stored already."""

PATH = "/webhooks/prioticket"
SUCCESS = 200
USERNAME = "prioticket"
PASSWORD = "a-secret-that-only-the-benchmark-knows"  # noqa: S105 - of servers that live for a minute on the loopback
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
NEW_REFERENCE = '"PRI" .. number'
STORED_REFERENCE = 'string.format("PRI%%016.0f", math.random(0, %d))'

SCRIPT = """
local n, time = %(first)d, nil
math.randomseed(n)
function request()
  n = n + 1
  if not time or n %% 100 == 0 then time = os.date("!%%Y-%%m-%%dT%%H:%%M:%%S+00:00") end
  local number = string.format("%%016.0f", n)
  local reference = %(reference)s
  return %(request)s
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %%d, "failed": %%d, "broken": %%d, "seconds": %%.6f, "p50_ms": %%.3f, "p99_ms": %%.3f}\\n',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""
PACED = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } now_t; int clock_gettime(int clock, now_t *now);")
local clock, due = ffi.new("now_t"), nil
local function now()
  ffi.C.clock_gettime(1, clock)
  return tonumber(clock.s) + tonumber(clock.ns) / 1e9
end
function delay()
  due = (due or now()) + 1 / %(rate)f
  return math.max(0, math.floor((due - now()) * 1000))
end
local answers = io.open("%(answers)s", "w")
function response(status, headers)
  if status == 200 then
    answers:write(headers["event-id"] or headers["Event-Id"], string.format(" %%.6f\\n", now()))
  end
end
"""
"""Sends on a schedule, however long the answers take, and notes which event was answered when (CLOCK_MONOTONIC)."""


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

    @property
    def rate(self) -> float:
        """Acknowledged events a second."""
        return self.acknowledged / self.seconds


def run(url: str, kind: str, *, connections: int, seconds: int, orders: int | None = None) -> Load:
    """Posts events of a kind for some seconds, on each connection the next as soon as one is answered.

    Args:
        orders: How many orders are stored that the events may be about; None for an order of its own for each.
    """
    return parse(_wrk(url, script_for(kind, orders=orders), connections, seconds))


def paced(url: str, kind: str, *, rate: float, seconds: int) -> dict[str, float]:
    """Posts so many events a second; by the id of each event, `monotonic()` of its 200."""
    with tempfile.NamedTemporaryFile("r") as answers:
        script = script_for(kind) + PACED % {"rate": rate, "answers": answers.name}
        _wrk(url, script, PACED_CONNECTIONS, seconds)
        return {event: float(at) for event, at in map(str.split, answers)}


def post(url: str, kind: str) -> str | None:
    """Posts one event; gives the answer's `Event-Id`, if it has one.

    Raises:
        ValueError: it was not answered 200.
    """
    request = request_for(kind, run_id=token_hex(4))
    head, _, body = _filled_in(request).partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    connection = HTTPConnection(urlsplit(url).netloc)
    connection.request("POST", PATH, body, fields)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != SUCCESS:
        raise ValueError(f"{url} answered {answer.status} to an event.")
    return answer.headers["Event-Id"]


def parse(output: str) -> Load:
    """The load that wrk's output describes.

    Raises:
        ValueError: it describes none.
    """
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if line is None:
        raise ValueError(f"wrk said no result: {output[-500:]!r}")
    return Load(**json.loads(line))


def payload(kind: str, *, later: bool = False) -> bytes:
    """The sample that the bodies are made from."""
    return (PAYLOADS / f"{(LATER if later else KINDS)[kind]}.json").read_bytes()


def request_for(kind: str, *, run_id: str, later: bool = False) -> bytes:
    """A request with `PLACES` to fill in, which make it one of its own.

    Args:
        run_id: 8 hex digits, different for each run.
        later: Whether its order is stored already.
    """
    body = payload(kind, later=later)
    for pattern, filled in FILLED.items():
        body = re.sub(pattern, filled.replace(b"<run>", run_id.encode()), body)
    credential = b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Prioticket\r\n"
        f"Accept: application/json\r\nContent-Type: application/json\r\nAuthorization: Basic {credential}\r\n"
        f"Content-Length: {len(_filled_in(body))}\r\n\r\n"
    )
    return head.encode() + body


def script_for(kind: str, *, orders: int | None = None) -> str:
    """The script for wrk. It joins ready pieces, as wrk's own function would format every header for each request.

    The numbers begin with the microsecond, so that references rise from run to run as real ones do.
    """
    request = _lua(request_for(kind, run_id=token_hex(4), later=orders is not None))
    for place in PLACES:
        request = request.replace(_lua(place)[1:-1], f'" .. {place.decode()[1:-1]} .. "')
    reference = NEW_REFERENCE if orders is None else STORED_REFERENCE % (orders - 1)
    return SCRIPT % {"first": time() * 1e6, "request": request, "reference": reference}


def _filled_in(request: bytes) -> bytes:
    for place, something in PLACES.items():
        request = request.replace(place, something)
    return request


def _lua(text: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in text) + '"'


def _wrk(url: str, script: str, connections: int, seconds: int) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", file.name, url + PATH)
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + ENDS_WITHIN, check=False)
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout

"""The generator: many connections that post unique events as fast as they are answered, in a process of its own.

wrk where it is installed, since it takes the least of the processors that the server needs too; otherwise
`python -m bench.load`. Both print one line of JSON, whose fields are those of `Load`.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from pathlib import Path
from secrets import token_hex
from time import perf_counter
from urllib.parse import urlsplit

import httptools
import uvloop

PROJECT = Path(__file__).parent.parent
PAYLOADS = PROJECT / "tests" / "payloads"
KINDS = {"notification": "01-notification-order-create", "order": "08-order-payload-confirmed"}
NOTIFICATION_ID = b"7c0a4a52-31f4-4a0e-9d1e-5f3b0f6a1c01"
REFERENCE = b"PRI26081200417"
USERNAME = "prioticket"
PASSWORD = "a-secret-that-only-the-benchmark-knows"  # noqa: S105 - of servers that live for a minute on the loopback
NUMBER = b"<number>"
DIGITS = 12
SUCCESS = 200
ENDS_WITHIN = 60.0  # seconds beyond the run itself

SCRIPT = """
local parts = {%(parts)s}
local last = #parts
local n = 0
function request()
  n = n + 1
  local number = string.format("%%0%(digits)dd", n)
  if last == 2 then return parts[1] .. number .. parts[2] end
  return parts[1] .. number .. parts[2] .. number .. parts[3]
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %%d, "failed": %%d, "broken": %%d, "seconds": %%.6f, "p50_ms": %%.3f, "p99_ms": %%.3f}\\n',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run was answered.

    Attributes:
        requests: Answers of any kind.
        failed: Those that were not 200.
        broken: Connections that failed, and with wrk answers that took over two seconds.
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


def run(url: str, kind: str, *, connections: int, seconds: float, wrk: str | None = None) -> Load:
    """Posts events of a kind for some seconds; `wrk` names the program, and None takes our own generator."""
    if wrk is None:
        own = [sys.executable, "-m", "bench.load", url, kind, str(connections), str(seconds)]
        return parse(_output(own, seconds))
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(script_for(kind, run_id=token_hex(4)))
        script.flush()
        # wrk counts whole seconds only.
        duration = f"{ceil(seconds)}s"
        return parse(_output([wrk, "-t1", f"-c{connections}", f"-d{duration}", "-s", script.name, url], seconds))


def find_wrk() -> str | None:
    """Where wrk is installed."""
    return shutil.which("wrk")


def parse(output: str) -> Load:
    """The load that a generator's output describes.

    Raises:
        ValueError: it describes none.
    """
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if line is None:
        raise ValueError(f"the generator said no result: {output[-500:]!r}")
    return Load(**json.loads(line))


def payload(kind: str) -> bytes:
    """The sample that the bodies are made from."""
    return (PAYLOADS / f"{KINDS[kind]}.json").read_bytes()


def request_parts(kind: str, *, run_id: str) -> list[bytes]:
    """A request in pieces, between which a number of `DIGITS` digits makes it one of its own.

    Args:
        run_id: 8 hex digits, different for each run.
    """
    identity = run_id.encode()
    body = payload(kind)
    if kind == "notification":
        body = body.replace(NOTIFICATION_ID, identity + NOTIFICATION_ID[8:24] + NUMBER)
        body = body.replace(REFERENCE, b"PRI" + NUMBER)
    else:
        body = body.replace(REFERENCE, b"PRI" + identity + NUMBER)
    length = len(body) - body.count(NUMBER) * (len(NUMBER) - DIGITS)
    head = (
        "POST /webhooks/prioticket HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Prioticket\r\n"
        f"Accept: application/json\r\nContent-Type: application/json\r\nAuthorization: Basic {_credential()}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    return (head.encode() + body).split(NUMBER)


def script_for(kind: str, *, run_id: str) -> str:
    """The script for wrk. It joins ready pieces, as wrk's own function would format every header for each request."""
    parts = ", ".join(_lua(part) for part in request_parts(kind, run_id=run_id))
    return SCRIPT % {"parts": parts, "digits": DIGITS}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _lua(part: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in part) + '"'


def _credential() -> str:
    return b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()


def _output(command: list[str], seconds: float) -> str:
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=seconds + ENDS_WITHIN, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


@dataclass
class _Answers:
    """Of all connections together."""

    milliseconds: list[float] = field(default_factory=list)
    failed: int = 0
    broken: int = 0


class _Sender(asyncio.Protocol):
    """One connection, which posts again as soon as it is answered."""

    def __init__(self, parts: list[bytes], numbers: "count[int]", answers: _Answers, until: float) -> None:
        self._parts = parts
        self._numbers = numbers
        self._answers = answers
        self._until = until
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # TCP's
        self._post()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.ended.done():
            self._answers.broken += perf_counter() < self._until
            self.ended.set_result(None)

    def on_message_complete(self) -> None:
        """Notes the answer, as httptools calls it."""
        now = perf_counter()
        if now < self._until:
            self._answers.milliseconds.append((now - self._sent) * 1000)
            self._answers.failed += self._parser.get_status_code() != SUCCESS
            self._post()

    def stop(self) -> None:
        """Ends the connection, whatever is under way, as wrk does."""
        if not self.ended.done():
            self.ended.set_result(None)
        self._transport.abort()

    def _post(self) -> None:
        number = b"%0*d" % (DIGITS, next(self._numbers))
        self._sent = perf_counter()
        self._transport.write(number.join(self._parts))


async def _generate(url: str, kind: str, connections: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    where = urlsplit(url)
    host, port = where.hostname or "", where.port or 80
    parts, numbers, answers = request_parts(kind, run_id=token_hex(4)), count(1), _Answers()
    started = perf_counter()
    until = started + seconds
    opened = [
        loop.create_connection(lambda: _Sender(parts, numbers, answers, until), host, port) for _ in range(connections)
    ]
    senders = [sender for _, sender in await asyncio.gather(*opened)]
    await asyncio.sleep(until - perf_counter())
    for sender in senders:
        sender.stop()
    return Load(
        requests=len(answers.milliseconds),
        failed=answers.failed,
        broken=answers.broken,
        seconds=seconds,
        p50_ms=percentile(answers.milliseconds, 0.5),
        p99_ms=percentile(answers.milliseconds, 0.99),
    )


def _main(url: str, kind: str, connections: str, seconds: str) -> None:
    load = uvloop.run(_generate(url, kind, int(connections), float(seconds)))
    sys.stdout.write(json.dumps({name: getattr(load, name) for name in Load.__slots__}) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""The bare commit: one event after the other through the receiver's own writer, without HTTP.

`python -m bench.commit DATABASE_URL KIND SECONDS` prints the times as a line of JSON, as the generator does.
"""

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from time import perf_counter

import uvloop

from app.database.engines import is_sqlite
from app.events.ids import new_id
from app.events.postgres import PostgresWriter
from app.events.sqlite import SQLiteWriter
from app.events.store import NewEvent, Row, Writer
from app.prioticket.payloads import Payload, parse_payload
from bench.load import PROJECT, Load, parse, payload, percentile

HEADERS = b"host: 127.0.0.1\r\nuser-agent: Prioticket\r\naccept: application/json\r\ncontent-type: application/json"
TIMEOUT = timedelta(seconds=5)


def run(url: str, kind: str, *, seconds: float) -> Load:
    """Commits for some seconds in a process of its own."""
    command = [sys.executable, "-m", "bench.commit", url, kind, str(seconds)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise RuntimeError(f"bench.commit failed: {done.stderr[-1000:]}")
    return parse(done.stdout)


async def _commit(url: str, kind: str, seconds: float) -> Load:
    writer: Writer = SQLiteWriter(url) if is_sqlite(url) else PostgresWriter(url, timeout=TIMEOUT)
    body = payload(kind)
    parsed = parse_payload(body)
    await writer.write([Row(_event(body, parsed))])  # connects
    taken: list[float] = []
    started = perf_counter()
    while perf_counter() - started < seconds:
        row = Row(_event(body, parsed))
        before = perf_counter()
        await writer.write([row])
        taken.append((perf_counter() - before) * 1000)
        await asyncio.sleep(0)
    elapsed = perf_counter() - started
    await writer.close()
    p50, p99 = percentile(taken, 0.5), percentile(taken, 0.99)
    return Load(requests=len(taken), failed=0, broken=0, seconds=elapsed, p50_ms=p50, p99_ms=p99)


def _event(body: bytes, parsed: Payload) -> NewEvent:
    event_id = new_id()
    return NewEvent(
        id=event_id,
        received_at=datetime.now(UTC),
        client="prioticket",
        headers=HEADERS,
        body=body,
        body_bytes=len(body),
        dedup_key=sha256(event_id.bytes).digest()[:16],
        **parsed._asdict(),
    )


def _main(url: str, kind: str, seconds: str) -> None:
    load = uvloop.run(_commit(url, kind, float(seconds)))
    sys.stdout.write(json.dumps({name: getattr(load, name) for name in Load.__slots__}) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])

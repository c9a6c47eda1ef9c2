"""What the receiver notices of a million old events being deleted, and how fast they go."""

import asyncio
import json
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from statistics import mean
from time import monotonic, sleep

import asyncpg

from app.database import engines
from app.events.ids import id_floor
from bench import filling
from bench.databases import opened, stored_bytes
from bench.load import PROJECT
from bench.measured import Measured, measured
from bench.plan import COMPARED, Run
from bench.processes import environment

AGE = "1d"
LOOK_EVERY = 0.1  # seconds
SLICES = 5
"""How often the load is measured alone, and how often beside `priohook prune`."""

NOTE = (
    "`priohook prune` deletes events with a delivery each while the receiver takes as many as it can. Beside: the "
    "receiver's rate meanwhile, of that before and after. Then the load ends, and `prune --fast` deletes for a while."
)
DELIVERED = """
INSERT INTO deliveries (id, event_id, destination, status, finished_at, attempts, first_started_at, first_status)
SELECT id, id, 'consumer', 'delivered', received_at, 1, received_at, 200 FROM events
"""


def measure(run: Run) -> None:
    """Fills the table Prune."""
    filling.require_disk(run.folder, 2 * len(run.both) * run.plan.pruned)
    table = run.results.table("Prune", NOTE, ("database", "events"))
    for each in run.both:
        run.say(f"pruning {run.plan.pruned:,} events on {each.name}")
        url = each.create("prune")
        filling.fill(url, run.plan.pruned)
        _execute(url, DELIVERED, "DELETE FROM undispatched")
        before, floor = stored_bytes(url), datetime.now(UTC) - timedelta(days=1)
        old = _old(url, floor)
        with measured(run, "receiver", each, url, counted=False) as receiver:
            alone = _rate(run, receiver)
            pruning = _pruning(url)
            while _old(url, floor) == old and pruning.poll() is None:  # it plans, which is not what is measured
                sleep(LOOK_EVERY)
            began, first = monotonic(), _old(url, floor)
            beside = _rate(run, receiver)
            still_there, took = _old(url, floor), monotonic() - began
            pruning.terminate()
            pruning.wait()
            alone = (alone + _rate(run, receiver)) / 2  # other work on the machine may come and go
        fast = _fast(url, floor, run.plan.fast_seconds)
        figures = {
            "receiver beside": beside / alone,
            "deleted/s under load": (first - still_there) / took,
            "deleted/s with --fast": fast,
            "MB before": before / 1e6,
            "MB after": stored_bytes(url) / 1e6,
        }
        table.add((each.name, run.plan.pruned), figures)


def _pruning(url: str, *options: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "app", "prune", "--json", *options],
        cwd=PROJECT,
        env=environment(url) | {"PRIOHOOK_RETENTION": json.dumps({"accepted": AGE})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _fast(url: str, floor: datetime, seconds: int) -> float:
    """How many events a second `--fast` deletes, from the first one that goes."""
    there = _old(url, floor)
    pruning = _pruning(url, "--fast")
    while (left := _old(url, floor)) == there and pruning.poll() is None:
        sleep(LOOK_EVERY)
    began = monotonic()
    sleep(seconds)
    gone, took = left - _old(url, floor), monotonic() - began
    pruning.terminate()
    pruning.wait()
    return gone / took


def _rate(run: Run, receiver: Measured) -> float:
    rates = [receiver.run("notification", COMPARED, run.plan.prune_seconds)["events/s"] for _ in range(SLICES)]
    return mean(rates)


def _old(url: str, floor: datetime) -> int:
    """How many events are older than that."""
    lowest = id_floor(floor)
    if engines.is_sqlite(url):
        with closing(opened(url)) as connection:
            query = "SELECT count(*) FROM events WHERE id < ?"
            return int(connection.execute(query, (lowest.bytes,)).fetchone()[0])
    return asyncio.run(_count(url, "SELECT count(*) FROM events WHERE id < $1", lowest))


def _execute(url: str, *statements: str) -> None:
    if engines.is_sqlite(url):
        with closing(opened(url)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        return
    for statement in (*statements, "VACUUM ANALYZE"):
        asyncio.run(_run(url, statement))


async def _run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def _count(url: str, query: str, *values: object) -> int:
    connection = await asyncpg.connect(url)
    number = int(await connection.fetchval(query, *values))
    await connection.close()
    return number

"""What the receiver notices of a million old events being deleted, and how fast they go."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from statistics import mean
from time import monotonic, sleep

from app.events.ids import id_floor
from bench import filling
from bench.databases import count, execute, stored_bytes
from bench.measured import Measured, measured
from bench.plan import COMPARED, Run
from bench.processes import started

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
        execute(url, DELIVERED, "DELETE FROM undispatched")
        floor = id_floor(datetime.now(UTC) - timedelta(days=1))
        if each is run.postgresql:
            execute(url, "VACUUM ANALYZE")
        rows = f"events WHERE id < '{floor}'" if each is run.postgresql else f"events WHERE id < X'{floor.hex}'"
        before = stored_bytes(url)
        with measured(run, "receiver", each, url, counted=False) as receiver:
            alone = _rate(run, receiver)
            with _pruning(url, rows) as first:
                began = monotonic()
                beside = _rate(run, receiver)
                still_there, took = count(url, rows), monotonic() - began
            alone = (alone + _rate(run, receiver)) / 2  # other work on the machine may come and go
        with _pruning(url, rows, "--fast") as left:
            began = monotonic()
            sleep(run.plan.fast_seconds)
            fast = (left - count(url, rows)) / (monotonic() - began)
        figures = {
            "receiver beside": beside / alone,
            "deleted/s under load": (first - still_there) / took,
            "deleted/s with --fast": fast,
            "MB before": before / 1e6,
            "MB after": stored_bytes(url) / 1e6,
        }
        table.add((each.name, run.plan.pruned), figures)


@contextmanager
def _pruning(url: str, rows: str, *options: str) -> Iterator[int]:
    """`priohook prune`, from when the first rows are gone: its plan is not measured. Gives how many are left then."""
    there = count(url, rows)
    settings = {"RETENTION": json.dumps({"accepted": AGE})}
    command = ("app", "prune", "--json", *options)
    with started(command, url, settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as pruning:
        while (left := count(url, rows)) == there and pruning.poll() is None:
            sleep(LOOK_EVERY)
        yield left


def _rate(run: Run, receiver: Measured) -> float:
    return mean(receiver.run("notification", COMPARED, run.plan.prune_seconds)["events/s"] for _ in range(SLICES))

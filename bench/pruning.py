"""What the receiver notices of a million old events being deleted, and how fast they go."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from statistics import mean
from time import monotonic, sleep

from app.events.ids import id_floor
from bench import databases
from bench.databases import Database
from bench.goals import COMPARED
from bench.measured import Measured, measured
from bench.processes import started
from bench.run import Run

AGE = timedelta(days=1)
LOOK_EVERY = 0.1  # seconds
SLICES = 5
"""How often the load is measured alone, and how often beside `priohook prune`."""

PRUNE = (
    "`priohook prune` deletes events with a delivery each while the receiver takes as many as it can. Beside: the "
    "receiver's rate meanwhile, of that before and after. Then the load ends, and `prune --fast` deletes for a while."
)
DELIVERED = """
INSERT INTO deliveries (id, event_id, destination, status, finished_at, attempts, first_started_at, first_status)
SELECT id, id, 'consumer', 'delivered', received_at, 1, received_at, 200 FROM events
"""


def prune(run: Run) -> None:
    """Fills the table Prune."""
    table = run.results.table("Prune", PRUNE, "database", "events")
    for where in databases.KINDS:
        database = run.create(where, events=run.plan.waiting)
        database.execute(DELIVERED, "DELETE FROM undispatched", "VACUUM" if where == "sqlite" else "VACUUM ANALYZE")
        floor = id_floor(datetime.now(UTC) - AGE)
        rows = "events WHERE id < " + (f"X'{floor.hex}'" if where == "sqlite" else f"'{floor}'")
        before = database.stored_bytes()
        with measured(run, "receiver", database, counted=False) as receiver:
            alone = _rate(run, receiver)
            with _pruning(database, rows) as first:
                began = monotonic()
                beside = _rate(run, receiver)
                still_there, took = database.count(rows), monotonic() - began
            alone = (alone + _rate(run, receiver)) / 2  # other work on the machine may come and go
        with _pruning(database, rows, "--fast") as left:
            began = monotonic()
            sleep(15 * run.plan.seconds)
            fast = (left - database.count(rows)) / (monotonic() - began)
        figures = {
            "receiver beside": beside / alone,
            "deleted/s under load": (first - still_there) / took,
            "deleted/s with --fast": fast,
            "MB before": before / 1e6,
            "MB after": database.stored_bytes() / 1e6,
        }
        table.add((where, run.plan.waiting), figures)


@contextmanager
def _pruning(database: Database, rows: str, *options: str) -> Iterator[int]:
    """`priohook prune`, from when the first rows are gone: its plan is not measured. Gives how many are left then."""
    there = database.count(rows)
    settings = {"RETENTION": json.dumps({"accepted": f"{AGE.days}d"})}
    command = ("app", "prune", "--json", *options)
    with started(command, database.url, settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as pruning:
        while (left := database.count(rows)) == there and pruning.poll() is None:
            sleep(LOOK_EVERY)
        yield left


def _rate(run: Run, receiver: Measured) -> float:
    slices = (receiver.run("notification", COMPARED, 3 * run.plan.seconds) for _ in range(SLICES))
    return mean(figures["events/s"] for figures in slices)

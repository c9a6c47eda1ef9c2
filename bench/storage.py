"""What an event takes on disk, and what is written for it."""

from bench import databases
from bench.load import KINDS
from bench.measured import measured
from bench.plan import COMPARED, Run
from bench.processes import written_bytes

NOTE = (
    f"Of events that came over {COMPARED} connections, with all indexes and the row by which each waits for dispatch. "
    "What SQLite wrote is the log and the checkpoints; what PostgreSQL wrote is its WAL."
)
COUNTED = ("rows inserted", "rows updated", "transactions")


def measure(run: Run) -> None:
    """Fills the table Storage."""
    table = run.results.table("Storage", NOTE, ("database", "body"))
    for each in run.both:
        for kind in KINDS:
            run.say(f"the storage of {kind}s on {each.name}")
            url = each.create(f"storage_{kind}")
            empty = databases.stored_bytes(url)
            with measured(run, "receiver", each, url, warm=False) as receiver:
                before, costs = written_bytes(receiver.target.pid), each.costs(url)
                first = databases.count(url)
                receiver.post(kind, COMPARED, run.plan.storage_seconds)
                written = written_bytes(receiver.target.pid) - before
            events = databases.count(url)
            now = each.costs(url)
            found = {f"{name}/event": (now[name] - costs[name]) / (events - first) for name in COUNTED if costs}
            if costs:
                written = now["WAL bytes"] - costs["WAL bytes"]
            stored = {"bytes stored/event": (databases.stored_bytes(url) - empty) / events}
            table.add((each.name, kind), {**stored, "bytes written/event": written / (events - first), **found})

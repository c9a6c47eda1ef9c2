"""What the receiver acknowledges if millions of events are stored already."""

from contextlib import ExitStack
from itertools import product

from bench import filling
from bench.load import KINDS
from bench.measured import measured
from bench.plan import COMPARED, Run

NOTE = (
    f"Under {COMPARED} connections. What was stored before has small bodies (58 bytes). New references are those of "
    "new orders. Stored references are random ones of the events that are there: redemptions and cancellations."
)


def measure(run: Run) -> None:
    """Fills the table Growth; a database of each size is there at once, and they are measured in turn.

    Raises:
        NotEnoughDisk: before anything is filled.
    """
    filling.require_disk(run.folder, len(run.both) * sum(run.plan.growth))
    table = run.results.table("Growth", NOTE, ("database", "body", "references", "stored before"))
    for each in run.both:
        with ExitStack() as stack:
            targets = {}
            for rows in run.plan.growth:
                run.say(f"{rows:,} events on {each.name}")
                url = each.create(f"growth_{rows}")
                filling.fill(url, rows)
                targets[rows] = stack.enter_context(measured(run, "receiver", each, url))
            for kind, references in product(KINDS, ("new", "stored")):
                for _ in range(run.plan.repetitions):
                    found = {}
                    for rows, target in targets.items():
                        orders = filling.orders(rows or max(targets)) if references == "stored" else None
                        found[rows] = target.run(kind, COMPARED, run.plan.seconds, orders=orders)
                    for rows, figures in found.items():
                        figures["of none"] = figures["events/s"] / found[0]["events/s"]
                        table.add((each.name, kind, references, rows), figures)

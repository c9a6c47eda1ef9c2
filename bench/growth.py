"""What the receiver acknowledges where millions of events are stored already."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import databases
from bench.databases import Databases
from bench.plan import COMPARED, Plan
from bench.samples import Key, Results, Samples
from bench.throughput import Say, measured


def measure(
    plan: Plan, kinds_of: Sequence[Databases], folder: Path, results: Results, *, wrk: str | None, say: Say
) -> None:
    """Fills `results.growth`; a database of each size is there at once, and they are measured in turn.

    Raises:
        NotEnoughDisk: before anything is filled.
    """
    databases.require_disk(folder, len(kinds_of) * sum(plan.growth))
    results.growth.update({rows: Samples() for rows in plan.growth})
    for each in kinds_of:
        with ExitStack() as stack:
            targets = {}
            for rows in plan.growth:
                say(f"{rows:,} events on {each.name}")
                url = each.create(f"growth_{rows}")
                databases.fill(url, rows)
                targets[rows] = stack.enter_context(measured(plan, "receiver", each, url, wrk=wrk))
            for kind in plan.kinds:
                for _ in range(plan.repetitions):
                    for rows, target in targets.items():
                        sample = target.run(kind, COMPARED, plan.seconds)
                        results.growth[rows].add(Key("receiver", each.name, kind, COMPARED), sample)
            for rows, target in targets.items():
                problem = target.problem()
                if problem:
                    results.problems.append(f"{rows:,} events on {each.name}: {problem}")

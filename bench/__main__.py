"""`python -m bench`: measures, and writes `results.md` and `results.json`."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

from bench import (
    backlog,
    databases,
    deliveries,
    growth,
    instructions,
    machine,
    memory,
    prune,
    receivers,
    report,
    soak,
    storage,
    throughput,
)
from bench.plan import FULL, QUICK, SOAK_SECONDS, Plan, Run
from bench.results import Results

PARTS: dict[str, Callable[[Run], None]] = {
    "throughput": throughput.measure,
    "growth": growth.measure,
    "storage": storage.measure,
    "receivers": receivers.measure,
    "memory": memory.measure,
    "deliveries": deliveries.measure,
    "backlog": backlog.measure,
    "idle": backlog.measure_idle,
    "prune": prune.measure,
    "soak": soak.measure,
}
INSTRUCTIONS = "Of the receiver's process for one event, layer by layer, without the system's and without a database."
NEEDED = {
    "wrk": "apt-get install wrk, or brew install wrk",
    "fastapi": "pip install -r bench/requirements.txt",
}


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 if an acknowledged event is not stored, or a count does not add up."""
    if arguments[:1] == ["instructions"]:
        return instructions.main(arguments[1:])
    parser = _parser()
    given = parser.parse_args(arguments)
    parts = given.parts or [part for part in PARTS if part != "soak"]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    for name, remedy in NEEDED.items():
        if not (shutil.which(name) or find_spec(name)):
            parser.error(f"{name} is not installed: {remedy}")
    plan = QUICK if given.quick else FULL
    if given.soak_seconds:
        plan = replace(plan, soak_seconds=given.soak_seconds)
    output = given.output or (Path(tempfile.gettempdir(), "priohook-bench") if given.quick else Path(__file__).parent)
    output.mkdir(parents=True, exist_ok=True)
    return 1 if measure(plan, parts, output) else 0


def measure(plan: Plan, parts: Sequence[str], output: Path) -> list[str]:
    """Measures the parts and writes the results after each; gives the problems."""
    started = monotonic()

    def say(what: str) -> None:
        sys.stderr.write(f"{monotonic() - started:4.0f} s  {what}\n")

    results = Results() if plan.rough else Results.load(output / "results.json")
    _show_instructions(results)
    with databases.started() as (folder, sqlite, postgresql):
        run = Run(plan=plan, folder=folder, sqlite=sqlite, postgresql=postgresql, results=results, say=say)
        found = machine.calibration(folder) | machine.versions(postgresql.version())
        toast = postgresql.toast()
        for part in parts:
            busy = os.getloadavg()[0]
            PARTS[part](run)
            for table in results.tables.values():
                if not table.measured:
                    table.toast = toast
                    table.measured = (
                        f"Measured on {datetime.now(UTC):%Y-%m-%d}, medians of {plan.repetitions}: "
                        f"{', '.join(found[name] for name in machine.SHORT)}; load average before it {busy:.1f}; "
                        f"PostgreSQL's bodies {toast}."
                    )
            results.save(output / "results.json")
            page = report.markdown(results, machine=found, verdicts=not plan.rough)
            (output / "results.md").write_text(page)
    for problem in results.problems:
        say(f"PROBLEM: {problem}")
    say(f"the results are in {output / 'results.md'}")
    return results.problems


def _show_instructions(results: Results) -> None:
    """Fills the table Instructions with those that are recorded."""
    table = results.table("Instructions", INSTRUCTIONS, ("layer", "body"))
    table.measured = "Recorded by `python -m bench instructions --record`."
    for layer, by_kind in json.loads(instructions.RECORDED.read_text()).items():
        for kind, thousands in by_kind.items():
            table.add((layer, kind), {"thousands": thousands})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; default all but soak")
    parser.add_argument("--quick", action="store_true", help="a few minutes, too rough for verdicts")
    parser.add_argument(
        "--soak-seconds", type=int, metavar="N", help=f"how long soak takes on each database; default {SOAK_SECONDS}"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: the folder bench, with --quick a temporary one"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

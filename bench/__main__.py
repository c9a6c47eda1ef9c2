"""`python -m bench`: measures, and writes `results.md`."""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from bench import databases, deliveries, growth, instructions, machine, memory, receivers, report, throughput
from bench.plan import FULL, QUICK, Run
from bench.results import Results

PARTS: dict[str, Callable[[Run], None]] = {
    "throughput": throughput.measure,
    "growth": growth.measure,
    "receivers": receivers.measure,
    "memory": memory.measure,
    "deliveries": deliveries.measure,
}


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 if an acknowledged event is not stored, or a count does not add up."""
    if arguments[:1] == ["instructions"]:
        return instructions.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; default all")
    parser.add_argument("--quick", action="store_true", help="a few minutes, and rougher")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, metavar="FOLDER", help="default: the folder bench"
    )
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if not shutil.which("wrk"):
        parser.error("wrk, which makes the load, is not installed: apt-get install wrk, or brew install wrk")
    started = monotonic()

    def say(what: str) -> None:
        sys.stderr.write(f"{monotonic() - started:4.0f} s  {what}\n")

    plan, results = QUICK if given.quick else FULL, Results()
    with databases.started() as (folder, sqlite, postgresql):
        run = Run(plan=plan, folder=folder, sqlite=sqlite, postgresql=postgresql, results=results, say=say)
        found = machine.calibration(folder) | machine.versions(postgresql.version())
        for part in given.parts or PARTS:
            PARTS[part](run)
    given.output.mkdir(parents=True, exist_ok=True)
    page = given.output / "results.md"
    page.write_text(report.markdown(results, plan, now=datetime.now(UTC), machine=found))
    for problem in results.problems:
        say(f"PROBLEM: {problem}")
    say(f"the results are in {page}")
    return 1 if results.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

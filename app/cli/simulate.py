"""The command `priohook simulate`."""

import asyncio
import signal
import sys
from datetime import UTC, datetime
from secrets import randbelow
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.cli.credentials import URL, credentials, webhook_url
from app.cli.output import cell, say, say_json
from app.cli.simulated_api import SERVING_NAMES, serve_api, serving, serving_options
from app.simulator.requests import Mixture, requests
from app.simulator.sending import RETRY_PAUSES, Plan, Simulation, Unreachable

DEFAULT_COUNT = 100
SHARE = click.FloatRange(0, 1)
SENDING_NAMES = ("url", "user", "seconds", "connections", "bad", "retry")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@click.command()
@click.argument("url", default=URL)
@click.option(
    "--user", metavar="USERNAME:SECRET", help="The credentials to use; by default those of a configured client."
)
@click.option("--count", type=click.IntRange(1), help=f"Events to send; {DEFAULT_COUNT} unless --seconds is given.")
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), help="How long to send.")
@click.option("--rate", type=click.FloatRange(0.01, 100_000), help="Requests a second; by default as many as possible.")
@click.option(
    "--connections", default=8, show_default=True, type=click.IntRange(1, 1000), help="How many requests run at once."
)
@click.option(
    "--shape",
    default="mixed",
    show_default=True,
    type=click.Choice(("notification", "order", "both", "mixed")),
    help="What each body holds.",
)
@click.option("--duplicates", default=0.0, type=SHARE, help="Share of events that are sent twice, from 0 to 1.")
@click.option(
    "--out-of-order",
    default=0.0,
    type=SHARE,
    help="Share of events that are sent after the next event of their order, from 0 to 1.",
)
@click.option("--bad", default=0.0, type=SHARE, help="Share of events that are followed by a bad request, from 0 to 1.")
@click.option(
    "--retry",
    is_flag=True,
    help=f"Send again what got a wrong answer: Prioticket's seven days in {sum(RETRY_PAUSES):.0f} seconds.",
)
@serving_options
@click.option("--seed", type=int, help="The same seed sends the same bodies on the same day.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
def simulate(*, url: str, user: str | None, seed: int | None, as_json: bool, **options: Any) -> None:
    """Send made-up orders as Prioticket does, from the first notification to the gate. Exit 1 if an answer is wrong.

    With --serve, answer as Prioticket's API instead, and send to the webhooks that are registered there.
    """
    _check_given(options)
    seed = randbelow(10**6) if seed is None else seed
    if options["serve"]:
        serve_api(serving(seed=seed, **options), as_json=as_json)
        return
    options = {name: value for name, value in options.items() if name not in SERVING_NAMES}
    mixture = Mixture(**{name: options.pop(name) for name in ("shape", "duplicates", "out_of_order", "bad")})
    if options["count"] is None and options["seconds"] is None:
        options["count"] = DEFAULT_COUNT
    username, password = credentials(user)
    plan = Plan(url=webhook_url(url), username=username, password=password, **options)
    try:
        result = asyncio.run(_run(plan, mixture, seed))
    except Unreachable as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        say_json({"seed": seed, **result})
    else:
        _print(result, seed)
    sys.exit(1 if result["unexpected"] else 0)


def _check_given(options: dict[str, Any]) -> None:
    """Refuses options that would change nothing."""
    context = click.get_current_context()
    useless = SENDING_NAMES if options["serve"] else SERVING_NAMES
    for option in context.command.params:
        if option.name in useless and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            needed = "cannot be used with" if options["serve"] else "needs"
            raise click.UsageError(
                f"{option.opts[-1].upper() if option.name == 'url' else option.opts[-1]} {needed} --serve."
            )
    if options["serve"] and options["shape"] == "notification":
        raise click.UsageError("With --serve, register a webhook with --no-payload to get notifications alone.")


async def _run(plan: Plan, mixture: Mixture, seed: int) -> dict[str, Any]:
    columns = (TextColumn("events"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("events", total=plan.count)
        day = datetime.now(UTC).replace(hour=8, minute=0, second=0, microsecond=0)
        stream = requests(mixture, seed=seed, day=day)
        simulation = Simulation(plan, stream, progress=lambda: bar.advance(task))
        loop = asyncio.get_running_loop()

        def end() -> None:
            simulation.end()
            for number in SIGNALS:  # a second signal ends the process at once
                loop.remove_signal_handler(number)

        for number in SIGNALS:
            loop.add_signal_handler(number, end)
        await simulation.run()
    return simulation.tally.as_json()


def _print(result: dict[str, Any], seed: int) -> None:
    table = Table(box=None, pad_edge=False)
    statuses = sorted({status for answers in result["sent"].values() for status in answers})
    table.add_column("sent")
    for status in ("", *statuses):
        table.add_column(status or "all", justify="right")
    for kind, answers in result["sent"].items():
        numbers = (str(answers.get(status, "")) for status in statuses)
        table.add_row(kind, str(sum(answers.values())), *numbers)
    console = Console()
    console.print(table)
    latency = "  ".join(f"{name} {value:g}" for name, value in result["latency_ms"].items())
    say(f"\nstored events     {result['events']}")
    say(f"quarantined       {result['quarantined']}")
    say(f"sent again        {result['retries']}")
    say(f"latency, ms       {latency}")
    say(f"seed              {seed}")
    say(f"wrong answers     {result['unexpected']}")
    for example in result["examples"]:
        say(f"  {cell(example)}")

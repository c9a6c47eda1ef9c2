"""`priohook`: the group of all commands, and how they fail: one sentence on standard error and exit status 1."""

import sys
from typing import Any

import click

from app.cli import failures
from app.cli.lazy import LazyGroup
from app.cli.output import say
from app.cli.streams import open_streams
from app.telemetry.printing import printable

COMMANDS = {
    "check": ("app.cli.check:check_", "Ask a deployed endpoint all that it promises, and say what differs."),
    "clients": ("app.cli.clients:clients", "Who may come in."),
    "deliveries": ("app.cli.deliveries:deliveries", "See what was delivered where, try again, give up."),
    "destinations": ("app.cli.destinations:destinations", "See where events go, pause and resume."),
    "events": ("app.cli.events:events", "See what arrived, and release what was refused."),
    "keys": ("app.cli.keys:keys", "What signs tokens."),
    "migrate": ("app.cli.migrate:migrate", "Bring the database's schema up to this release."),
    "replay": (
        "app.cli.replays:replay",
        "Deliver stored events again, in the order of arrival for each reference; live events go first.",
    ),
    "replays": ("app.cli.replays:replays", "See and control bulk replays."),
    "secrets": ("app.cli.secrets:secrets", "What signs deliveries."),
    "serve": (
        "app.cli.serve:serve",
        "Receive webhooks, and deliver them, until SIGTERM, then finish what was begun and exit 0.",
    ),
    "settings": ("app.cli.settings:settings", "Print every setting: value, unit, source and meaning."),
    "simulate": (
        "app.cli.simulate:simulate",
        "Send what Prioticket sends: orders from their first notification to the gate.",
    ),
    "worker": (
        "app.cli.worker:worker",
        "Deliver events to the destinations until SIGTERM, then finish what is under way and exit 0.",
    ),
}


class _Commands(LazyGroup):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:  # it may quote what a stranger sent
            error.message = printable(error.message, keep="\n")  # type: ignore[misc] # all errors pass here only
            raise


@click.group(cls=_Commands, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="priohook", message="priohook %(version)s")
def priohook() -> None:
    """The webhook receiver between Prioticket and your own systems."""


def main() -> None:
    """Runs the command line and ends the process: 0, 1 (it failed) or 2 (usage)."""
    open_streams()
    try:
        priohook(prog_name="priohook")
    except Exception as error:
        sentence = failures.sentence(error)
        if sentence is None:
            raise
        say(f"priohook: {sentence}", err=True)
        sys.exit(1)

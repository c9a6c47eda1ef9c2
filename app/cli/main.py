"""`priohook`, the group of all commands. One that fails prints a sentence on standard error and exits with 1."""

import sys
from typing import Any

import click

from app.cli import failures
from app.cli.lazy import LazyGroup
from app.cli.output import say
from app.cli.streams import open_streams
from app.telemetry.printing import printable

COMMANDS = {
    "alarms": ("app.cli.alarms:alarms", "List which alarms fire, and try the channels that are told."),
    "audit": ("app.cli.audit:audit", "List who did what, and verify that nobody changed it."),
    "backup": (
        "app.cli.backup:backup",
        "Copy a SQLite database to FILE while it is in use. On PostgreSQL: check that its log is archived.",
    ),
    "bench": ("app.cli.bench:bench", "Measure how much this machine can take, from a clone."),
    "check": ("app.cli.check:check_", "Check a deployed endpoint against everything it promises."),
    "clients": ("app.cli.clients:clients", "Make credentials for clients, and list the clients."),
    "deliveries": ("app.cli.deliveries:deliveries", "List, group, show, retry and drop deliveries."),
    "destinations": ("app.cli.destinations:destinations", "List, pause, resume, test and remove destinations."),
    "erase": ("app.cli.erase:erase", "Erase what stored events hold of a person, for ever."),
    "events": ("app.cli.events:events", "List, show and export events, and release quarantined ones."),
    "keys": ("app.cli.keys:keys", "Make a key that signs tokens."),
    "listen": (
        "app.cli.listen:listen",
        "Post events of a receiver to URL on this machine as they are committed, in order, until Ctrl-C.",
    ),
    "migrate": ("app.cli.migrate:migrate", "Bring the database's schema up to this release."),
    "move": (
        "app.cli.move:move",
        "Move all that is in the SQLite file to the PostgreSQL database DATABASE_URL, while events are received.",
    ),
    "orders": ("app.cli.orders:orders", "Show what arrived of an order, and what became of it."),
    "prioticket": (
        "app.cli.prioticket:prioticket",
        "Register webhooks at Prioticket, and show orders as Prioticket has them.",
    ),
    "prune": (
        "app.cli.prune:prune_",
        "Delete what is older than the setting retention says, as a worker does hourly, and show the space on disk.",
    ),
    "reconcile": (
        "app.cli.reconcile:reconcile",
        "Ask Prioticket which orders changed, and fetch those whose webhooks never arrived.",
    ),
    "refusals": ("app.cli.refusals:refusals", "List which requests were refused, from where and why."),
    "replay": (
        "app.cli.replays:replay",
        "Deliver stored events again, for each reference in the order of arrival. Live events go first.",
    ),
    "replays": ("app.cli.replays:replays", "List, show, pause, resume and cancel replays."),
    "restore": (
        "app.cli.backup:restore",
        "Put the backup FILE in the place of a SQLite database. Nothing is sent until destinations are resumed.",
    ),
    "secrets": ("app.cli.secrets:secrets", "Make a secret that signs deliveries."),
    "serve": (
        "app.cli.serve:serve",
        "Receive and deliver webhooks until SIGTERM, then finish what was begun and exit 0.",
    ),
    "settings": ("app.cli.settings:settings", "Print every setting: value, unit, source and meaning."),
    "simulate": (
        "app.cli.simulate:simulate",
        "Send made-up orders as Prioticket does, from the first notification to the gate.",
    ),
    "spool": ("app.cli.spool:spool", "List and move events that wait in files of the spool."),
    "status": ("app.cli.status:status", "Show on one screen whether all is well, or what is wrong and what to type."),
    "worker": (
        "app.cli.worker:worker",
        "Deliver events to the destinations until SIGTERM, then finish what is under way and exit 0.",
    ),
}


class _Commands(LazyGroup):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:  # it may quote text from outside
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

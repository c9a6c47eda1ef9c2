"""The commands under `priohook audit`."""

from typing import Any

import click
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.alarms.words import counted
from app.api.audit import shown_entry
from app.audit.chain import Broken, Link, Verified
from app.audit.chain import verify as verify_chain
from app.audit.queries import AuditFilter, list_entries
from app.audit.tables import Action, Channel, Kind
from app.cli.filters import Moment
from app.cli.ids import Id
from app.cli.opened import read
from app.cli.output import print_json_lines, say
from app.cli.tables import print_rows
from app.events.tables import Event

SHOWN = ("position", "at", "client", "action", "kind", "target", "reason")


class Expected(click.ParamType[Link]):
    """A position and a hash, as `priohook audit verify` prints them."""

    name = "position:hash"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Link:
        if isinstance(value, Link):
            return value
        position, _, digits = value.partition(":")
        try:
            return Link(int(position), bytes.fromhex(digits))
        except ValueError:
            self.fail(f"{value!r} is not a position and a hash, such as 41:9f86….", param, ctx)


@click.group()
def audit() -> None:
    """List who did what, and verify that nobody changed it."""


@audit.command(name="list")
@click.option("--action", type=click.Choice([str(each) for each in Action]))
@click.option("--kind", type=click.Choice([str(each) for each in Kind]), help="Only actions on things of this kind.")
@click.option("--target", help="Only actions on what has this id or name.")
@click.option("--event", "event_id", type=Id(Event.id, "event"), help="Only actions that concerned this event alone.")
@click.option("--reference", help="Only actions that concerned this order alone.")
@click.option("--client", help="Only actions of this client, or of this user@host.")
@click.option("--channel", type=click.Choice([str(each) for each in Channel]), help="Only actions that came this way.")
@click.option("--since", type=Moment(), help="Only actions at this time or later: 2026-08-12, 24h, 7d.")
@click.option("--until", type=Moment(), help="Only actions before this time.")
@click.option("--before", type=int, help="Only actions before this position: the last one of a list continues it.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, before: int | None, limit: int, as_json: bool, **narrowing: Any) -> None:
    """List actions, newest first."""
    rows = read(list_entries, AuditFilter(**narrowing), limit=limit, before=before)
    listed = (shown_entry(row) for row in rows)
    if as_json:
        print_json_lines(listed)
    else:
        print_rows(map(dict, listed), SHOWN)


@audit.command()
@click.option("--expect", "expected", type=Expected(), help="What an earlier run printed, or a log line has: 41:9f86….")
def verify(*, expected: Link | None) -> None:
    """Verify that no action was changed, added in between or removed. Keep the last hash elsewhere, for --expect."""
    try:
        verified = read(_verified, expected)
    except Broken as error:
        raise click.ClickException(f"The audit was changed. {error}") from None
    if verified.last is None:
        say("The audit is empty.")
        return
    say(f"The audit holds: {counted(verified.rows, 'action')}, from position {verified.first} on.\n{verified.last}")


async def _verified(connection: AsyncConnection, expected: Link | None) -> Verified:
    """As of one moment: rows that retention deletes meanwhile are not missing."""
    if connection.dialect.name == "sqlite":
        await connection.execute(text("BEGIN"))
    else:
        await connection.execution_options(isolation_level="REPEATABLE READ")
    return await verify_chain(connection, expected=expected)

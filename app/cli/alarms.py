"""The commands under `priohook alarms`."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime

import click

from app.alarms.channels import Pinging, Untold, open_channel
from app.alarms.kept import listed_alarms
from app.alarms.notices import trial
from app.cli.opened import load_settings, read
from app.cli.output import print_json_lines, say
from app.cli.tables import print_rows
from app.events.ids import new_id
from app.settings.alarms import AlarmChannel

SHOWN = ("id", "kind", "subject", "name", "started_at", "ended_at", "what", "command")
ON_TERMINAL = ("kind", "subject", "started_at", "ended_at", "what")


@click.group()
def alarms() -> None:
    """List which alarms fire, and try the channels that are told."""


@alarms.command(name="list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, limit: int, as_json: bool) -> None:
    """List the alarms that fire, then those that ended within 30 days, the last to start first."""
    listed = [asdict(each) for each in read(listed_alarms, limit=limit)]
    if as_json:
        print_json_lines(listed)
    else:
        print_rows(listed, SHOWN, on_terminal=ON_TERMINAL)


@alarms.command()
@click.argument("channel")
def test(channel: str) -> None:
    """Tell CHANNEL a test message, or send its ping. Exit 1 if that fails."""
    channels = load_settings().alarm_channels
    if channel not in channels:
        known = f": {', '.join(sorted(channels))}" if channels else "; no channel is there"
        raise click.UsageError(f"{channel} is not one of alarm_channels in the settings{known}.")
    try:
        asyncio.run(_try(channels[channel]))
    except Untold as error:
        raise click.ClickException(f"{channel} was not told. {error}") from None
    say(f"{channel} was told.")


async def _try(settings: AlarmChannel) -> None:
    now = datetime.now(UTC)
    if settings.ping is not None:
        pinging = Pinging(settings)
        try:
            await pinging.ping()
        finally:
            await pinging.close()
        return
    channel = open_channel(settings)
    try:
        await channel.tell(trial(new_id(), now=now), now=now)
    finally:
        await channel.close()

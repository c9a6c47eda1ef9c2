"""The commands under `priohook destinations`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from app.api.destinations import DestinationShown, shown_destinations
from app.cli.deliveries import apply_to_all, confirm, count
from app.cli.opened import changing, load_settings, reading
from app.cli.output import print_json_lines, print_rows, say
from app.deliveries import operations
from app.deliveries.dispatch import register
from app.deliveries.operations import NobodyKnows, NotDone
from app.deliveries.queries import ListedDestination, list_destinations
from app.settings.model import DestinationSettings
from app.settings.values import masked

SHOWN = ("name", "state", "pending", "due", "in_flight", "dead", "oldest_pending_at", "url", "events")


@click.group()
def destinations() -> None:
    """List, pause, resume and remove destinations."""


@destinations.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, as_json: bool) -> None:
    """List destinations and their queues, including destinations that are no longer in the settings."""
    now, configured = datetime.now(UTC), load_settings().destinations
    rows = asyncio.run(_known(now))
    listed = shown_destinations(rows, configured)
    if as_json:
        print_json_lines(listed)
        return
    urls = {row.name: row.url for row in rows} | {name: settings.url for name, settings in configured.items()}
    print_rows((_shown(each, urls[each.name], configured.get(each.name), now) for each in listed), SHOWN)


@destinations.command()
@click.argument("name")
@click.option("--reason", default="An operator paused it.", help="Why it is paused; lists show it.")
def pause(name: str, *, reason: str) -> None:
    """Stop sending to a destination. Its deliveries wait."""
    asyncio.run(_change(operations.pause, name, reason=reason))
    say(f"{name} is paused. `priohook destinations resume {name}` resumes it.")


@destinations.command()
@click.argument("name")
def resume(name: str) -> None:
    """Send to a destination again, at once. Its back-offs and circuit breaker are reset."""
    asyncio.run(_change(operations.resume, name))
    say(f"{name} is resumed.")


@destinations.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Drop pending deliveries without asking.")
def remove(name: str, *, yes: bool) -> None:
    """Forget a destination that is no longer in the settings. Its pending deliveries are dropped, all stay listed."""
    if name in load_settings().destinations:
        raise click.UsageError(f"{name} is in the settings. Remove it there first, and restart what uses them.")
    if pending := asyncio.run(count(name, "pending")):
        confirm(f"Drop {pending} pending deliveries to {name} and forget it?", yes=yes)
        dropped = apply_to_all(operations.drop_pending, name)
        say(f"Pending deliveries to {name} that were dropped: {dropped}.")
    asyncio.run(_remove(name))
    say(f"{name} is forgotten. `priohook deliveries list --destination {name}` still lists its deliveries.")


async def _remove(name: str) -> None:
    try:
        async with changing() as connection:
            await operations.remove(connection, name)
    except NotDone as error:
        raise click.ClickException(f"{error} End what goes on and try again.") from None


async def _known(now: datetime) -> Sequence[ListedDestination]:
    async with reading() as connection:
        return await list_destinations(connection, now=now)


def _shown(
    destination: DestinationShown, url: str | None, settings: DestinationSettings | None, now: datetime
) -> dict[str, Any]:
    return {
        **dict(destination),
        "state": _state(destination, known=url is not None, now=now),
        "url": masked(url or ""),
        "events": " ".join(settings.events) if settings else "",
    }


def _state(destination: DestinationShown, *, known: bool, now: datetime) -> str:
    if destination.paused_at is not None:
        return f"paused since {destination.paused_at:%Y-%m-%d %H:%M}: {destination.paused_reason}"
    if not known:
        return "not configured"
    if destination.probe_at is not None:
        probe = destination.probe_at
        when = f"tries again at {probe:%H:%M:%S}" if probe > now else "tries again now"
        return f"{destination.failures} failures since {destination.failing_since:%Y-%m-%d %H:%M}, {when}"
    return "ready"


async def _change(operation: Callable[..., Awaitable[None]], name: str, **values: Any) -> None:
    settings, now = load_settings(), datetime.now(UTC)
    try:
        async with changing() as connection:
            if (
                name in settings.destinations
            ):  # registers it, since a worker may not have started since it was configured
                await register(connection, [name], now=now)
            await operation(connection, name, now=now, **values)
    except NobodyKnows as error:
        what = str(error).rstrip(".")
        raise click.ClickException(f"{what}: `priohook destinations list` shows their names.") from None

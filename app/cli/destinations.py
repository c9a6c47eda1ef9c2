"""The commands under `priohook destinations`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import click
from sqlalchemy.ext.asyncio import AsyncConnection

from app.alarms.words import counted
from app.api.destinations import DestinationShown, all_destinations
from app.api.standings import TrialShown
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.cli.batches import apply_to_all, count
from app.cli.confirming import confirm
from app.cli.filters import giving_reason
from app.cli.opened import acting, change, load_settings, opened, read
from app.cli.output import print_fields, print_json_lines, say, say_json, short_id
from app.cli.tables import print_rows
from app.database.clock import shared_time
from app.deliveries import operations
from app.deliveries.destination_queries import count_undispatched, destination_urls
from app.deliveries.met import met
from app.deliveries.operations import NobodyKnows, NotDone
from app.deliveries.registering import register
from app.deliveries.stuck import Stuck
from app.deliveries.trial import Trial, send_test
from app.settings.model import DestinationSettings
from app.settings.urls import masked
from app.telemetry.printing import printable

SHOWN = ("name", "state", "pending", "due", "in_flight", "dead", "oldest_pending_at", "url", "events")
ON_TERMINAL = ("name", "state", "pending", "in_flight", "dead", "oldest_pending_at")


@click.group()
def destinations() -> None:
    """List, pause, resume, test and remove destinations."""


@destinations.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, as_json: bool) -> None:
    """List destinations and their queues, including destinations that are no longer in the settings.

    Of many events only the next ones become deliveries; how many others wait is printed to standard error.
    """
    now, configured = datetime.now(UTC), load_settings().destinations
    listed = read(all_destinations, configured)
    undispatched = read(count_undispatched)
    if as_json:
        print_json_lines(listed)
    else:
        urls = read(destination_urls) | {name: settings.url for name, settings in configured.items()}
        shown = (_shown(each, urls[each.name], configured.get(each.name), now) for each in listed)
        print_rows(shown, SHOWN, on_terminal=ON_TERMINAL)
    if undispatched:
        say(f"Events that have no deliveries yet: {undispatched}.", err=True)


@destinations.command()
@click.argument("name")
@click.option("--reason", default="An operator paused it.", help="Why it is paused; lists show it.")
def pause(name: str, *, reason: str) -> None:
    """Stop sending to a destination. Its deliveries wait."""
    _change(
        Act(action=Action.PAUSE, kind=Kind.DESTINATION, target=name, reason=reason), operations.pause, reason=reason
    )
    say(f"{name} is paused. `priohook destinations resume {name}` resumes it.")


@destinations.command()
@click.argument("name")
@giving_reason
def resume(name: str, *, reason: str | None) -> None:
    """Send to a destination again, at once. Its back-offs and circuit breaker are reset."""
    _change(Act(action=Action.RESUME, kind=Kind.DESTINATION, target=name, reason=reason), operations.resume)
    say(f"{name} is resumed.")


@destinations.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@giving_reason
def test(name: str, *, as_json: bool, reason: str | None) -> None:
    """Send a test event to a destination now, signed like a real one. It is not stored, and not tried again.

    Its type is PRIOHOOK_TEST, and it has the header Priohook-Test: true. This process sends it, beside the queue, also
    while the destination is paused. Exits with 1 if the destination does not take it.
    """
    configured = load_settings().destinations
    if name not in configured:
        known = ", ".join(configured) or "none"
        raise click.UsageError(f"There is no destination {name} in the settings. Known destinations: {known}.")
    trial = asyncio.run(
        _tested(configured[name], Act(action=Action.TEST, kind=Kind.DESTINATION, target=name, reason=reason))
    )
    shown = TrialShown.of(trial)
    if as_json:
        say_json(shown)
    else:
        print_fields({field: value for field, value in shown if field != "answer"})
        if shown.answer:
            say(printable(shown.answer, keep="\n\t"))
    sys.exit(0 if trial.succeeded else 1)


async def _tested(settings: DestinationSettings, act: Act) -> Trial:
    async with opened(load_settings()) as engine, acting(engine, act):
        pass  # that it is sent is recorded first; no transaction is open while it is
    return await send_test(settings, now=datetime.now(UTC))


@destinations.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Drop pending deliveries without asking.")
@giving_reason
def remove(name: str, *, yes: bool, reason: str | None) -> None:
    """Forget a destination that is no longer in the settings. Pending deliveries are dropped; all stay listed."""
    if name in load_settings().destinations:
        raise click.UsageError(f"{name} is in the settings. Remove it there first, and restart what uses them.")
    if pending := count(name, "pending"):
        confirm(f"Drop {counted(pending, 'pending delivery', 'pending deliveries')} to {name} and forget it?", yes=yes)
        act = Act(action=Action.DROP, kind=Kind.DESTINATION, target=name, reason=reason)
        dropped = apply_to_all(act, operations.drop_pending, name, total=pending)
        say(f"Pending deliveries to {name} that were dropped: {dropped}.")
    try:
        act = Act(action=Action.REMOVE, kind=Kind.DESTINATION, target=name, reason=reason)
        change(act, operations.remove, name)
    except NotDone as error:
        raise click.ClickException(f"{error} Try again when that has ended.") from None
    say(f"{name} is forgotten. `priohook deliveries list --destination {name}` still lists its deliveries.")


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
    return _failing(destination.stuck[0], destination.failing) if destination.stuck else "ready"


def _failing(first: Stuck, number: int) -> str:
    whose = f"{first.reference} is" if first.reference else "a delivery is"
    by = f"{whose} held back since {first.since:%Y-%m-%d %H:%M} by {short_id(first.delivery_id)}"
    why = met(first.last_status, first.last_error)
    more = f"; {number - 1} more" if number > 1 else ""
    return f"failing: {by} ({why or first.last_result}){more}"


def _change(act: Act, operation: Callable[..., Awaitable[None]], **values: Any) -> None:
    name = act.target or ""
    configured = load_settings().destinations

    async def registered(connection: AsyncConnection) -> None:
        now = await shared_time(connection)
        if name in configured:  # a worker may not have started since it was configured
            await register(connection, [name], now=now)
        await operation(connection, name, now=now, **values)

    try:
        change(act, registered)
    except NobodyKnows as error:
        what = str(error).rstrip(".")
        raise click.ClickException(f"{what}: `priohook destinations list` shows their names.") from None

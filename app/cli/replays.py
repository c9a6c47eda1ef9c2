"""The commands `priohook replay` and `priohook replays`."""

import sys
from datetime import UTC, datetime
from math import ceil
from typing import Any
from uuid import UUID

import click
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.alarms.words import counted
from app.api.plans import DEFAULT_RATE, FASTEST, SLOWEST, PlanShown, ReplayAnswer
from app.api.replays import ReplayShown
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.cli.confirming import confirm
from app.cli.filters import choosing_events, giving_reason, read_ids
from app.cli.following import CONTROLS, find, follow
from app.cli.ids import Id
from app.cli.opened import change, load_settings, read
from app.cli.output import cell, print_fields, print_json_lines, say, say_json
from app.cli.tables import print_rows
from app.database.clock import shared_time
from app.deliveries.plans import InQuarantine, NotReplayable, Plan
from app.deliveries.plans import plan as plan_replay
from app.deliveries.replay_queries import list_replays
from app.deliveries.replays import ReplayHasEnded, set_status, start
from app.deliveries.tables import Replay, ReplayStatus
from app.events.queries import EventFilter
from app.settings.model import DestinationSettings
from app.settings.urls import masked, short_name

SHOWN = (
    "id",
    "status",
    "destination",
    "events",
    "made",
    "pending",
    "dead",
    "delivered_or_dropped",
    "rate",
    "finished_at",
)
ON_TERMINAL = ("id", "status", "destination", "events", "made", "pending", "dead", "finished_at")
REPLAY_ID = Id(Replay.id, "replay")


@click.command()
@choosing_events
@click.option(
    "--ids",
    type=click.File(encoding="latin-1"),
    help="Instead of a filter: a file with one event id on each line; - for stdin.",
)
@click.option("--to", help="A destination's name, or a URL such as your laptop's; by default the only destination.")
@click.option(
    "--rate",
    default=DEFAULT_RATE,
    show_default=True,
    type=click.FloatRange(SLOWEST, FASTEST),
    help="Deliveries a second.",
)
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--detach", is_flag=True, help="On a terminal: do not follow the replay.")
@click.option(
    "--wait", is_flag=True, help="Follow the replay without a terminal too; exit 1 unless everything is delivered."
)
@giving_reason
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the plan, and the replay if one was started.")
def replay(
    *,
    ids: Any,
    to: str | None,
    rate: float,
    dry_run: bool,
    yes: bool,
    detach: bool,
    wait: bool,
    reason: str | None,
    as_json: bool,
    **narrowing: Any,
) -> None:
    """Deliver stored events again, for each reference in the order of arrival. Live events go first."""
    if detach and wait:
        raise click.UsageError("--detach and --wait cannot be used together.")
    name, url = _target(to)
    narrowed, chosen = EventFilter(**narrowing), read_ids(ids)
    if chosen is not None and narrowed != EventFilter():
        raise click.UsageError("--ids cannot be used together with other filters.")
    planned = _planned(narrowed, chosen)
    plan = PlanShown.model_validate(planned)
    answer = ReplayAnswer(to=name, seconds=planned.events / rate, plan=plan, replay=None)
    if as_json and (dry_run or not planned.events):
        say_json(answer)
    elif not as_json:
        _print_plan(planned, name, rate)
    if dry_run or not planned.events:
        return
    confirm(f"Replay {counted(planned.events, 'event')} to {name}?", yes=yes)
    now = datetime.now(UTC)
    act = Act(action=Action.REPLAY, kind=Kind.REPLAY, reference=narrowed.reference, reason=reason)
    act.details = {"to": name, "events": planned.events}

    async def started(connection: AsyncConnection) -> UUID:
        replay_id = await start(
            connection, narrowed, ids=chosen, destination=name, url=url, rate=rate, planned=planned, now=now
        )
        act.target = str(replay_id)
        return replay_id

    replay_id = change(act, started)
    if as_json:
        answer.replay = ReplayShown.model_validate(find(replay_id))
        say_json(answer)
    else:
        say(f"Replay {replay_id} is running.")
    if wait or (sys.stderr.isatty() and not detach and not as_json):
        follow(replay_id)
    elif not as_json:
        say(CONTROLS.format(replay_id))


@click.group()
def replays() -> None:
    """List, show, pause, resume and cancel replays."""


@replays.command(name="list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, limit: int, as_json: bool) -> None:
    """List replays, newest first."""
    listed = (ReplayShown.model_validate(row) for row in read(list_replays, limit=limit))
    if as_json:
        print_json_lines(listed)
    else:
        print_rows((replay.model_dump() for replay in listed), SHOWN, on_terminal=ON_TERMINAL)


@replays.command()
@click.argument("replay_id", metavar="ID", type=REPLAY_ID)
@click.option("--follow", "followed", is_flag=True, help="Follow the replay to its end, with a progress bar.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(replay_id: UUID, *, followed: bool, as_json: bool) -> None:
    """Show how far a replay is."""
    shown = ReplayShown.model_validate(find(replay_id))
    if as_json:
        say_json(shown)
    else:
        print_fields(shown.model_dump())
    if followed:
        follow(replay_id)


@replays.command()
@click.argument("replay_id", metavar="ID", type=REPLAY_ID)
@giving_reason
def pause(replay_id: UUID, *, reason: str | None) -> None:
    """Make no more deliveries until the replay is resumed. Those already made are sent."""
    _set(replay_id, Action.PAUSE, ReplayStatus.PAUSED, reason=reason)
    say(f"Replay {replay_id} is paused.")


@replays.command()
@click.argument("replay_id", metavar="ID", type=REPLAY_ID)
@giving_reason
def resume(replay_id: UUID, *, reason: str | None) -> None:
    """Go on with a paused replay."""
    _set(replay_id, Action.RESUME, ReplayStatus.RUNNING, reason=reason)
    say(f"Replay {replay_id} is resumed.")


@replays.command()
@click.argument("replay_id", metavar="ID", type=REPLAY_ID)
@giving_reason
def cancel(replay_id: UUID, *, reason: str | None) -> None:
    """End a replay. Its pending deliveries are dropped, except those that are being sent."""
    _set(replay_id, Action.CANCEL, ReplayStatus.CANCELLED, reason=reason)
    say(f"Replay {replay_id} is cancelled.")


def _target(to: str | None) -> tuple[str, str | None]:
    """The destination's name, and its URL if it is not in the settings. A name is logged, so it has no password."""
    known = load_settings().destinations
    if to is None:
        if len(known) != 1:
            names = ", ".join(sorted(known)) or "none"
            raise click.UsageError(f"Give a destination with --to. Configured destinations: {names}.")
        return next(iter(known)), None
    if to in known:
        return to, None
    try:
        DestinationSettings(url=to)
    except ValidationError:
        names = ", ".join(sorted(known)) or "none"
        raise click.UsageError(
            f"{masked(to)} is neither a configured destination ({names}) nor a valid URL (http(s)://… or python:…)."
        ) from None
    return short_name(to), to


def _planned(narrowed: EventFilter, ids: list[UUID] | None) -> Plan:
    try:
        return read(plan_replay, narrowed, ids)
    except InQuarantine as error:
        what = str(error).rstrip(".")
        raise click.ClickException(f"{what}: release them first with `priohook events release`.") from None
    except NotReplayable as error:
        raise click.ClickException(str(error)) from None


def _set(replay_id: UUID, action: Action, status: ReplayStatus, *, reason: str | None) -> None:
    act = Act(action=action, kind=Kind.REPLAY, target=str(replay_id), reason=reason)

    async def was_set(connection: AsyncConnection) -> None:
        await set_status(connection, replay_id, status, now=await shared_time(connection))

    try:
        change(act, was_set)
    except ReplayHasEnded as error:
        raise click.ClickException(f"{str(error).rstrip('.')}: `priohook replay` starts a new one.") from None
    except NotReplayable as error:
        raise click.ClickException(str(error)) from None


def _print_plan(planned: Plan, name: str, rate: float) -> None:
    say(f"{counted(planned.events, 'event')} to {name}")
    for event_type, number in planned.types.items():
        say(f"  {number:>9}  {cell(event_type)}")
    if planned.events:
        say(f"oldest   {cell(planned.oldest)}\nnewest   {cell(planned.newest)}")
        say(f"takes    {_duration(planned.events / rate)} at {rate:g} a second")
    if planned.quarantined:
        say(f"Left out: {counted(planned.quarantined, 'quarantined event')}. What is released can be replayed.")
    if planned.erased:
        say(f"Left out: {counted(planned.erased, 'erased event')}. Nothing is left to deliver.")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"

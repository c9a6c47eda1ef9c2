"""Follows a replay to its end, on a terminal with a progress bar, and then prints its result."""

import asyncio
import sys
from datetime import UTC, datetime
from time import monotonic
from uuid import UUID

import click
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.alarms.words import counted
from app.cli.opened import load_settings, opened, read
from app.cli.output import cell, say
from app.cli.progress import progress_bar
from app.deliveries.destination_queries import list_destinations
from app.deliveries.replay_queries import ListedReplay, get_replay
from app.deliveries.tables import ReplayStatus

CONTROLS = "`priohook replays show --follow {0}` follows it; `replays pause {0}` and `replays cancel {0}` stop it."
LOOK_EVERY = 0.25  # seconds
NOTHING_MOVES = 5.0  # seconds without progress before it says why; longer for slow replays


def follow(replay_id: UUID) -> None:
    """Returns when everything is delivered. Exits with 1 if not everything was, or on Ctrl-C."""
    try:
        row = asyncio.run(_ended(replay_id))
    except KeyboardInterrupt:
        say(f"\nReplay {replay_id} goes on without this command. {CONTROLS.format(replay_id)}", err=True)
        sys.exit(1)
    made = counted(row.made, "delivery", "deliveries")
    say(f"Replay {replay_id} is {row.status}: {made} made, {row.dead} of them dead.", err=True)
    if row.dead:
        say(f"`priohook deliveries list --replay {replay_id} --status dead` lists them.", err=True)
    if row.dead or row.status != ReplayStatus.DONE:
        sys.exit(1)


def find(replay_id: UUID) -> ListedReplay:
    """The replay.

    Raises:
        click.ClickException: there is none.
    """
    return read(_get, replay_id)


async def _ended(replay_id: UUID) -> ListedReplay:
    async with opened(load_settings()) as engine:
        with progress_bar() as bar:
            task = bar.add_task("replay")
            seen, moved_at, told = (-1, ""), monotonic(), False
            while True:
                async with engine.connect() as connection:
                    row = await _get(connection, replay_id)
                done = row.made - row.pending
                bar.update(task, total=row.events, completed=done, description=row.status)
                if row.status in (ReplayStatus.DONE, ReplayStatus.CANCELLED):
                    return row
                if (done, row.status) != seen:
                    seen, moved_at, told = (done, row.status), monotonic(), False
                elif not told and monotonic() - moved_at > NOTHING_MOVES + 2 / row.rate:
                    told = True
                    bar.console.print(cell(await _why(engine, row)), markup=False, highlight=False, soft_wrap=True)
                await asyncio.sleep(LOOK_EVERY)


async def _get(connection: AsyncConnection, replay_id: UUID) -> ListedReplay:
    row = await get_replay(connection, replay_id)
    if row is None:
        raise click.ClickException(f"There is no replay {replay_id}.")
    return row


async def _why(engine: AsyncEngine, replay: ListedReplay) -> str:
    """Why a replay makes no progress, and what to do."""
    if replay.status == ReplayStatus.PAUSED:
        return f"The replay is paused: `priohook replays resume {replay.id}` resumes it."
    now = datetime.now(UTC)
    async with engine.connect() as connection:
        rows = {row.name: row for row in await list_destinations(connection, now=now)}
    destination = rows[replay.destination]
    if destination.paused_at is not None:
        return f"{destination.name} is paused: `priohook destinations resume {destination.name}` resumes it."
    if destination.failures:
        return f"{destination.name} has failed {destination.failures} times in a row: see `priohook deliveries list`."
    return (
        "The replay makes no progress. Is a worker running? "
        "Start `priohook worker`, or `priohook serve` without --no-worker."
    )

"""The command `priohook events release`, apart from `priohook events list` because only it needs the receiver."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.alarms.words import counted
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.auth.first_clients import with_kept_clients
from app.cli.confirming import confirm
from app.cli.filters import Moment, giving_reason
from app.cli.ids import Id
from app.cli.opened import acting, load_settings, opened, read
from app.cli.output import cell, say
from app.cli.progress import progress_bar
from app.events.queries import get_summary
from app.events.tables import Event
from app.receiver.quarantine import QuarantineFilter, Reason, count_by_reason, oldest_quarantined
from app.receiver.release import NotReleased, Released
from app.receiver.release import release as release_event

AT_ONCE = 500
MOST_NAMED = 10


@dataclass
class _Done:
    """What became of the events."""

    accepted: int = 0
    copies: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=Id(Event.id, "event"))
@click.option("--status", type=click.IntRange(400, 499), help="Only events refused with this status, such as 415.")
@click.option("--because", metavar="TEXT", help="Only events with this text in the reason of their quarantine.")
@click.option("--client", help="Only events that this client sent.")
@click.option("--since", type=Moment(), help="Only events received at this time or later: 2026-08-12, 24h, 7d.")
@click.option("--until", type=Moment(), help="Only events received before this time.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@giving_reason
def release(*, ids: tuple[UUID, ...], dry_run: bool, yes: bool, reason: str | None, **narrowing: Any) -> None:
    """Judge quarantined events again by their bytes, and accept those that can be read.

    Give ids, or filters for all that match and were not judged yet; then the plan is shown first.
    """
    narrowed = QuarantineFilter(**narrowing)
    if bool(ids) == (narrowed != QuarantineFilter()) or (ids and dry_run):
        raise click.UsageError("Give either ids, or at least one of --status, --because, --client, --since, --until.")
    if ids:
        sys.exit(asyncio.run(_each(ids, why=reason)))
    reasons = read(count_by_reason, narrowed)
    _print_plan(reasons)
    total = sum(reason.events for reason in reasons)
    if dry_run or not total:
        return
    confirm(f"Judge {counted(total, 'event')} again?", yes=yes)
    done = _Done()
    with progress_bar() as bar:
        task = bar.add_task("release", total=total)
        asyncio.run(_all(narrowed, done, lambda: bar.advance(task), why=reason))
    say(f"Accepted: {done.accepted}. Copies of accepted ones: {done.copies}. Still refused: {done.refused.total()}.")
    for why, number in done.refused.most_common(MOST_NAMED):
        say(f"priohook: {counted(number, 'event')} still refused: {why}", err=True)
    sys.exit(1 if done.refused else 0)


async def _each(ids: tuple[UUID, ...], *, why: str | None) -> int:
    """Releases these events and says what became of each. Returns the exit status."""
    status = 0
    async with opened(load_settings()) as engine:
        for event_id in ids:
            try:
                released = await _release(engine, event_id, why=why)
            except NotReleased as refusal:
                say(f"Error: {refusal}", err=True)
                status = 1
            else:
                if released.duplicate:
                    say(f"It is a copy of event {released.id} and is now counted there.")
                else:
                    say(f"Event {released.id} is accepted.")
    return status


async def _all(narrowed: QuarantineFilter, done: _Done, advance: Callable[[], None], *, why: str | None) -> None:
    """Releases in the order of arrival, each event in a transaction of its own."""
    async with opened(load_settings()) as engine:
        async for event_id in _chosen(engine, narrowed):
            try:
                released = await _release(engine, event_id, why=why)
            except NotReleased as refusal:
                done.refused[str(refusal).replace(f"Event {event_id} ", "It ")] += 1
            else:
                done.copies += released.duplicate
                done.accepted += not released.duplicate
            advance()


async def _chosen(engine: AsyncEngine, narrowed: QuarantineFilter) -> AsyncIterator[UUID]:
    last = None
    while True:
        async with engine.connect() as connection:
            some = await oldest_quarantined(connection, narrowed, after=last, limit=AT_ONCE)
        for event_id in some:
            yield event_id
        if len(some) < AT_ONCE:
            return
        last = some[-1]


async def _release(engine: AsyncEngine, event_id: UUID, *, why: str | None) -> Released:
    try:
        return await _release_once(engine, event_id, why=why)
    except IntegrityError:  # a copy was accepted meanwhile; now it is found
        return await _release_once(engine, event_id, why=why)


async def _release_once(engine: AsyncEngine, event_id: UUID, *, why: str | None) -> Released:
    settings = with_kept_clients(load_settings())
    usernames = {name: client.username or name for name, client in settings.clients.items()}
    act = Act(action=Action.RELEASE, kind=Kind.EVENT, target=str(event_id), event_id=event_id, reason=why)
    async with acting(engine, act) as connection:
        limit, now = settings.max_released_bytes, datetime.now(UTC)
        released = await release_event(connection, event_id, usernames=usernames, limit=limit, now=now)
        shown = await get_summary(connection, event_id)
        act.reference = shown.reference if shown else None
        act.details = {"copy_of": str(released.id)} if released.duplicate else {}
    return released


def _print_plan(reasons: list[Reason]) -> None:
    say(f"{counted(sum(reason.events for reason in reasons), 'quarantined event')} not judged again yet")
    for reason in reasons:
        say(f"  {reason.events:>9}  {cell(reason.reason)}")
    if reasons:
        oldest, newest = min(each.oldest for each in reasons), max(each.newest for each in reasons)
        say(f"oldest   {cell(oldest)}\nnewest   {cell(newest)}")

"""The commands under `priohook events`."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click
from sqlalchemy import Row

from app.api.events import EventDetail, EventSummary
from app.auth.first_clients import with_kept_clients
from app.cli.filters import choosing_events
from app.cli.opened import changing, reading
from app.cli.output import cell, print_fields, print_json_lines, print_rows, say, say_json
from app.events.queries import EventFilter, get_event, list_events
from app.receiver.release import NotReleased, Released
from app.receiver.release import release as release_event
from app.settings.model import Settings

SHOWN = ("id", "received_at", "status", "type", "reference", "client", "duplicates")


@click.group()
def events() -> None:
    """See what arrived, and release what was refused."""


@events.command(name="list")
@choosing_events
@click.option("--before", type=click.UUID, help="Older than this event: the last id of a list continues it.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, before: UUID | None, limit: int, as_json: bool, **narrowing: Any) -> None:
    """List events, newest first."""
    rows = asyncio.run(_list(EventFilter(**narrowing), limit=limit, before=before))
    listed = (EventSummary.model_validate(row) for row in rows)
    if as_json:
        print_json_lines(listed)
    else:
        print_rows(map(dict, listed), SHOWN)


@events.command()
@click.argument("event_id", metavar="ID", type=click.UUID)
@click.option(
    "--body",
    "body_only",
    is_flag=True,
    help="Write the exact bytes that arrived; a terminal gets text.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, without the body.")
def show(event_id: UUID, *, body_only: bool, as_json: bool) -> None:
    """Show one event whole."""
    event = asyncio.run(_get(event_id))
    if event is None:
        raise click.ClickException(f"There is no event {event_id}.")
    if body_only:
        _write(event.body)
        return
    if as_json:
        say_json(EventDetail.model_validate(event))
        return
    print_fields(dict(EventSummary.model_validate(event)))
    say("headers")
    for name, value in event.headers:
        say(f"  {cell(name)}: {cell(value)}")
    say(f"\n{_readable(event.body)}")


@events.command()
@click.argument("event_id", metavar="ID", type=click.UUID)
def release(event_id: UUID) -> None:
    """Judge a quarantined event again, by its bytes alone; accept it if they can be read."""
    try:
        released = asyncio.run(_release(event_id))
    except NotReleased as refusal:
        raise click.ClickException(str(refusal)) from None
    if released.duplicate:
        say(f"It is a copy of event {released.id}, where it is counted now.")
    else:
        say(f"Event {released.id} is accepted.")


async def _list(narrowed: EventFilter, *, limit: int, before: UUID | None) -> Sequence[Row[Any]]:
    async with reading() as connection:
        return await list_events(connection, narrowed, limit=limit, before=before)


async def _get(event_id: UUID) -> Row[Any] | None:
    async with reading() as connection:
        return await get_event(connection, event_id)


async def _release(event_id: UUID) -> Released:
    settings = with_kept_clients(Settings.load())
    usernames = {name: client.username or name for name, client in settings.clients.items()}
    async with changing(settings) as connection:
        return await release_event(
            connection, event_id, usernames=usernames, limit=settings.max_body_bytes, now=datetime.now(UTC)
        )


def _write(body: bytes) -> None:
    if sys.stdout.isatty():
        say(_readable(body))
    else:
        sys.stdout.buffer.write(body)


def _readable(body: bytes) -> str:
    return body.decode("utf-8", "backslashreplace")

"""The commands under `priohook events`."""

from typing import Any
from uuid import UUID

import click
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.events import EventSummary, detail
from app.cli.filters import choosing_events
from app.cli.lazy import LazyGroup
from app.cli.opened import read
from app.cli.output import cell, print_fields, print_json_lines, print_rows, readable, say, say_json, write_body
from app.events.fetches import Outcome, outcome_of
from app.events.queries import EventFilter, WholeEvent, get_event, list_events

SHOWN = ("id", "received_at", "status", "type", "reference", "client", "duplicates")
RELEASE = (
    "app.cli.release:release",
    "Judge a quarantined event again by its bytes, and accept it if they can be read.",
)


@click.group(cls=LazyGroup, lazy={"release": RELEASE})
def events() -> None:
    """List and show events, and release quarantined ones."""


@events.command(name="list")
@choosing_events
@click.option("--before", type=click.UUID, help="Only older events than this one: the last id of a list continues it.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, before: UUID | None, limit: int, as_json: bool, **narrowing: Any) -> None:
    """List events, newest first."""
    rows = read(list_events, EventFilter(**narrowing), limit=limit, before=before)
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
    help="Write only the exact bytes that arrived; on a terminal, as text.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, without the body.")
def show(event_id: UUID, *, body_only: bool, as_json: bool) -> None:
    """Show one event with its headers and body."""
    event, outcome = read(_with_outcome, event_id)
    if event is None:
        raise click.ClickException(f"There is no event {event_id}.")
    if body_only:
        write_body(event.body)
        return
    if as_json:
        say_json(detail(event, outcome))
        return
    print_fields(dict(EventSummary.model_validate(event)))
    if outcome is not None:
        print_fields({f"fetch {name}": value for name, value in outcome._asdict().items()})
    say("headers")
    for name, value in event.headers:
        say(f"  {cell(name)}: {cell(value)}")
    say(f"\n{readable(event.body)}")


async def _with_outcome(connection: AsyncConnection, event_id: UUID) -> tuple[WholeEvent | None, Outcome | None]:
    return await get_event(connection, event_id), await outcome_of(connection, event_id)

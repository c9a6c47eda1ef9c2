"""The commands under `priohook events`."""

from typing import Any
from uuid import UUID

import click
from sqlalchemy.ext.asyncio import AsyncConnection

from app.alarms.words import counted, number
from app.api.events import EventSummary, detail
from app.audit.chain import Act
from app.audit.queries import AuditFilter, ListedEntry, list_entries
from app.audit.tables import Action, Kind
from app.cli.actions import MOST_ACTIONS, print_actions
from app.cli.filters import choosing_events, giving_reason
from app.cli.ids import Id
from app.cli.lazy import LazyGroup
from app.cli.opened import change, read
from app.cli.output import (
    cell,
    print_fields,
    print_json_lines,
    readable,
    say,
    say_json,
    say_nothing_matches,
    write_body,
)
from app.cli.tables import print_rows
from app.events.fetches import Outcome, outcome_of
from app.events.queries import (
    EventFilter,
    SummarizedEvent,
    WholeEvent,
    count_events,
    get_event,
    get_summary,
    list_events,
)
from app.events.tables import Event, Status

SHOWN = ("id", "received_at", "status", "type", "reference", "client", "duplicates")
ON_TERMINAL = ("id", "received_at", "type", "reference", "note")
RELEASE = (
    "app.cli.release:release",
    "Judge quarantined events again by their bytes, and accept those that can be read.",
)
EVENT_ID = Id(Event.id, "event")


EXPORT = (
    "app.cli.export:export",
    "Write events with their headers and bodies, the oldest first: one JSON object a line, or a tar.",
)


@click.group(cls=LazyGroup, lazy={"release": RELEASE, "export": EXPORT})
def events() -> None:
    """List, show and export events, and release quarantined ones."""


@events.command(name="list")
@choosing_events
@click.option("--before", type=EVENT_ID, help="Only older events than this one: the last id of a list continues it.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, before: UUID | None, limit: int, as_json: bool, **narrowing: Any) -> None:
    """List events, newest first."""
    narrowed = EventFilter(**narrowing)
    rows = read(list_events, narrowed, limit=limit, before=before)
    listed = [EventSummary.model_validate(row) for row in rows]
    if as_json:
        print_json_lines(listed)
    else:
        print_rows((dict(event) | {"note": _note(event)} for event in listed), SHOWN, on_terminal=ON_TERMINAL)
    if not listed and narrowed != EventFilter():
        say_nothing_matches("events", number(read(count_events, EventFilter())))


@events.command()
@click.argument("event_id", metavar="ID", type=EVENT_ID)
@click.option(
    "--body",
    "body_only",
    is_flag=True,
    help="Write only the exact bytes that arrived; on a terminal, as text.",
)
@giving_reason
@click.option("--json", "as_json", is_flag=True, help="One JSON object, without the body.")
def show(event_id: UUID, *, body_only: bool, reason: str | None, as_json: bool) -> None:
    """Show one event with its headers and body, and what was done with it. The audit keeps who read the body."""
    if as_json and not body_only:
        summary, outcome = read(_summary, event_id)
        if summary is None:
            raise click.ClickException(f"There is no event {event_id}.")
        say_json(detail(summary, outcome))
        return
    act = Act(action=Action.READ, kind=Kind.EVENT, target=str(event_id), event_id=event_id, reason=reason)

    async def found(connection: AsyncConnection) -> tuple[WholeEvent, Outcome | None, list[ListedEntry]]:
        event = await get_event(connection, event_id)
        if event is None:
            raise click.ClickException(f"There is no event {event_id}.")
        if body_only and event.erased_at is not None:
            raise click.ClickException(f"The body of event {event_id} was erased at {cell(event.erased_at)}.")
        act.reference = event.reference
        actions = await list_entries(connection, AuditFilter(event_id=event_id), limit=MOST_ACTIONS)
        return event, await outcome_of(connection, event_id), actions

    event, outcome, actions = change(act, found)
    if body_only:
        write_body(event.body)
        return
    print_fields(detail(event, outcome).model_dump(exclude={"headers", "fetch"}))
    if outcome is not None:
        print_fields({f"fetch {name}": value for name, value in outcome._asdict().items()})
    say("headers")
    for name, value in event.headers:
        say(f"  {cell(name)}: {cell(value)}")
    print_actions(actions)
    say(f"\n{readable(event.body)}")


async def _summary(connection: AsyncConnection, event_id: UUID) -> tuple[SummarizedEvent | None, Outcome | None]:
    return await get_summary(connection, event_id), await outcome_of(connection, event_id)


def _note(event: EventSummary) -> str:
    """What is special about an event."""
    if event.status == Status.QUARANTINED:
        return f"quarantined {event.reason}"
    return counted(event.duplicates, "copy", "copies") if event.duplicates else ""

"""The commands under `priohook orders`."""

from collections import defaultdict
from collections.abc import Iterator
from uuid import UUID

import click
from sqlalchemy.ext.asyncio import AsyncConnection

from app.alarms.words import counted
from app.api.deliveries import DeliverySummary
from app.api.events import EventSummary
from app.audit.queries import AuditFilter, ListedEntry, list_entries
from app.cli.actions import MOST_ACTIONS, print_actions
from app.cli.opened import read
from app.cli.output import cell, say, say_json
from app.deliveries.met import met
from app.deliveries.queries import DeliveryFilter, ListedDelivery, list_deliveries
from app.events.queries import EventFilter, ListedEvent, list_events
from app.events.tables import Origin, Status
from app.events.timeline import Placed, timeline

MOST_EVENTS = 500
MOST_DELIVERIES = 2000


@click.group()
def orders() -> None:
    """Show what arrived of an order, and what became of it."""


@orders.command()
@click.argument("reference")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with events and deliveries as in their lists.")
def show(reference: str, *, as_json: bool) -> None:
    """Show the events of an order or other object by its versions, and what became of each. It reads no bodies."""

    async def found(
        connection: AsyncConnection,
    ) -> tuple[list[ListedEvent], list[ListedDelivery], list[ListedEntry]]:
        return (
            await list_events(connection, EventFilter(reference=reference), limit=MOST_EVENTS),
            await list_deliveries(connection, DeliveryFilter(reference=reference), limit=MOST_DELIVERIES),
            await list_entries(connection, AuditFilter(reference=reference), limit=MOST_ACTIONS),
        )

    events, deliveries, actions = read(found)
    if not events:
        raise click.ClickException(f"No event has the reference {reference}. References are case-sensitive.")
    placed = timeline(events)
    if as_json:
        shown = [dict(EventSummary.model_validate(each.event)) | {"late": each.late} for each in placed]
        tried = [DeliverySummary.model_validate(each) for each in deliveries]
        say_json({"reference": reference, "events": shown, "deliveries": tried})
        return
    of_event = defaultdict[UUID, list[ListedDelivery]](list)
    for delivery in reversed(deliveries):
        of_event[delivery.event_id].append(delivery)
    say(f"{cell(reference)}: {counted(len(events), 'event')}{', the newest' if len(events) == MOST_EVENTS else ''}")
    for each in placed:
        event = each.event
        remarks = "  ".join([cell(event.type), *_remarks(each)])
        say(f"\n{event.received_at:%Y-%m-%d %H:%M:%S}  {remarks}\n  event {event.id}")
        for delivery in of_event[event.id]:
            say(f"  {cell(delivery.destination)}: {_outcome(delivery)}\n    delivery {delivery.id}")
    print_actions(actions)


def _remarks(placed: Placed) -> Iterator[str]:
    event = placed.event
    if event.order_version is not None:
        yield f"version {event.order_version}"
    if placed.late:
        yield "late"
    if event.erased_at is not None:
        yield f"erased {event.erased_at:%Y-%m-%d}"
    if event.duplicates:
        yield counted(event.duplicates, "copy", "copies")
    if event.origin != Origin.RECEIVED:
        yield event.origin
    if event.status != Status.ACCEPTED:
        yield f"quarantined {cell(event.reason)}"


def _outcome(delivery: ListedDelivery) -> str:
    """The delivery's status, when, and what the last attempt met."""
    at = delivery.finished_at or delivery.due_at
    when = f" {'since' if delivery.finished_at else 'due'} {at:%Y-%m-%d %H:%M:%S}" if at else ", waits for another"
    last = cell(met(delivery.last_status, delivery.last_error))
    return f"{delivery.status}{when}{f' ({last})' if last else ''}"

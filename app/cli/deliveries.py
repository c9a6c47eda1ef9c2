"""The commands under `priohook deliveries`."""

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import click
from sqlalchemy.ext.asyncio import AsyncConnection

from app.alarms.words import counted, number
from app.api.deliveries import AttemptShown, DeliveryDetail, DeliverySummary
from app.api.groups import GroupShown
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.cli.batches import apply_to_all, count
from app.cli.confirming import confirm
from app.cli.filters import Moment, giving_reason
from app.cli.ids import Id
from app.cli.opened import acting, load_settings, opened, read
from app.cli.output import print_fields, print_json_lines, say, say_json, say_nothing_matches
from app.cli.tables import print_rows
from app.database.clock import shared_time
from app.deliveries import operations
from app.deliveries.groups import Alike, failure_groups
from app.deliveries.met import met
from app.deliveries.operations import NotDone, WaitsBehind, WasDelivered
from app.deliveries.queries import (
    DeliveryFilter,
    ListedAttempt,
    ListedDelivery,
    count_deliveries,
    get_delivery,
    list_attempts,
    list_deliveries,
)
from app.deliveries.tables import AttemptResult, Delivery, DeliveryStatus, Replay
from app.events.tables import Event

SHOWN = ("id", "event_id", "type", "reference", "destination", "status", "attempts", "due", "last")
ON_TERMINAL = ("id", "reference", "destination", "status", "attempts", "due", "last")
IN_GROUPS = (
    "deliveries",
    "destination",
    "status",
    "last_result",
    "last_status",
    "last_error",
    "type",
    "first",
    "first_at",
    "last_at",
)
IN_GROUPS_ON_TERMINAL = ("deliveries", "destination", "status", "last", "type", "id")
GROUP = (
    click.option(
        "--outcome",
        "result",
        type=click.Choice([str(each) for each in AttemptResult]),
        help="With --destination: only those whose last attempt ended so.",
    ),
    click.option("--answer", "answered", type=int, help="With --destination: only those whose last answer was this."),
    click.option("--type", help="With --destination: only those of events of this type."),
    click.option(
        "--replay",
        "replay_id",
        type=Id(Replay.id, "replay"),
        help="With --destination: only those that this replay asked for.",
    ),
)
DELIVERY_ID = Id(Delivery.id, "delivery")
FIRST = UUID(int=0)

BEGINNING = 500  # characters of an answer that are shown; `--json` has all that was kept

Operation = Callable[..., Awaitable[None]]


@click.group()
def deliveries() -> None:
    """List, group, show, retry and drop deliveries."""


@deliveries.command(name="list")
@click.option("--status", type=click.Choice([str(each) for each in DeliveryStatus]))
@click.option("--destination", help="Only deliveries to this destination.")
@click.option("--event", "event_id", type=Id(Event.id, "event"), help="Only deliveries of this event.")
@click.option("--reference", help="Only deliveries of this order or other object.")
@click.option("--replay", "replay_id", type=Id(Replay.id, "replay"), help="Only deliveries of this replay.")
@click.option(
    "--before", type=DELIVERY_ID, help="Only older deliveries than this one: the last id of a list continues it."
)
@click.option(
    "--after",
    type=DELIVERY_ID,
    help="Only newer deliveries than this one: the last id of a list of oldest continues it.",
)
@click.option("--failing", is_flag=True, help="Only deliveries that have failed and are tried again.")
@click.option("--since", type=Moment(), help="Only deliveries made at this time or later: 2026-08-12, 24h, 7d.")
@click.option("--until", type=Moment(), help="Only deliveries made before this time.")
@click.option("--sort", type=click.Choice(["newest", "oldest"]), default="newest", show_default=True)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, before: UUID | None, after: UUID | None, sort: str, limit: int, as_json: bool, **narrowing: Any) -> None:
    """List deliveries. In JSON, a pending one without due_at waits for another of its reference."""
    if sort == "newest" and after is not None:
        raise click.UsageError("--after needs --sort oldest.")
    now, narrowed = datetime.now(UTC), DeliveryFilter(**narrowing)
    first = (after or FIRST) if sort == "oldest" else None
    found = read(list_deliveries, narrowed, limit=limit, before=before, after=first)
    if as_json:
        print_json_lines(DeliverySummary.model_validate(row) for row in found)
    else:
        print_rows((_shown(delivery, now) for delivery in found), SHOWN, on_terminal=ON_TERMINAL)
    if not found and narrowed != DeliveryFilter():
        say_nothing_matches("deliveries", number(read(count_deliveries, DeliveryFilter())))


@deliveries.command()
@click.argument("delivery_id", metavar="ID", type=DELIVERY_ID)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(delivery_id: UUID, *, as_json: bool) -> None:
    """Show a delivery and all its attempts."""

    async def found(connection: AsyncConnection) -> tuple[ListedDelivery | None, list[ListedAttempt]]:
        return await get_delivery(connection, delivery_id), await list_attempts(connection, delivery_id)

    delivery, attempts = read(found)
    if delivery is None:
        raise click.ClickException(f"There is no delivery {delivery_id}.")
    tries = [AttemptShown.model_validate(attempt) for attempt in attempts]
    if as_json:
        say_json(DeliveryDetail(delivery=DeliverySummary.model_validate(delivery), attempts=tries))
        return
    print_fields(delivery._asdict() | {"due_at": _due(delivery, datetime.now(UTC))})
    for attempt in tries:
        say(f"\nattempt {attempt.number}")
        print_fields({name: value for name, value in attempt if name not in ("number", "answer")})
        if attempt.answer:
            say(_beginning(attempt.answer))


@deliveries.command()
@click.option("--destination", help="Only deliveries to this destination.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def groups(*, destination: str | None, as_json: bool) -> None:
    """List groups of deliveries that failed alike and are dead or tried again, the largest group first."""
    shown = [GroupShown.model_validate(group) for group in read(failure_groups, destination=destination)]
    if as_json:
        print_json_lines(shown)
        return
    rows = (dict(group) | {"id": group.first, "last": met(group.last_status, group.last_error)} for group in shown)
    print_rows(rows, IN_GROUPS, on_terminal=IN_GROUPS_ON_TERMINAL)


def choosing_group(command: Callable[..., None]) -> Callable[..., None]:
    """Adds options whose values are the fields of `Alike`."""
    for option in reversed(GROUP):
        command = option(command)
    return command


@deliveries.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=DELIVERY_ID)
@click.option("--destination", help="Instead of ids: all dead deliveries to this destination.")
@choosing_group
@click.option("--yes", is_flag=True, help="Do not ask for confirmation of a group.")
@giving_reason
def retry(*, ids: tuple[UUID, ...], destination: str | None, yes: bool, reason: str | None, **group: Any) -> None:
    """Try deliveries again now. A dead or dropped delivery gets all its retries again."""
    alike = Alike(**group)
    _either(ids, destination, alike)
    if destination is None:
        _each(Act(action=Action.RETRY, kind=Kind.DELIVERY, reason=reason), operations.retry, ids, "is tried again.")
        return
    if number := count(destination, "dead", alike):
        if alike != operations.ANY:
            confirm(
                f"Try {counted(number, 'dead delivery', 'dead deliveries')} to {destination}{_words(alike)} again?",
                yes=yes,
            )
        act = Act(action=Action.RETRY, kind=Kind.DESTINATION, target=destination, reason=reason)
        number = apply_to_all(act, partial(operations.retry_dead, alike=alike), destination, total=number)
    say(f"Dead deliveries to {destination}{_words(alike)} that are pending again: {number}.")


@deliveries.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=DELIVERY_ID)
@click.option("--destination", help="Instead of ids: all deliveries to this destination with this --status.")
@click.option("--status", type=click.Choice(["dead", "pending"]), default="dead", show_default=True)
@choosing_group
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@giving_reason
def drop(
    *, ids: tuple[UUID, ...], destination: str | None, status: str, yes: bool, reason: str | None, **group: Any
) -> None:
    """Give deliveries up. Those that wait for them go on."""
    alike = Alike(**group)
    _either(ids, destination, alike)
    if destination is None:
        _each(Act(action=Action.DROP, kind=Kind.DELIVERY, reason=reason), operations.drop, ids, "is dropped.")
        return
    if number := count(destination, status, alike):
        confirm(
            f"Drop {counted(number, f'{status} delivery', f'{status} deliveries')} to {destination}{_words(alike)}?",
            yes=yes,
        )
        operation = operations.drop_dead if status == "dead" else operations.drop_pending
        act = Act(action=Action.DROP, kind=Kind.DESTINATION, target=destination, reason=reason)
        number = apply_to_all(act, partial(operation, alike=alike), destination, total=number)
    say(f"{status.capitalize()} deliveries to {destination}{_words(alike)} that were dropped: {number}.")


def _either(ids: tuple[UUID, ...], destination: str | None, alike: Alike) -> None:
    if bool(ids) == (destination is not None):
        raise click.UsageError("Give either ids or --destination.")
    if ids and alike != operations.ANY:
        raise click.UsageError("--outcome, --answer, --type and --replay need --destination.")


def _words(alike: Alike) -> str:
    """Which group it is, as a part of a sentence."""
    named = (("outcome", alike.result), ("answer", alike.answered), ("type", alike.type), ("replay", alike.replay_id))
    words = [f"{name} {value}" for name, value in named if value is not None]
    return f" with {', '.join(words)}" if words else ""


def _each(act: Act, operation: Operation, ids: tuple[UUID, ...], outcome: str) -> None:
    """Changes each delivery. Exits with 1 if one cannot be changed."""
    refused = asyncio.run(_one_by_one(act, operation, ids))
    for delivery_id in ids:
        if delivery_id in refused:
            say(f"priohook: {refused[delivery_id]}", err=True)
        else:
            say(f"Delivery {delivery_id} {outcome}")
    sys.exit(1 if refused else 0)


async def _one_by_one(act: Act, operation: Operation, ids: tuple[UUID, ...]) -> dict[UUID, str]:
    """The deliveries that could not be changed, and why."""
    refused = {}
    async with opened(load_settings()) as engine:
        for delivery_id in ids:
            this = replace(act, target=str(delivery_id))
            try:
                async with acting(engine, this) as connection:
                    if delivery := await get_delivery(connection, delivery_id):
                        this.event_id, this.reference = delivery.event_id, delivery.reference
                        this.details = {"destination": delivery.destination, "was": delivery.status}
                    await operation(connection, delivery_id, now=await shared_time(connection))
            except NotDone as error:
                refused[delivery_id] = _sentence(error)
    return refused


def _sentence(error: NotDone) -> str:
    what = str(error).rstrip(".")
    if isinstance(error, WasDelivered):
        return f"{what}: `priohook replay` delivers its event again."
    if isinstance(error, WaitsBehind):
        where = shlex.join(["--destination", error.destination, "--reference", error.reference])
        return f"{what}. Retry the one that is due; see `priohook deliveries list --status pending {where}`."
    return f"{what}."


def _shown(delivery: ListedDelivery, now: datetime) -> dict[str, Any]:
    last = met(delivery.last_status, delivery.last_error)
    return delivery._asdict() | {"due": _due(delivery, now), "last": last}


def _due(delivery: ListedDelivery, now: datetime) -> datetime | str | None:
    if delivery.status != DeliveryStatus.PENDING:
        return None
    if delivery.due_at is None:
        return "waits for another"
    is_sent_now = delivery.claimed_by is not None and delivery.due_at > now
    return "is being sent" if is_sent_now else delivery.due_at


def _beginning(answer: str) -> str:
    return answer if len(answer) <= BEGINNING else f"{answer[:BEGINNING]} …"

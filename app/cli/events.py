"""The commands under `priohook events`."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from app import database
from app.events.queries import EventFilter, get_event, list_events
from app.events.tables import Status
from app.receiver.release import NotReleased, Released
from app.receiver.release import release as release_event
from app.settings import Settings

AGO = re.compile(r"(\d+)([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
SHOWN = ("id", "received_at", "status", "type", "reference", "client", "duplicates")


class Moment(click.ParamType[datetime]):
    """A time as people write it: `2026-08-12`, `2026-08-12T10:15+02:00`, or `90m`, `24h`, `7d` ago. UTC if no zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The instant."""
        if isinstance(value, datetime):
            return value
        try:
            if ago := AGO.fullmatch(value):
                return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
            at = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: write 2026-08-12, 2026-08-12T10:15+02:00, 90m, 24h or 7d.", param, ctx)
        return at if at.tzinfo else at.replace(tzinfo=UTC)


@click.group()
def events() -> None:
    """See what arrived, and release what was refused."""


@events.command(name="list")
@click.option("--type", "type_", help="Only this type, such as ORDER_CANCEL.")
@click.option("--reference", help="Only this order's, or other object's.")
@click.option("--status", type=click.Choice([str(each) for each in Status]))
@click.option("--client", help="Only what this client sent.")
@click.option("--since", type=Moment(), help="Received at this time or later: 2026-08-12, 24h, 7d.")
@click.option("--until", type=Moment(), help="Received before this time.")
@click.option("--before", type=click.UUID, help="Older than this event: the last id of a list continues it.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, type_: str | None, before: UUID | None, limit: int, as_json: bool, **narrowing: Any) -> None:
    """List events, newest first."""
    rows = asyncio.run(_list(EventFilter(type=type_, **narrowing), limit=limit, before=before))
    if as_json:
        for row in rows:
            click.echo(json.dumps(_jsonable(row)))
    elif sys.stdout.isatty():
        _print_table(rows)
    else:
        for row in rows:
            click.echo("\t".join(_cell(getattr(row, name)) for name in SHOWN))


@events.command()
@click.argument("event_id", metavar="ID", type=click.UUID)
@click.option("--body", "body_only", is_flag=True, help="Write the exact bytes that arrived, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, without the body.")
def show(event_id: UUID, *, body_only: bool, as_json: bool) -> None:
    """Show one event whole."""
    event = asyncio.run(_get(event_id))
    if event is None:
        raise click.ClickException(f"There is no event {event_id}.")
    if body_only:
        sys.stdout.buffer.write(event.body)
        return
    shown = _jsonable(event) | {"headers": event.headers}
    if as_json:
        click.echo(json.dumps(shown))
        return
    for name, value in shown.items():
        if name != "headers" and value is not None:
            click.echo(f"{name:<18} {value}")
    click.echo("headers")
    for name, value in event.headers:
        click.echo(f"  {_printable(name)}: {_printable(value)}")
    click.echo("\n" + _printable(event.body.decode("utf-8", "replace"), keep="\n\t"))


@events.command()
@click.argument("event_id", metavar="ID", type=click.UUID)
def release(event_id: UUID) -> None:
    """Judge a quarantined event again, by its bytes alone; accept it if they can be read."""
    try:
        released = asyncio.run(_release(event_id))
    except NotReleased as refusal:
        raise click.ClickException(str(refusal)) from None
    if released.duplicate:
        click.echo(f"It is a copy of event {released.id}, where it is counted now.")
    else:
        click.echo(f"Event {released.id} is accepted.")


@asynccontextmanager
async def _transaction(settings: Settings) -> AsyncIterator[AsyncConnection]:
    url = settings.database_url
    if database.is_sqlite(url) and not database.sqlite_path(url).exists():
        raise database.SchemaNotCurrent(f"There is no database {database.sqlite_path(url)}: `priohook serve` makes it.")
    async with database.engine_for(url) as engine:
        await database.check_schema(engine)
        async with engine.begin() as connection:
            yield connection


async def _list(narrowed: EventFilter, *, limit: int, before: UUID | None) -> Sequence[Row[Any]]:
    async with _transaction(Settings.load()) as connection:
        return await list_events(connection, narrowed, limit=limit, before=before)


async def _get(event_id: UUID) -> Row[Any] | None:
    async with _transaction(Settings.load()) as connection:
        return await get_event(connection, event_id)


async def _release(event_id: UUID) -> Released:
    settings = Settings.load()
    usernames = {name: client.username or name for name, client in settings.clients.items()}
    async with _transaction(settings) as connection:
        return await release_event(
            connection, event_id, usernames=usernames, limit=settings.max_body_bytes, now=datetime.now(UTC)
        )


def _jsonable(row: Row[Any]) -> dict[str, Any]:
    names = [name for name in row._fields if name not in ("headers", "body", "dedup_key")]
    return {name: _plain(getattr(row, name)) for name in names}


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, int) else _cell(value)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else str(value)


def _print_table(rows: Sequence[Row[Any]]) -> None:
    # A narrow terminal folds the other columns: an id is for copying.
    table = Table(*(Column(name, no_wrap=name == "id", overflow="fold") for name in SHOWN), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_cell(getattr(row, name))) for name in SHOWN))
    Console().print(table)


def _printable(text: str, *, keep: str = "") -> str:
    """The text without what could move a terminal's cursor or change its colours."""
    return "".join(each if each.isprintable() or each in keep else "\ufffd" for each in text)

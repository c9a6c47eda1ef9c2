"""Options that choose events, the same for each command."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from app.events.tables import Status
from app.settings.files import decoded

AGO = re.compile(r"(\d+)([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Moment(click.ParamType[datetime]):
    """A time as people write it: `2026-08-12`, `2026-08-12T10:15+02:00`, or `90m`, `24h`, `7d` ago. UTC if no zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if ago := AGO.fullmatch(value):
                return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
            at = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            formats = "2026-08-12, 2026-08-12T10:15+02:00, 90m, 24h or 7d"
            self.fail(f"{value!r} is not a valid time. Write it as {formats}.", param, ctx)
        return at if at.tzinfo else at.replace(tzinfo=UTC)


SINCE = click.option("--since", type=Moment(), help="Only events received at this time or later: 2026-08-12, 24h, 7d.")
OPTIONS = (
    click.option("--type", help="Only events of this type or event name, such as ORDER_CANCEL."),
    click.option("--reference", help="Only events of this order or other object."),
    click.option("--status", type=click.Choice([str(each) for each in Status])),
    click.option("--client", help="Only events that this client sent."),
    SINCE,
    click.option("--until", type=Moment(), help="Only events received before this time."),
)


def read_ids(file: Any) -> list[UUID] | None:
    """The ids in a file that `--ids` names, opened as latin-1, which keeps each byte; None without a file.

    Raises:
        click.UsageError: it is not text, or a line is not an id.
    """
    if file is None:
        return None
    try:
        lines = decoded(file.read().encode("latin-1")).splitlines()
    except UnicodeDecodeError:
        raise click.UsageError("--ids takes text in UTF-8, or in UTF-16 with a byte order mark.") from None
    ids = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                ids.append(UUID(line.strip()))
        except ValueError:
            raise click.UsageError(f"--ids takes one event id on each line. Line {number} is not a valid id.") from None
    return ids


giving_reason = click.option("--reason", help="Why; the audit keeps it, so name no guest in it.")


def choosing_events(
    command: Callable[..., None], *, since: Callable[[Callable[..., None]], Callable[..., None]] = SINCE
) -> Callable[..., None]:
    """Adds options whose values are the fields of `EventFilter`; `since` takes the place of `--since`."""
    for option in reversed(OPTIONS):
        command = (since if option is SINCE else option)(command)
    return command

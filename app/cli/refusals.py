"""The commands under `priohook refusals`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from app.cli.filters import Moment
from app.cli.opened import read
from app.cli.output import print_json_lines
from app.cli.tables import print_rows
from app.telemetry.refusals import Refused, RefusedSince, list_refusals, sum_refusals

SHOWN = ("requests", "status", "reason", "door", "client", "address", "last")


@click.group()
def refusals() -> None:
    """List which requests were refused, from where and why."""


@refusals.command(name="list")
@click.option("--since", type=Moment(), default="1h", show_default=True, help="2026-08-12, 90m, 24h, 7d.")
@click.option("--minutes", is_flag=True, help="A row for each minute, the latest first.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, since: datetime, minutes: bool, limit: int, as_json: bool) -> None:
    """List which requests were refused, those of clients before those of strangers. Counts are kept for 7 days."""
    found: Sequence[Refused | RefusedSince] = (
        read(list_refusals, since=since, limit=limit) if minutes else read(sum_refusals, since=since, limit=limit)
    )
    rows = [_shown(row._asdict()) for row in found]
    if as_json:
        print_json_lines(rows)
    else:
        print_rows(rows, ("minute", *SHOWN[:-1]) if minutes else SHOWN)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "client": row["client"] or None}

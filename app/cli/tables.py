"""Lists: lines with tabs in a pipe, and tables on a terminal."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from app.cli.output import cell, say, short_id, short_time

LEAST_FOLDED = 20  # characters, for the columns of a table that are folded


def print_rows(
    rows: Iterable[Mapping[str, Any]], shown: Sequence[str], *, on_terminal: Sequence[str] | None = None
) -> None:
    """Prints the columns `shown` of each row, separated by tabs.

    On a terminal it is a table of the columns `on_terminal`, with short ids and times, so that it fits 80 characters.
    """
    if sys.stdout.isatty():
        _print_table(rows, on_terminal or shown, now=datetime.now(UTC))
    else:
        for row in rows:
            say("\t".join(cell(row[name]) for name in shown))


def _print_table(rows: Iterable[Mapping[str, Any]], shown: Sequence[str], *, now: datetime) -> None:
    console = Console()
    lines = [[_short(row[name], now=now) for name in shown] for row in rows]
    widths = {name: max(len(name), *map(len, column)) for name, *column in zip(shown, shown, *lines, strict=True)}
    whole = _kept_whole(widths, room=console.width)
    head = (Column(name, no_wrap=name in whole, overflow="fold") for name in shown)
    table = Table(*head, box=None, pad_edge=False, collapse_padding=True)
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)


def _kept_whole(widths: Mapping[str, int], *, room: int) -> set[str]:
    """The columns that a narrow terminal does not fold: ids, to be copied, and the narrowest others."""
    kept, left = set(), room - LEAST_FOLDED
    for name in sorted(widths, key=lambda name: (name != "id", widths[name])):
        left -= widths[name] + 1
        if left < 0:
            break
        kept.add(name)
    return kept


def _short(value: object, *, now: datetime) -> str:
    if isinstance(value, UUID):
        return short_id(value)
    return short_time(value, now=now) if isinstance(value, datetime) else cell(value)

"""How commands show rows: a table on a terminal, tab-separated lines elsewhere, JSON when asked for."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy import Row


def fields(row: Row[Any]) -> dict[str, Any]:
    """A database's row by name."""
    return dict(zip(row._fields, row, strict=True))


def print_rows(rows: Iterable[Mapping[str, Any]], shown: Sequence[str], *, as_json: bool) -> None:
    """Prints the rows; of a table only the columns `shown`."""
    if as_json:
        for row in rows:
            click.echo(json.dumps({name: plain(value) for name, value in row.items()}))
    elif sys.stdout.isatty():
        _print_table(rows, shown)
    else:
        for row in rows:
            click.echo("\t".join(cell(row[name]) for name in shown))


def print_fields(thing: Mapping[str, Any]) -> None:
    """Prints one thing, a line for each field that has a value."""
    for name, value in thing.items():
        if value is not None:
            click.echo(f"{name:<18} {cell(value)}")


def plain(value: object) -> object:
    """The value as JSON has it."""
    return value if value is None or isinstance(value, (int, float, list, dict)) else cell(value)


def cell(value: object) -> str:
    """The value in a table."""
    if value is None:
        return ""
    text = value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else str(value)
    return printable(text)


def printable(text: str, *, keep: str = "") -> str:
    """The text without what could move a terminal's cursor or change its colours."""
    return "".join(each if each.isprintable() or each in keep else "\ufffd" for each in text)


def _print_table(rows: Iterable[Mapping[str, Any]], shown: Sequence[str]) -> None:
    # A narrow terminal folds the other columns: an id is for copying.
    table = Table(*(Column(name, no_wrap=name == "id", overflow="fold") for name in shown), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell(row[name])) for name in shown))
    Console().print(table)

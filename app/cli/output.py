"""How commands print. Text from outside (events, consumers, endpoints, errors) reaches a terminal only escaped."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from app.telemetry.printing import printable


def say(text: str = "", *, err: bool = False) -> None:
    """Prints text. Control characters are escaped, except line ends and tabs."""
    click.echo(printable(text, keep="\n\t"), err=err)


def say_json(value: object, *, indent: int | None = None) -> None:
    """Prints the value as JSON in ASCII, so that no encoding loses a part of it and no part controls the terminal.

    Models of the API, times and ids look as in answers of the API.
    """
    # DEL is the only control character that the standard library does not escape.
    click.echo(json.dumps(value, indent=indent, default=to_jsonable_python).replace("\x7f", "\\u007f"))


def first_line(error: Exception) -> str:
    """The first line of the error's text, without the details that its library adds below."""
    return (str(error) or type(error).__name__).splitlines()[0]


def print_json_lines(values: Iterable[object]) -> None:
    """Prints each value as JSON on a line of its own."""
    for value in values:
        say_json(value)


def print_rows(rows: Iterable[Mapping[str, Any]], shown: Sequence[str]) -> None:
    """Prints the columns `shown` of each row: as a table on a terminal, otherwise separated by tabs."""
    if sys.stdout.isatty():
        _print_table(rows, shown)
    else:
        for row in rows:
            say("\t".join(cell(row[name]) for name in shown))


def print_fields(thing: Mapping[str, Any]) -> None:
    """Prints one thing, a line for each field that has a value."""
    for name, value in thing.items():
        if value is not None:
            say(f"{name:<18} {cell(value)}")


def write_body(body: bytes) -> None:
    """Writes exact bytes into a file or a pipe; on a terminal, as text."""
    if sys.stdout.isatty():
        say(readable(body))
    else:
        sys.stdout.buffer.write(body)


def readable(body: bytes) -> str:
    """The bytes as text."""
    return body.decode("utf-8", "backslashreplace")


def cell(value: object) -> str:
    """The value as text on one line."""
    return "" if value is None else printable(_text(value))


def _text(value: object) -> str:
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else str(value)


def _print_table(rows: Iterable[Mapping[str, Any]], shown: Sequence[str]) -> None:
    # A narrow terminal folds other columns, but an id must stay on one line to be copied.
    table = Table(*(Column(name, no_wrap=name == "id", overflow="fold") for name in shown), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell(row[name])) for name in shown))
    Console().print(table)

"""How commands print. Text from outside (events, consumers, endpoints, errors) reaches a terminal only escaped."""

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import click
from pydantic_core import to_jsonable_python

from app.telemetry.printing import printable

SHORT_ID = 18
"""Characters of an id that tell it from others: its millisecond, and the 4096th of it."""

HALF_A_YEAR = timedelta(days=180)


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


def print_fields(thing: Mapping[str, Any]) -> None:
    """Prints one thing, a line for each field that has a value."""
    for name, value in thing.items():
        if value is not None:
            say(f"{name:<18} {cell(value)}")


def say_nothing_matches(things: str, without: str) -> None:
    """Says of an empty list how many things there are without its filters."""
    say(f"No {things} match. Without the filters there are {without}.", err=True)


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


def short_id(value: UUID) -> str:
    """The beginning of an id, which tells it from others; commands take it."""
    return str(value)[:SHORT_ID]


def short_time(at: datetime, *, now: datetime) -> str:
    """A time in UTC: of today without the day, of other days without the seconds."""
    if abs(now - at) > HALF_A_YEAR:
        return f"{at:%Y-%m-%d}"
    return f"{at:%H:%M:%S}" if at.date() == now.date() else f"{at:%m-%d %H:%M}"

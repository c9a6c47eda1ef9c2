"""Ids as arguments and options: whole, or the beginning of one."""

from typing import Any
from uuid import UUID

import click
from sqlalchemy.orm import InstrumentedAttribute

from app.cli.opened import read
from app.database.beginnings import DIGITS, FEWEST_DIGITS, MOST_FOUND, beginning_in, ids_with


class Id(click.ParamType[UUID]):
    """The id of a stored thing. Its first characters will do, if no other id begins with them.

    Args:
        column: Where the ids are.
        thing: What has them, such as `event`.
    """

    name = "id"

    def __init__(self, column: InstrumentedAttribute[UUID], thing: str) -> None:
        self._column = column
        self._thing = thing

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:
        if isinstance(value, UUID):
            return value
        digits = beginning_in(value)
        if digits is None:
            whole = f"Write the whole id, or its first {FEWEST_DIGITS} digits or more."
            self.fail(f"{value!r} is not a valid id. {whole}", param, ctx)
        if len(digits) == DIGITS:
            return UUID(digits)
        found = read(ids_with, self._column, digits)
        if not found:
            raise click.ClickException(f"There is no {self._thing} whose id begins with {value}.")
        if len(found) > 1:
            more = " …" if len(found) == MOST_FOUND else ""
            named = " ".join(map(str, found[: MOST_FOUND - 1]))
            raise click.ClickException(f"The ids of several {self._thing}s begin with {value}: {named}{more}")
        return found[0]

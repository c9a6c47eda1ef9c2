"""Ids as arguments and options: whole, or the beginning of one."""

import re
from typing import Any
from uuid import UUID

import click
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from app.cli.opened import read

DIGITS = 32
FEWEST_DIGITS = 8
BEGINNING = re.compile(rf"[0-9a-f]{{{FEWEST_DIGITS},{DIGITS}}}")
MOST_NAMED = 3


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
        digits = value.lower().replace("-", "")
        if not BEGINNING.fullmatch(digits):
            whole = f"Write the whole id, or its first {FEWEST_DIGITS} digits or more."
            self.fail(f"{value!r} is not a valid id. {whole}", param, ctx)
        if len(digits) == DIGITS:
            return UUID(digits)
        found = read(_beginning, self._column, digits)
        if not found:
            raise click.ClickException(f"There is no {self._thing} whose id begins with {value}.")
        if len(found) > 1:
            more = " …" if len(found) > MOST_NAMED else ""
            named = " ".join(map(str, found[:MOST_NAMED]))
            raise click.ClickException(f"The ids of several {self._thing}s begin with {value}: {named}{more}")
        return found[0]


async def _beginning(connection: AsyncConnection, column: InstrumentedAttribute[UUID], digits: str) -> list[UUID]:
    first, last = UUID(digits.ljust(DIGITS, "0")), UUID(digits.ljust(DIGITS, "f"))
    query = select(column).where(column.between(first, last)).order_by(column).limit(MOST_NAMED + 1)
    return list(await connection.scalars(query))

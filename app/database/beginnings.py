"""Ids by the beginning that people copy."""

import re
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

DIGITS = 32
FEWEST_DIGITS = 8
BEGINNING = re.compile(rf"[0-9a-f]{{{FEWEST_DIGITS},{DIGITS}}}")
MOST_FOUND = 4


def beginning_in(text: str) -> str | None:
    """The hexadecimal digits of an id or of its beginning; None if the text cannot be one."""
    digits = text.lower().replace("-", "")
    return digits if BEGINNING.fullmatch(digits) else None


async def ids_with(connection: AsyncConnection, column: InstrumentedAttribute[UUID], digits: str) -> list[UUID]:
    """The first `MOST_FOUND` ids in the column that begin with these digits, in order."""
    first, last = UUID(digits.ljust(DIGITS, "0")), UUID(digits.ljust(DIGITS, "f"))
    query = select(column).where(column.between(first, last)).order_by(column).limit(MOST_FOUND)
    return list(await connection.scalars(query))

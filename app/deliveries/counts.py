"""How many deliveries are in each state, counted to a bound: milliseconds, however many there are."""

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.counting import counted
from app.database.rows import read
from app.deliveries.queries import WAITING
from app.deliveries.tables import DEAD, DROPPED, FAILING, PENDING_PARTS, Claimed, Delivery

MOST = 10_000
"""A greater number is `MOST + 1`."""


class Counts(NamedTuple):
    """How many deliveries are in each state. Those delivered are too many to count."""

    waiting: int
    """They wait for their first attempt."""
    failing: int
    """They have failed and are tried again."""
    in_flight: int
    dead: int
    dropped: int | None
    """None for one destination: only those of all have an index."""


async def count_states(connection: AsyncConnection, destination: str | None = None) -> Counts:
    """The counts of all destinations, or of one."""

    def of(table: type[Delivery | Claimed], *where: ColumnElement[bool]) -> ColumnElement[int]:
        query = select(literal(1)).select_from(table).where(*where)
        return counted(query if destination is None else query.where(table.destination == destination), most=MOST)

    first, *others = (of(Delivery, part, WAITING) for part in PENDING_PARTS)
    columns: list[ColumnElement[Any]] = [
        sum(others, first).label("waiting"),
        of(Delivery, FAILING).label("failing"),
        of(Claimed).label("in_flight"),
        of(Delivery, DEAD).label("dead"),
        (literal(None) if destination else of(Delivery, DROPPED)).label("dropped"),
    ]
    (counts,) = await read(connection, select(*columns), Counts)
    return counts._replace(waiting=min(counts.waiting, MOST + 1))

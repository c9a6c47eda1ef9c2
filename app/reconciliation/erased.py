"""Orders of which events were erased: what was taken away is not fetched again."""

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.events.tables import Event


class OrderErased(Exception):
    """An order may not be fetched and stored, as events of it were erased."""

    def __init__(self) -> None:
        super().__init__("Events of this order were erased, so it is not fetched again.")


async def erased(connection: AsyncConnection, references: Collection[str]) -> set[str]:
    """The references of which an event was erased."""
    query = select(Event.reference).where(Event.reference.in_(references), Event.erased_at.is_not(None)).distinct()
    return {reference for reference in await connection.scalars(query) if reference is not None}


async def refuse_erased(connection: AsyncConnection, reference: str) -> None:
    """Raises `OrderErased` if an event of the order was erased."""
    if await erased(connection, [reference]):
        raise OrderErased

"""The table of clients: when each was last let in, and when and why it was last refused."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from app.database.rows import columns, read
from app.database.writing import Columns, upsert
from app.telemetry.tables import ClientUse
from app.telemetry.tally import Heard

REFUSED = ("refused_at", "refused_status", "refused_reason", "refused_address")


class Use(NamedTuple):
    """When a client was last answered with success, and when, why and from where it was last refused."""

    client: str
    succeeded_at: datetime | None = None
    refused_at: datetime | None = None
    refused_status: int | None = None
    refused_reason: str | None = None
    refused_address: str | None = None


async def add_uses(connection: AsyncConnection, heard: Mapping[str, Heard]) -> None:
    """Keeps what is later than what is stored. Does not commit."""
    rows = [{"client": name} | each._asdict() for name, each in sorted(heard.items())]
    await upsert(connection, ClientUse, rows, key=("client",), changes=_later)


async def client_uses(connection: AsyncConnection) -> dict[str, Use]:
    """The use of each client that was ever heard of, by name."""
    uses = await read(connection, select(*columns(ClientUse, Use)), Use)
    return {use.client: use for use in uses}


def _later(new: Columns) -> dict[str, ColumnElement[Any]]:
    newly_used = _is_later(ClientUse.succeeded_at, new["succeeded_at"])
    newly_refused = _is_later(ClientUse.refused_at, new["refused_at"])
    used = case((newly_used, new["succeeded_at"]), else_=ClientUse.succeeded_at)
    refused = {name: case((newly_refused, new[name]), else_=getattr(ClientUse, name)) for name in REFUSED}
    return {"succeeded_at": used, **refused}


def _is_later(old: ColumnElement[Any] | InstrumentedAttribute[Any], new: ColumnElement[Any]) -> ColumnElement[bool]:
    return and_(new.is_not(None), or_(old.is_(None), old < new))

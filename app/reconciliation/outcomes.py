"""What runs have found, for people. Apart from the runs themselves, which need the client of Prioticket's API."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns, read_one
from app.reconciliation.tables import Reconciliation


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has found, for people."""

    id: UUID
    started_at: datetime
    ended_at: datetime | None
    """None if it runs, or was interrupted."""
    listed: int
    missing: int
    fetched: int
    refused: int
    error: str | None
    """Why it was interrupted."""


async def newest_run(connection: AsyncConnection) -> Outcome | None:
    """The newest run, whether it is complete or not; None without any."""
    return await read_one(
        connection, select(*columns(Reconciliation, Outcome)).order_by(Reconciliation.id.desc()), Outcome
    )

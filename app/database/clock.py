"""The clock by which times of several processes are compared: PostgreSQL's, since hosts may differ by hours."""

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection


async def shared_time(connection: AsyncConnection) -> datetime:
    """The time on the database's host. With SQLite that is this host."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    at: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return at

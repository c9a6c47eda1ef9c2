"""The clock by which times of several hosts are compared: PostgreSQL's, since theirs may differ by hours."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

NO_DIFFERENCE = timedelta(seconds=5)
"""Clocks that differ by less count as the same: the answer with the other time may have been late."""


class SharedClock:
    """The shared time for a process that needs it all the time: as it was last heard, and what has passed since.

    Until it was heard, and always with SQLite, it is this host's.
    """

    def __init__(self) -> None:
        self._heard: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """The time."""
        if self._heard is None:
            return datetime.now(UTC)
        at, since = self._heard
        return at + timedelta(seconds=monotonic() - since)

    def hear(self, at: datetime) -> None:
        """Takes the time on the database's host."""
        self._heard = at, monotonic()

    async def look(self, connection: AsyncConnection) -> None:
        """Asks for the time."""
        if connection.dialect.name != "sqlite":
            self.hear(await shared_time(connection))


async def shared_time(connection: AsyncConnection) -> datetime:
    """The time on the database's host. With SQLite that is this host."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    at: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return at


async def ahead(connection: AsyncConnection, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> timedelta:
    """How far the database's clock is ahead of this host's, which `clock` gives. With SQLite it is the same clock."""
    if connection.dialect.name == "sqlite":
        return timedelta(0)
    difference = await shared_time(connection) - clock()
    return difference if abs(difference) > NO_DIFFERENCE else timedelta(0)

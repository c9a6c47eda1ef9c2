"""Whether PostgreSQL archives its write-ahead log, so that its database can be restored to any moment."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

ARCHIVING = text("""
SELECT current_setting('archive_mode') AS mode, current_setting('archive_command') AS command,
    current_setting('archive_library', true) AS library, archived_count AS archived,
    last_archived_time AS last_archived_at, failed_count AS failed, last_failed_time AS last_failed_at
FROM pg_stat_archiver
""")


class Archiving(NamedTuple):
    """What the server says about its archive."""

    mode: str
    command: str | None
    library: str | None
    archived: int
    last_archived_at: datetime | None
    failed: int
    last_failed_at: datetime | None

    def problem(self) -> str | None:
        """Why the archive cannot be relied on; None if it works."""
        if self.mode == "off":
            return "archive_mode is off: nothing is archived."
        if self.command in (None, "", "(disabled)") and not self.library:
            return "Neither archive_command nor archive_library is set: nothing is archived."
        if self.last_failed_at and (self.last_archived_at is None or self.last_failed_at > self.last_archived_at):
            return (
                f"Archiving has failed {self.failed} times, the last time at {self.last_failed_at:%Y-%m-%d %H:%M} UTC."
            )
        if self.last_archived_at is None:
            return "Nothing has been archived yet."
        return None


async def archiving(connection: AsyncConnection) -> Archiving:
    """Asks the server."""
    return Archiving(*(await connection.execute(ARCHIVING)).one())

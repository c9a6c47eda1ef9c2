"""The last backup of a SQLite file, as its database remembers it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.rows import columns, read_one
from app.retention.tables import Backup


@dataclass(frozen=True, slots=True)
class LastBackup:
    """When it was made, and the file."""

    finished_at: datetime
    file: str


async def last_backup(connection: AsyncConnection) -> LastBackup | None:
    """The last one that `priohook backup` made of the SQLite file; None if it never did."""
    newest = select(*columns(Backup, LastBackup)).order_by(Backup.finished_at.desc()).limit(1)
    return await read_one(connection, newest, LastBackup)

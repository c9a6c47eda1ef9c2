"""The table of backups."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Base, UTCDateTime


class Backup(Base):
    """The last backup that `priohook backup` made of a SQLite file. A restored file has none."""

    __tablename__ = "backups"

    finished_at: Mapped[datetime] = mapped_column(UTCDateTime, primary_key=True)
    file: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    events: Mapped[int] = mapped_column(BigInteger)
    newest_event_id: Mapped[UUID | None]

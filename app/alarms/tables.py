"""The tables of alarms, and of what is told of them."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Base, UTCDateTime

WAITS = text("due_at IS NOT NULL")


class Stage(StrEnum):
    """What is told of an alarm."""

    STARTED = "started"
    LASTS = "lasts"
    ENDED = "ended"


class Alarm(Base):
    """Something that was wrong, from its start to its end."""

    __tablename__ = "alarms"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    """As in the settings."""
    name: Mapped[str]
    """What is wrong, for programs."""
    subject: Mapped[str]
    """What it is about; may be empty."""
    severity: Mapped[str]
    what: Mapped[str]
    command: Mapped[str]
    since: Mapped[datetime | None] = mapped_column(UTCDateTime)
    example: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    seen_at: Mapped[datetime] = mapped_column(UTCDateTime)
    """When it was last seen to be wrong."""
    told_at: Mapped[datetime] = mapped_column(UTCDateTime)
    """When its start was told, or last that it lasts."""
    ended_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    __table_args__ = (Index("ix_alarms_ended_at", "ended_at"),)


class Notice(Base):
    """What one channel is told of an alarm."""

    __tablename__ = "alarm_notices"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    alarm_id: Mapped[UUID]
    channel: Mapped[str]
    stage: Mapped[str]
    made_at: Mapped[datetime] = mapped_column(UTCDateTime)
    due_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When it is tried next; None if it was told or given up."""
    attempts: Mapped[int]
    told_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    error: Mapped[str | None]
    """Why it could not be told the last time."""

    __table_args__ = (
        Index("ix_alarm_notices_due_at", "channel", "id", sqlite_where=WAITS, postgresql_where=WAITS),
        Index("ix_alarm_notices_alarm_id", "alarm_id"),
    )

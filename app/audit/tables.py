"""The audit: one row for each action of a person or a program, chained by hashes. Triggers refuse every change."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Base, UTCDateTime

POSITION = BigInteger().with_variant(Integer(), "sqlite")


class Channel(StrEnum):
    """By which way an action came."""

    API = "api"
    CLI = "cli"
    CONSOLE = "console"


class Action(StrEnum):
    """What was done. A list of events is not an action; a body that is read is one."""

    READ = "read"
    REPLAY = "replay"
    RELEASE = "release"
    RETRY = "retry"
    DROP = "drop"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    REMOVE = "remove"
    TEST = "test"
    """A test event was sent to a destination."""
    ERASE = "erase"
    EXPORT = "export"
    PRUNE = "prune"
    BACKUP = "backup"
    RESTORE = "restore"
    MOVE = "move"
    RECONCILE = "reconcile"
    SIGN_IN = "sign_in"
    SIGN_OUT = "sign_out"
    SETTINGS = "settings"
    """A program started with other settings than before."""


class Kind(StrEnum):
    """What an action was done to."""

    EVENT = "event"
    ORDER = "order"
    DELIVERY = "delivery"
    DESTINATION = "destination"
    REPLAY = "replay"
    ERASURE = "erasure"
    SPOOL = "spool"
    RECONCILIATION = "reconciliation"
    SETTINGS = "settings"
    DATABASE = "database"
    CLIENT = "client"


class Entry(Base):
    """One action."""

    __tablename__ = "audit"

    position: Mapped[int] = mapped_column(POSITION, primary_key=True, autoincrement=False)
    """From 1, without gaps."""
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    channel: Mapped[str]
    client: Mapped[str]
    """The client's name; at the shell `user@host`."""
    address: Mapped[str | None]
    """Where the request came from; at the shell where its SSH session came from."""
    action: Mapped[str]
    kind: Mapped[str]
    target: Mapped[str | None]
    """The id or name of what it was done to."""
    event_id: Mapped[UUID | None]
    """The event that it concerned, if it was exactly one."""
    reference: Mapped[str | None]
    """The order that it concerned, if it was exactly one."""
    reason: Mapped[str | None]
    """Why, in the words of the person who did it."""
    request_id: Mapped[str | None]
    details: Mapped[str | None]
    """More about it, as a JSON object."""
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    """SHA-256 of the previous row's hash and this row's content; see `app.audit.chain`."""

    __table_args__ = (
        Index("ix_audit_at", "at"),
        Index(
            "ix_audit_event",
            "event_id",
            "position",
            postgresql_where=text("event_id IS NOT NULL"),
            sqlite_where=text("event_id IS NOT NULL"),
        ),
        Index(
            "ix_audit_reference",
            "reference",
            "position",
            postgresql_where=text("reference IS NOT NULL"),
            sqlite_where=text("reference IS NOT NULL"),
        ),
    )


class Checkpoint(Base):
    """Where the audit begins after older rows were deleted: the last deleted row. Only such rows can be deleted."""

    __tablename__ = "audit_checkpoints"

    position: Mapped[int] = mapped_column(POSITION, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    """When the rows were deleted."""

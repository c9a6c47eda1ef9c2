"""What the processes of priohook say of themselves, and what they refused: for people who look for a fault."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Base, UTCDateTime


class Process(Base):
    """A receiver or a worker. It writes its row every ten seconds while it runs."""

    __tablename__ = "processes"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    """`receiver` or `worker`."""
    name: Mapped[str]
    """No other process has it. A worker's is also in its claims."""
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(BigInteger)
    version: Mapped[str]
    settings: Mapped[str]
    """A digest: processes with the same settings, secrets included, have the same."""
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    beat_at: Mapped[datetime] = mapped_column(UTCDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When it ended in good order."""

    waiting_events: Mapped[int | None] = mapped_column(BigInteger)
    """Of a receiver, as all below: how many events wait for their commit."""
    spooled_events: Mapped[int | None] = mapped_column(BigInteger)
    spooled_bytes: Mapped[int | None] = mapped_column(BigInteger)
    log_lines_dropped: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (Index("ix_processes_beat_at", "beat_at"),)


class RefusedMinute(Base):
    """How many requests of one kind were refused within one minute."""

    __tablename__ = "refusals"

    minute: Mapped[datetime] = mapped_column(UTCDateTime, primary_key=True)
    """Its beginning."""
    door: Mapped[str] = mapped_column(primary_key=True)
    """`webhook`, `token`, `api` or `other`."""
    status: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(primary_key=True)
    """An address, the /64 of an IPv6 address, or `other` for those of a minute with too many."""
    client: Mapped[str] = mapped_column(primary_key=True)
    """The configured client that was meant; empty if there is none. Never what a stranger typed."""
    requests: Mapped[int] = mapped_column(BigInteger)


class ClientUse(Base):
    """When a client was last answered with success, and when it was last refused."""

    __tablename__ = "client_uses"

    client: Mapped[str] = mapped_column(primary_key=True)
    succeeded_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    refused_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    refused_status: Mapped[int | None]
    refused_reason: Mapped[str | None]
    refused_address: Mapped[str | None]

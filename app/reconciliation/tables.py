"""The table of reconciliations."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Base, UTCDateTime

NONE_YET = text("0")


class Reconciliation(Base):
    """A run that compares what Prioticket has with what is stored, and how far it has come."""

    __tablename__ = "reconciliations"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    since: Mapped[datetime] = mapped_column(UTCDateTime)
    """It looks at orders modified since then."""
    until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """It skips orders modified later."""
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """None if it can go on."""
    created_from: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """It goes on with the list of orders made from then on."""
    page: Mapped[int] = mapped_column(server_default=text("1"))
    """It goes on with this page of that list."""
    listed: Mapped[int] = mapped_column(server_default=NONE_YET)
    known: Mapped[int] = mapped_column(server_default=NONE_YET)
    thin: Mapped[int] = mapped_column(server_default=NONE_YET)
    missing: Mapped[int] = mapped_column(server_default=NONE_YET)
    fetched: Mapped[int] = mapped_column(server_default=NONE_YET)
    refused: Mapped[int] = mapped_column(server_default=NONE_YET)
    requests: Mapped[int] = mapped_column(server_default=NONE_YET)
    error: Mapped[str | None]
    """Why it ended before its end."""

"""The table of reconciliations."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import false, text, true
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
    versions: Mapped[bool] = mapped_column(server_default=false())
    """Whether it fetches the versions in between too."""
    deliver: Mapped[bool] = mapped_column(server_default=true())
    """Whether what it fetches is delivered."""
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """None if it can go on."""
    created_from: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """It goes on with the list of orders made from then on."""
    created_to: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """The end of that list, if it is a part of a longer one."""
    page: Mapped[int] = mapped_column(server_default=text("1"))
    """It goes on with this page of that list."""
    listed: Mapped[int] = mapped_column(server_default=NONE_YET)
    known: Mapped[int] = mapped_column(server_default=NONE_YET)
    thin: Mapped[int] = mapped_column(server_default=NONE_YET)
    missing: Mapped[int] = mapped_column(server_default=NONE_YET)
    altered: Mapped[int] = mapped_column(server_default=NONE_YET)
    """Of the missing ones, those of which the store had the version and time with other contents."""
    erased: Mapped[int] = mapped_column(server_default=NONE_YET)
    """Orders that are not fetched, as events of them were erased."""
    expired: Mapped[int] = mapped_column(server_default=NONE_YET)
    """Orders that are not fetched, as they would be too old to be kept."""
    fetched: Mapped[int] = mapped_column(server_default=NONE_YET)
    refused: Mapped[int] = mapped_column(server_default=NONE_YET)
    requests: Mapped[int] = mapped_column(server_default=NONE_YET)
    seconds: Mapped[float] = mapped_column(server_default=NONE_YET)
    """How long it worked, without the time in which it was interrupted."""
    error: Mapped[str | None]
    """Why it ended before its end."""

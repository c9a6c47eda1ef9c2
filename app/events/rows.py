"""An event on its way into the table `events`, and the keys by which its copies are found."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from app.events.tables import Status

ANOTHER_AFTER = timedelta(minutes=10)
NOTIFYING = ("notification", "both")  # shapes


class NewEvent(NamedTuple):
    """An event to store. The columns of the table `events` explain the fields.

    A named tuple because one is made for every request: it takes a third of the time of a frozen dataclass.
    """

    id: UUID
    received_at: datetime
    client: str
    headers: bytes
    """As lines of `name: value`, separated by CRLF."""
    body: bytes
    body_bytes: int
    dedup_key: bytes
    status: str = Status.ACCEPTED.value
    reason: str | None = None
    type: str | None = None
    event_name: str | None = None
    reference: str | None = None
    order_version: int | None = None
    order_modified: datetime | None = None
    notification_id: str | None = None
    api_version: str | None = None
    shape: str | None = None
    address: str | None = None
    request_id: str | None = None
    trace: str | None = None

    @property
    def copies_within(self) -> timedelta | None:
        """For how long after this event the same bytes are a copy of it; None means for ever."""
        return copies_within(self.shape, self.notification_id)


def copies_within(shape: str | None, notification_id: str | None) -> timedelta | None:
    """For how long after an event the same bytes are a copy of it; None means for ever.

    A notification without an id that comes again after more than `ANOTHER_AFTER` announces another change.
    """
    return ANOTHER_AFTER if shape in NOTIFYING and notification_id is None else None


class Stored(NamedTuple):
    """The id under which an event is stored: its own, or the id of its first copy."""

    id: UUID
    duplicate: bool


COLUMNS = (*NewEvent._fields, "duplicates", "last_duplicate_at")


@dataclass(slots=True)
class Row:
    """An event, and how many more copies of it are in the same batch."""

    event: NewEvent
    duplicates: int = 0
    last_duplicate_at: datetime | None = None

    @property
    def copies(self) -> int:
        """How many they are of an event that is stored already."""
        return self.duplicates + 1

    @property
    def last_copy_at(self) -> datetime:
        """When the last of them arrived."""
        return self.last_duplicate_at or self.event.received_at

    def values(self) -> tuple[object, ...]:
        """In the order of `COLUMNS`."""
        return (*self.event, self.duplicates, self.last_duplicate_at)


def outlived_keys(rows: Iterable[Row]) -> list[tuple[bytes, datetime]]:
    """Keys, each with a time. A stored event from before that time gives up the key: the new event is not its copy."""
    return [
        (row.event.dedup_key, row.event.received_at - within)
        for row in rows
        if (within := row.event.copies_within) is not None
    ]


def old_keys(key: bytes) -> tuple[bytes, bytes]:
    """The lowest and the highest key that a release before migration 0009 may have stored for the event.

    Such a key is 16 bytes of the digest; a key of today is a time and the first 12 of them. Both must be looked up,
    since copies of older events may come.
    """
    return key[4:] + bytes(4), key[4:] + b"\xff" * 4

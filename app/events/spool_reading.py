"""Reads events from a file of the spool in order of arrival, and around its damaged pages."""

import logging
import sqlite3
from collections import deque
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from uuid import UUID

from app.database.health import first_line
from app.database.sqlite import is_damage
from app.events.spool_rows import ROW_BYTES, SIZE, Kept, kept_from, size_of

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 256  # events
MOST_BYTES_AT_ONCE = 4 * 1024 * 1024
"""The most bytes of bodies that one transaction moves; a single event may have more."""

ALL = "SELECT * FROM spooled ORDER BY position"
ONE = "SELECT * FROM spooled WHERE position = ?"
POSITIONS = "SELECT position FROM spooled INDEXED BY sqlite_autoindex_spooled_1 WHERE key >= x'' ORDER BY position"
UNREADABLE = (sqlite3.DatabaseError, ValueError, TypeError)
LAST_POSITION = "SELECT seq FROM sqlite_sequence WHERE name = 'spooled'"


class Reader:
    """Reads one file.

    Attributes:
        damage: The error that told of a damaged page or row; None as long as there was none.
        unreadable: How many events are on damaged pages. Their positions are known from the index of keys.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._readable: deque[int] = deque()  # positions, once a page was found damaged
        self.damage: Exception | None = None
        self.unreadable = 0

    def size(self) -> tuple[int, int, UUID | None]:
        """How many events there are, about how many bytes they take, and the greatest id."""
        try:
            events, size = self._connection.execute(SIZE).fetchone()
            (newest,) = self._connection.execute("SELECT max(id) FROM spooled").fetchone()
        except UNREADABLE as error:
            return self._read_around(error)
        return events, size + events * ROW_BYTES, newest and UUID(bytes=newest)

    def oldest(self, *, without: Container[int]) -> list[Kept]:
        """The first events to move, no two of them with the same key; `without` the positions given."""
        try:
            return _first(kept for kept in self._rows(without) if kept.position not in without)
        except UNREADABLE as error:
            if self.damage is not None:
                raise
            self._read_around(error)
        return self.oldest(without=without)

    def _rows(self, without: Container[int]) -> Iterator[Kept]:
        if self.damage is None:
            cursor = self._connection.execute(ALL)
            for values in cursor:
                yield kept_from(cursor, values)
            return
        while self._readable and (self._readable[0] in without or self._row(self._readable[0]) is None):
            self._readable.popleft()  # it was moved
        for position in self._readable:
            if kept := self._row(position):
                yield kept

    def _row(self, position: int) -> Kept | None:
        cursor = self._connection.execute(ONE, (position,))
        values = cursor.fetchone()
        return None if values is None else kept_from(cursor, values)

    def _read_around(self, error: Exception) -> tuple[int, int, UUID | None]:
        """Reads each event by itself once, to find those that can be read; returns what `size` returns."""
        if not _is_damage(error):
            raise error
        self.damage = error
        size, newest = 0, None
        for position in self._positions():
            try:
                kept = self._row(position)
            except UNREADABLE:
                self.unreadable += 1
                continue
            if kept is not None:
                self._readable.append(position)
                size += size_of(kept.row.event)
                newest = max(newest or kept.row.event.id, kept.row.event.id)
        fields = {"file": self._path.name, "events": self.unreadable, "error": first_line(error)}
        logger.error("spool_file_damaged", extra={"fields": fields})
        return len(self._readable), size, newest

    def _positions(self) -> Iterable[int]:
        try:
            return [position for (position,) in self._connection.execute(POSITIONS)]
        except sqlite3.DatabaseError as error:  # the index of keys is damaged too
            if not is_damage(error):
                raise
        (last,) = self._connection.execute(LAST_POSITION).fetchone()
        return range(last + 1)


def _first(rows: Iterable[Kept]) -> list[Kept]:
    found: list[Kept] = []
    keys: set[bytes] = set()
    size = 0
    for kept in rows:
        size += len(kept.row.event.body)
        if found and (size > MOST_BYTES_AT_ONCE or kept.row.event.dedup_key in keys):
            break
        found.append(kept)
        keys.add(kept.row.event.dedup_key)
        if len(found) == MOST_AT_ONCE:
            break
    return found


def _is_damage(error: Exception) -> bool:
    """Whether a page is damaged, or a row holds what no release wrote: the driver's own errors have no code."""
    return is_damage(error) or not hasattr(error, "sqlite_errorcode")

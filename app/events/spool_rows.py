"""The events in a file of the spool, as SQLite wants them."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from app.events.ids import EPOCH, MICROSECOND
from app.events.rows import COLUMNS, NewEvent, Row, outlived_keys
from app.events.spool_lock import APPLICATION_ID

ROW_BYTES = 512
"""About what an event takes besides its body and headers."""

TIMES = ("received_at", "order_modified", "last_duplicate_at")
"""Columns that hold microseconds since 1970."""

OWN_COLUMNS = ("position", "key", "refused")
CREATE = f"""
CREATE TABLE IF NOT EXISTS spooled (
    position INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, refused TEXT, {", ".join(COLUMNS)}
)
"""
"""`key` is `dedup_key` while more copies may come, and the id after that. The database always gets `dedup_key`.

`refused` says why the database refused the event when it was last moved.
"""

INSERT = f"INSERT INTO spooled (key, {', '.join(COLUMNS)}) VALUES (?{', ?' * len(COLUMNS)})"  # noqa: S608
WITH_KEY = "SELECT id FROM spooled WHERE key = ?"
COUNT_COPIES = "UPDATE spooled SET duplicates = duplicates + ?, last_duplicate_at = ? WHERE key = ?"
FREE_KEY = "UPDATE spooled SET key = id WHERE key = ? AND received_at < ?"
SIZE = "SELECT count(*), coalesce(sum(length(body) + length(headers)), 0) FROM spooled"
ERASE = "DELETE FROM spooled WHERE id = ?"
FORGET = "DELETE FROM spooled WHERE position = ? AND duplicates = ?"
REFUSE = "UPDATE spooled SET refused = ? WHERE position = ?"


@dataclass(frozen=True, slots=True)
class Kept:
    """An event of the spool, and its position in the file."""

    position: int
    row: Row


def create(path: Path) -> None:
    """Makes the table in an empty file, in one transaction without a log: the file has all of it or nothing."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(CREATE)
        connection.execute("COMMIT")


def store(connection: sqlite3.Connection, rows: Sequence[Row]) -> tuple[dict[bytes, UUID], list[NewEvent]]:
    """Inserts rows or counts them as copies. Returns their ids by `dedup_key`, and the events that were inserted."""
    ids: dict[bytes, UUID] = {}
    new: list[NewEvent] = []
    for key, before in outlived_keys(rows):
        connection.execute(FREE_KEY, (key, _number(before)))
    for row in sorted(rows, key=lambda row: row.event.id):
        key = row.event.dedup_key
        if found := connection.execute(WITH_KEY, (key,)).fetchone():
            ids[key] = UUID(bytes=found[0])
            connection.execute(COUNT_COPIES, (row.copies, _number(row.last_copy_at), key))
            continue
        ids[key] = row.event.id
        connection.execute(INSERT, (key, *(_stored(value) for value in row.values())))
        new.append(row.event)
    return ids, new


def kept_from(cursor: sqlite3.Cursor, values: Sequence[Any]) -> Kept:
    """The event of a row. A column that an older release did not have gets its default."""
    named = dict(zip((name for name, *_ in cursor.description), values, strict=True))
    position = named["position"]
    for name in OWN_COLUMNS:
        named.pop(name, None)
    named["id"] = UUID(bytes=named["id"])
    for name in TIMES:
        named[name] = named[name] if named[name] is None else time_of(named[name])
    duplicates, last = named.pop("duplicates"), named.pop("last_duplicate_at")
    return Kept(position, Row(NewEvent(**named), duplicates, last))


def size_of(event: NewEvent) -> int:
    """About how many bytes an event takes in a file."""
    return len(event.body) + len(event.headers) + ROW_BYTES


def time_of(number: int) -> datetime:
    """The time that a column holds."""
    return EPOCH + number * MICROSECOND


def _stored(value: object) -> Any:
    if isinstance(value, UUID):
        return value.bytes
    return _number(value) if isinstance(value, datetime) else value


def _number(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND

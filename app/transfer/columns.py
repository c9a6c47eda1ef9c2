"""The tables that move, and how a value of SQLite becomes one of PostgreSQL."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, Boolean, Column, Double, Float, Integer, LargeBinary, MetaData, String, Table, Uuid
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator

from app.database.columns import SQLITE_INSTANT, UTCDateTime

LEFT_BEHIND = {
    "backups": "It names the last backup of the SQLite file. PostgreSQL is backed up by its own tools.",
    "processes": "It has the processes that used the SQLite file. Those that use PostgreSQL report themselves.",
}
"""Tables that do not move, each with the reason."""

REPLACEMENT = "\ufffd"
"""Takes the place of NUL, which PostgreSQL's text cannot hold. Only a row that another program wrote can have one."""

Read = Callable[[Any], Any]
Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Moving:
    """A table that moves.

    Attributes:
        name: The table's.
        columns: All its columns.
        key: The columns of its primary key.
        selected: What is selected from SQLite for each column.
        readers: Make of each column's value in SQLite, unless it is null, what the driver of PostgreSQL takes.
        compared: What is selected from PostgreSQL to compare each column. Of bytes it is their SHA-256.
        digested: For each column, whether its SHA-256 is compared.
        key_types: PostgreSQL's types of the key.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    selected: tuple[str, ...]
    readers: tuple[Read | None, ...]
    compared: tuple[str, ...]
    digested: tuple[bool, ...]
    key_types: tuple[str, ...]

    def read(self, row: Sequence[Any]) -> Values:
        """A row of SQLite as the driver of PostgreSQL takes it."""
        return tuple(
            value if reader is None or value is None else reader(value)
            for reader, value in zip(self.readers, row, strict=True)
        )

    def digest(self, row: Values) -> Values:
        """A row as it is compared with what `compared` selects."""
        return tuple(
            sha256(value).digest() if digested and value is not None else value
            for digested, value in zip(self.digested, row, strict=True)
        )

    def key_of(self, row: Sequence[Any]) -> Values:
        """The key of a row, in the order of `key`."""
        return tuple(row[self.columns.index(name)] for name in self.key)


def moving_tables(metadata: MetaData) -> list[Moving]:
    """The tables that move, by name; `audit_checkpoints` is as good before as after `audit`."""
    return [_moving(table) for name, table in sorted(metadata.tables.items()) if name not in LEFT_BEHIND]


def _moving(table: Table) -> Moving:
    columns = list(table.columns)
    digested = tuple(isinstance(_plain(column), LargeBinary) for column in columns)
    keys = list(table.primary_key.columns)
    return Moving(
        name=table.name,
        columns=tuple(column.name for column in columns),
        key=tuple(column.name for column in keys),
        # On SQLite the position of an event is the number of its row: see app.events.positions.
        selected=tuple(
            "rowid" if (table.name, column.name) == ("events", "position") else f'"{column.name}"' for column in columns
        ),
        readers=tuple(map(_reader, columns)),
        compared=tuple(_compared(column, digested=each) for column, each in zip(columns, digested, strict=True)),
        digested=digested,
        key_types=tuple(column.type.compile(dialect=postgresql.dialect()) for column in keys),  # type: ignore[no-untyped-call] # SQLAlchemy's
    )


def _plain(column: Column[Any]) -> Any:
    """The column's type, without what wraps it."""
    return column.type.impl if isinstance(column.type, TypeDecorator) else column.type


def _reader(column: Column[Any]) -> Read | None:
    """What makes a value of the driver of PostgreSQL.

    Raises:
        TypeError: nobody has said how values of this type move.
    """
    if isinstance(column.type, UTCDateTime):
        return _instant
    plain = _plain(column)
    if isinstance(plain, Uuid):
        return _id
    if isinstance(plain, Boolean):
        return bool
    if isinstance(plain, (Float, Double)):
        return float
    if isinstance(plain, (JSON, String)):
        return _text
    if isinstance(plain, (LargeBinary, Integer)):
        return None
    raise TypeError(f"how do values of {column} move?")


def _compared(column: Column[Any], *, digested: bool) -> str:
    if digested:
        return f'sha256(t."{column.name}")'
    return f't."{column.name}"::text' if isinstance(_plain(column), JSON) else f't."{column.name}"'


def _instant(value: str) -> datetime:
    return datetime.fromisoformat(value.rjust(SQLITE_INSTANT, "0")).replace(tzinfo=UTC)


def _id(value: bytes) -> UUID:
    return UUID(bytes=value)


def _text(value: str) -> str:
    return value.replace("\x00", REPLACEMENT) if "\x00" in value else value

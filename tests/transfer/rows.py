"""Rows of every table, with what a sender, a consumer or a clock may have put there."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, Boolean, Column, Double, Float, Integer, LargeBinary, String, Table, Uuid, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeDecorator

from app.database.columns import Base, UTCDateTime
from app.transfer.columns import LEFT_BEHIND

ROWS = 7
LARGEST_INT, LARGEST_BIGINT = 2**31 - 1, 2**63 - 1
TIMES = (
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
)
TEXTS = ("", "é\u2028\U0001f600", "'; DROP TABLE events; --", "\\x00", " \t\n")
BYTES = (b"", bytes(range(256)), b"\xff\xfe\x00", b'{"half": "\xc3')
STATES = {
    "events": ("accepted", "quarantined"),
    "deliveries": ("pending", "delivered", "dead", "dropped"),
    "fetches": ("done", "refused", "dead"),
    "replays": ("running", "paused", "cancelled", "done"),
}
ORDINAL = ("position", "number")
"""Columns of a key that count from 1."""


async def fill(connection: AsyncConnection, *, first: int = 1, rows: int = ROWS) -> None:
    """Inserts rows into every table that moves. Does not commit."""
    for name, table in sorted(Base.metadata.tables.items()):
        if name not in LEFT_BEHIND:
            await connection.execute(insert(table), [row_of(table, number) for number in range(first, first + rows)])


def row_of(table: Table, number: int) -> dict[str, Any]:
    """The row with this number."""
    return {
        column.name: _value(table, column, number)
        for column in table.columns
        if (table.name, column.name) != ("events", "position")
    }


def _value(table: Table, column: Column[Any], number: int) -> Any:  # noqa: C901, PLR0911 - a case for each type
    distinct = column.primary_key or not column.nullable
    if column.name == "status" and table.name in STATES:
        return STATES[table.name][number % len(STATES[table.name])]
    if not distinct and number % 3 == 0:
        return None
    plain = column.type.impl if isinstance(column.type, TypeDecorator) else column.type
    if isinstance(column.type, UTCDateTime):
        return TIMES[number % len(TIMES)] if not column.primary_key else TIMES[2] + timedelta(minutes=number)
    if isinstance(plain, Uuid):
        return UUID(int=number << 64 | (7 << 76) | sum(map(ord, column.name)) << 8 | 2 << 62)
    if isinstance(plain, Boolean):
        return bool(number % 2)
    if isinstance(plain, (Float, Double)):
        return number / 3
    if isinstance(plain, JSON):
        return json.loads('{"q": "\\u0000", "n": 1e3}')
    if isinstance(plain, LargeBinary):
        return BYTES[number % len(BYTES)] + number.to_bytes(16)
    if isinstance(plain, String):
        return f"{TEXTS[number % len(TEXTS)]}{number}"
    assert isinstance(plain, Integer), column
    if column.primary_key:
        return number
    big = "BIGINT" in str(plain)
    return (LARGEST_BIGINT if big else LARGEST_INT) - number

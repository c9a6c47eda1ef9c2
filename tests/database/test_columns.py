"""Every value that a column can hold, by each way that writes it, comes back by each way that reads it."""

import math
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Integer,
    LargeBinary,
    String,
    Table,
    Uuid,
    insert,
    select,
    text,
)

from app.database.columns import Base, UTCDateTime
from app.database.writing import writing
from app.events.queries import EventFilter, get_event, list_events
from app.events.rows import NewEvent, Row
from app.events.store import BadRow
from app.events.tables import HeaderBlock
from app.events.timeline import timeline
from tests.events.stores import RECEIVED, new_event, writer_for

FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
FAR_EAST, FAR_WEST = (timezone(timedelta(hours=hours)) for hours in (14, -14))
VALUES: dict[type, list[Any]] = {
    UTCDateTime: [
        FIRST,
        FIRST.replace(tzinfo=FAR_WEST),
        FIRST + timedelta(microseconds=1),
        datetime(999, 12, 31, 23, 59, 59, 999999, UTC),
        datetime(1000, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, FAR_EAST),
        datetime(2026, 8, 12, 10, 15, tzinfo=UTC),
        LAST.replace(tzinfo=FAR_EAST),
        LAST,
    ],
    Uuid: [UUID(int=0), UUID(int=1), UUID(int=2**127), UUID(int=2**128 - 1)],
    BigInteger: [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)],
    Integer: [0, 1, -1, 2**31 - 1, -(2**31)],
    Boolean: [False, True],
    Double: [0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, math.inf],
    String: [
        "",
        " ",
        "NULL",
        "'",
        "%_\\",
        "\x01\x1b\x7f",
        "\r\n",
        "é😀\uffff\U0010ffff",
        "\ufeff\u202e",
        "1-01-01",
        "x" * 9999,
    ],
    HeaderBlock: [b"", b"a: b", b"a: ", b"a: \x00\xff: \xe9\r\na: b"],
    LargeBinary: [b"", b"\0", bytes(range(256)), b"'" * 9999],
    JSON: [{}, {"type": "\ud800\0'", "n": [2**70, None, 1e300]}],
}
UNSTORABLE = {
    "before the year 1 in UTC": {"order_modified": FIRST.replace(tzinfo=FAR_EAST)},
    "after the year 9999 in UTC": {"order_modified": LAST.replace(tzinfo=FAR_WEST)},
    "above 64 bits": {"order_version": 2**63},
    "below 64 bits": {"body_bytes": -(2**63) - 1},
    "a lone surrogate": {"reference": "\ud800"},
    "None": {"client": None},
    "another type": {"type": object()},
}
HEADERS = [[], [["a", "b"]], [["a", ""]], [["a", "\0ÿ: é"], ["a", "b"]]]
TABLES = Base.metadata.sorted_tables


def values_of(column: Column[Any]) -> list[Any]:
    if column.name == "status" and isinstance(column.type, String):
        return [column.server_default.arg if column.server_default is not None else "accepted"]  # type: ignore[attr-defined]
    kind = next(kind for kind in VALUES if isinstance(column.type, kind))
    return [*VALUES[kind], *([None] if column.nullable else [])]


def rows_of(table: Table) -> list[dict[str, Any]]:
    """As many rows as the longest list of values is; keys differ from row to row."""
    columns = [column for column in table.columns if not column.primary_key or not isinstance(column.type, Uuid)]
    count = max((len(values_of(column)) for column in columns), default=4)
    rows = []
    for number in range(count):
        row = {column.name: values_of(column)[number % len(values_of(column))] for column in columns}
        for column in table.primary_key:
            row[column.name] = unique(column, number)
        if "dedup_key" in row:
            row["dedup_key"] = bytes([number]) * 16
        if table.name == "fetches":
            row["reference"] = f"{number} {row['reference']}"
        rows.append(row)
    return rows


def unique(column: Column[Any], number: int) -> Any:
    if isinstance(column.type, Uuid):
        return UUID(int=(number * 2**127 // 20) | number)
    if isinstance(column.type, UTCDateTime):
        return FIRST + timedelta(days=number)
    return number if isinstance(column.type, Integer) else str(number)


def read_back(row: dict[str, Any]) -> dict[str, Any]:
    """What a row that was written looks like to a reader."""
    shown = {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in row.items()}
    if "headers" in row:
        shown["headers"] = HEADERS[VALUES[HeaderBlock].index(row["headers"])]
    return shown


def key_of(row: dict[str, Any], table: Table) -> tuple[str, ...]:
    return tuple(str(row[column.name]) for column in table.primary_key)


async def read_all(engine: Any, table: Table) -> list[dict[str, Any]]:
    async with engine.connect() as connection:
        found = [row._asdict() for row in await connection.execute(select(table))]
    return sorted(found, key=lambda row: key_of(row, table))


@pytest.mark.parametrize("table", TABLES, ids=[table.name for table in TABLES])
async def test_what_sqlalchemy_writes_it_reads(engine, table):
    rows = rows_of(table)
    async with writing(engine) as connection:
        for row in rows:
            await connection.execute(insert(table).values(row))
    expected = [read_back(row) for row in rows]
    found = await read_all(engine, table)
    assert found == sorted(expected, key=lambda row: key_of(row, table))
    zones = {value.tzinfo for row in found for value in row.values() if isinstance(value, datetime)}
    assert zones <= {UTC}


async def test_what_the_store_writes_every_reader_reads(database_url, engine):
    table = Base.metadata.tables["events"]
    rows = [{**row, "duplicates": number} for number, row in enumerate(rows_of(table))]
    writer = writer_for(database_url)
    written = [
        Row(NewEvent(**{name: row[name] for name in NewEvent._fields}), row["duplicates"], row["last_duplicate_at"])
        for row in rows
    ]
    await writer.write(sorted(written, key=lambda row: row.event.dedup_key))
    await writer.close()
    later = {"released_at": None, "erased_at": None, "body_sha256": None, **RECEIVED}
    expected = {row["id"]: read_back({**row, **later}) for row in rows}
    for whole in expected.values():
        del whole["position"]  # the database's own
    stored = await read_all(engine, table)
    assert {row["id"]: {name: row[name] for name in expected[row["id"]]} for row in stored} == expected
    async with engine.connect() as connection:
        listed = await list_events(connection, EventFilter(), limit=99)
        for event_id, whole in expected.items():
            found = await get_event(connection, event_id)
            assert found is not None
            assert asdict(found) == {name: value for name, value in whole.items() if name != "body_sha256"}
    assert [row.id for row in listed] == sorted(expected, reverse=True)
    assert {placed.event.id for placed in timeline(listed)} == set(expected)


@pytest.mark.parametrize("odd", UNSTORABLE.values(), ids=UNSTORABLE)
async def test_what_no_column_can_hold_is_refused_and_stores_nothing(database_url, count, odd):
    writer = writer_for(database_url)
    with pytest.raises(BadRow):
        await writer.write([Row(new_event("odd", **odd))])
    await writer.close()
    assert await count() == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("stored_text", "means"),
    [("1-01-01 00:00:00.000000", FIRST), ("999-12-31 23:59:59.999999", datetime(999, 12, 31, 23, 59, 59, 999999, UTC))],
)
async def test_a_year_that_an_earlier_release_stored_without_zeros_is_read(
    database_url, engine, stored, stored_text, means
):
    writer = writer_for(database_url)
    await writer.write([Row(new_event("one", order_modified=means))])
    await writer.close()
    async with writing(engine) as connection:
        await connection.execute(text("UPDATE events SET order_modified = :as_text"), {"as_text": stored_text})
    (row,) = await stored()
    assert row.order_modified == means

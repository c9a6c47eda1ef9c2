"""Migration 0010 on SQLite, with rows of every kind that the release before it may have stored."""

import json
import os
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from alembic.util import CommandError
from sqlalchemy import Uuid, select

from app.database import migrations, schema
from app.database.columns import sqlite_instant
from app.database.engines import engine_for, sqlite_path
from app.events.rows import Stored
from app.events.tables import Undispatched
from tests.database.test_columns import TABLES, key_of, read_all, read_back, rows_of
from tests.events.stores import new_event, running

BEFORE = "0009"
LATER = (
    "first_",
    "event_name",
    "origin",
    "cause",
    "fetched_for",
    "address",
    "request_id",
    "trace",
    "certificate_",
    "unusable_",
    "erased_at",
    "body_sha256",
)
NEWER = (
    *("alarm", "audit", "claims", "fetch", "reconciliations", "deleted_events", "backups"),
    *("processes", "refusals", "client_uses"),
)
OLD_TABLES = [table for table in TABLES if not table.name.startswith(NEWER)]


@pytest.fixture
def rows() -> dict[str, list[dict[str, Any]]]:
    """By table, without the columns that later migrations add."""
    return {
        table.name: [{name: row[name] for name in row if not name.startswith(LATER)} for row in rows_of(table)]
        for table in OLD_TABLES
    }


@pytest.fixture
async def old_url(tmp_path: Path, rows: dict[str, list[dict[str, Any]]]) -> str:
    """A file as the release before left it: ids are characters."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'old.db'}"
    async with engine_for(url) as engine:
        await migrations.migrate(engine, revision=BEFORE)
    with closing(sqlite3.connect(sqlite_path(url))) as connection:
        for name, each in rows.items():
            for row in each:
                places = ", ".join("?" for _ in row)
                statement = f"INSERT OR IGNORE INTO {name} ({', '.join(row)}) VALUES ({places})"  # noqa: S608
                connection.execute(statement, [as_it_was(value) for value in row.values()])
        connection.execute("DELETE FROM undispatched")
        connection.executemany(
            "INSERT INTO undispatched VALUES (?)", [(row["event_id"].hex,) for row in rows["undispatched"]]
        )
        connection.commit()
    return url


def as_it_was(value: Any) -> Any:
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, datetime):
        return sqlite_instant(value)
    return json.dumps(value) if isinstance(value, dict) else value


async def test_every_row_is_as_it_was_and_what_is_stored_next_is_dispatched(old_url, rows):
    async with engine_for(old_url) as engine:
        await migrations.migrate(engine)
        for table in OLD_TABLES:
            expected = sorted((read_back(row) for row in rows[table.name]), key=lambda row: key_of(row, table))
            found = await read_all(engine, table)
            assert [{**row, **given} for row, given in zip(found, expected, strict=True)] == found
        async with running(old_url) as store:
            new = new_event("new")
            await store.append(new)
        async with engine.connect() as connection:
            assert new.id in set(await connection.scalars(select(Undispatched.event_id)))


async def test_a_copy_of_an_event_with_an_old_key_is_found_afterwards(old_url):
    old, new = new_event("old"), new_event("new")
    columns: dict[str, Any] = {
        "id": old.id.hex,
        "received_at": sqlite_instant(old.received_at),
        "client": "c",
        "status": "accepted",
    }
    columns |= {"headers": b"", "body": b"", "body_bytes": 0, "dedup_key": old.dedup_key[4:] + b"tail"}
    with closing(sqlite3.connect(sqlite_path(old_url))) as connection:
        places = ", ".join("?" for _ in columns)
        connection.execute(f"INSERT INTO events ({', '.join(columns)}) VALUES ({places})", [*columns.values()])  # noqa: S608
        connection.commit()
    async with engine_for(old_url) as engine:
        await migrations.migrate(engine)
    async with running(old_url) as store:
        assert await store.append(new_event("old")) == Stored(old.id, duplicate=True)
        assert await store.append(new) == Stored(new.id, duplicate=False)


async def test_events_stay_in_their_order_with_their_bytes(old_url):
    def stored() -> list[Any]:
        with closing(sqlite3.connect(sqlite_path(old_url))) as connection:
            return connection.execute("SELECT received_at, body, headers, dedup_key FROM events ORDER BY id").fetchall()

    before = stored()
    async with engine_for(old_url) as engine:
        await migrations.migrate(engine)
        assert stored() == before
        await migrations.migrate(engine, revision=BEFORE)
        assert stored() == before
        await migrations.migrate(engine)
    assert stored() == before != []


async def test_a_schema_that_went_back_is_the_one_of_before(old_url, tmp_path):
    def made(path: Path) -> set[tuple[str, ...]]:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        return {(kind, name, sql.replace('"', "")) for kind, name, sql in found}

    before = made(sqlite_path(old_url))
    async with engine_for(old_url) as engine:
        await migrations.migrate(engine)
        assert made(sqlite_path(old_url)) != before
        await migrations.migrate(engine, revision=BEFORE)
    assert made(sqlite_path(old_url)) == before


async def test_too_little_disk_is_said_before_anything_is_done(old_url, monkeypatch):
    full = SimpleNamespace(f_bavail=10, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    async with engine_for(old_url) as engine:
        with pytest.raises(CommandError, match=r"rewriting old.db needs [\d.]+ MB of free disk, and 0 MB are free"):
            await migrations.migrate(engine)
        with pytest.raises(schema.SchemaNotCurrent, match=f"is at {BEFORE}"):
            await schema.check_schema(engine)


async def test_an_id_of_characters_as_the_previous_release_writes_it_is_refused_by_every_table(old_url, rows):
    async with engine_for(old_url) as engine:
        await migrations.migrate(engine)
    with closing(sqlite3.connect(sqlite_path(old_url))) as connection:
        for table in OLD_TABLES:
            for column in table.columns:
                if isinstance(column.type, Uuid) and any(row.get(column.name) for row in rows[table.name]):
                    with pytest.raises(sqlite3.IntegrityError, match=r"CHECK constraint|UPDATE of events is refused"):
                        connection.execute(f"UPDATE {table.name} SET {column.name} = lower(hex({column.name}))")  # noqa: S608


async def test_what_an_operator_made_is_made_again(old_url):
    made = [
        "CREATE VIEW report AS SELECT type, count(*) AS number FROM events GROUP BY type",
        'CREATE INDEX "by-client" ON events (client)',
        'CREATE TRIGGER "no-report" INSTEAD OF INSERT ON report BEGIN SELECT 1; END',
    ]

    def found() -> set[str]:
        with closing(sqlite3.connect(sqlite_path(old_url))) as connection:
            assert connection.execute("SELECT sum(number) FROM report").fetchone()[0] > 0
            return {
                sql.replace('"events"', "events")
                for (sql,) in connection.execute("SELECT sql FROM sqlite_master")
                if sql
            }

    with closing(sqlite3.connect(sqlite_path(old_url))) as connection:
        for statement in made:
            connection.execute(statement)
    async with engine_for(old_url) as engine:
        for revision in ("head", BEFORE):
            await migrations.migrate(engine, revision=revision)
            assert set(made) <= found()


@pytest.mark.parametrize("stored", [True, False])
async def test_old_keys_are_looked_up_unless_the_file_is_known_to_have_none(old_url, stored):
    with closing(sqlite3.connect(sqlite_path(old_url))) as connection:
        if not stored:
            connection.execute("DELETE FROM events")
            connection.commit()
    async with engine_for(old_url) as engine:
        await migrations.migrate(engine)
    with closing(sqlite3.connect(sqlite_path(old_url))) as connection:
        # Zero is also what a file has that was saved as SQL, by `.dump` or `.recover`.
        assert connection.execute("PRAGMA user_version").fetchone() == (0 if stored else 1,)

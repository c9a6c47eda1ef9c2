"""Migration 0010 writes a whole SQLite file again: killed at any point, and beside a writer of the previous release."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from signal import SIGKILL
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import pytest

from app.database import migrations
from app.database.engines import engine_for
from app.events.ids import new_id
from tests.e2e.conftest import configured, environment_for

EVENTS = 30_000
MB = 1_000_000
PATIENCE = 180.0  # seconds
INSERT = """
INSERT INTO events (id, received_at, client, status, type, reference, headers, body, body_bytes, dedup_key)
VALUES (?, '2026-08-12 10:15:00.000000', 'prioticket', 'accepted', 'ORDER_CREATE', ?, x'', ?, 1000, ?)
"""


def row(event_id: UUID) -> tuple[Any, ...]:
    return (event_id.hex, f"PRI{event_id.int % 1000}", event_id.bytes * 63, event_id.bytes)


@pytest.fixture(scope="module")
def old_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the previous release, which nobody has open."""
    path = tmp_path_factory.mktemp("old") / "priohook.db"

    async def make() -> None:
        async with engine_for(f"sqlite+aiosqlite:///{path}") as engine:
            await migrations.migrate(engine, revision="0009")

    asyncio.run(make())
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(INSERT, [row(new_id()) for _ in range(EVENTS)])
        connection.commit()
    return path


@pytest.fixture
def path(old_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(old_file, tmp_path / "priohook.db"))


def start_migrating(path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, **environment_for(**configured(f"sqlite+aiosqlite:///{path}"))}
    return subprocess.Popen(
        [sys.executable, "-m", "app", "migrate"],
        env=environment,
        cwd=path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def contents(path: Path) -> tuple[str, list[tuple[Any, ...]], set[str]]:
    """The revision, the events, and the ids of those that wait for dispatch."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        as_text = "lower(hex({0}))" if revision > "0009" else "{0}"
        columns = f"{as_text.format('id')}, reference, body, dedup_key, received_at, type"
        events = connection.execute(f"SELECT {columns} FROM events ORDER BY id").fetchall()  # noqa: S608
        ids = connection.execute(f"SELECT {as_text.format('event_id')} FROM undispatched")  # noqa: S608
        waiting = {text for (text,) in ids}
    return revision, events, waiting


POINTS: dict[str, Callable[[Path, int], bool]] = {
    "at its start": lambda log, _: log.exists(),
    "as it copies": lambda log, _: size(log) > 10 * MB,
    "later": lambda log, _: size(log) > 30 * MB,
    "as it makes indexes": lambda log, before: size(log) > before,
    "as the log goes into the file": lambda log, before: size(log.with_name("priohook.db")) > before,
}


@pytest.mark.parametrize("point", POINTS)
def test_a_migration_that_is_killed_leaves_the_events_as_they_were_and_the_next_one_finishes(path, point):
    before, bytes_before, log = contents(path), size(path), path.with_name("priohook.db-wal")
    migrating = start_migrating(path)
    limit = monotonic() + PATIENCE
    while migrating.poll() is None and not POINTS[point](log, bytes_before) and monotonic() < limit:
        sleep(0.001)
    migrating.send_signal(SIGKILL)
    migrating.communicate(timeout=PATIENCE)
    assert contents(path)[1:] == before[1:]
    again = start_migrating(path)
    assert "The schema is current." in again.communicate(timeout=PATIENCE)[0]
    after = contents(path)
    assert after[0] > before[0]
    assert after[1:] == before[1:]


def test_what_the_previous_release_commits_meanwhile_is_there_afterwards_and_later_it_can_commit_nothing(path):
    committed: list[UUID] = []
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as receiver:
        migrating = start_migrating(path)
        while migrating.poll() is None:
            event_id = new_id()
            try:
                receiver.execute(INSERT, row(event_id))
            except (sqlite3.OperationalError, sqlite3.IntegrityError):  # locked, and then refused
                sleep(0.002)
            else:
                committed.append(event_id)
        assert "The schema is current." in migrating.communicate(timeout=PATIENCE)[0]
        with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
            receiver.execute(INSERT, row(new_id()))
    _, events, waiting = contents(path)
    assert len(events) == EVENTS + len(committed) > EVENTS
    assert {event_id.hex for event_id in committed} <= waiting & {event[0] for event in events}


def test_temporary_files_are_on_the_disk_whose_room_was_checked(path):
    folders: set[Path] = set()
    migrating = start_migrating(path)
    while migrating.poll() is None:
        with suppress(FileNotFoundError):
            for each in Path(f"/proc/{migrating.pid}/fd").iterdir():
                opened = each.readlink()
                if opened.name.startswith("etilqs"):
                    folders.add(opened.parent)
        sleep(0.001)
    assert "The schema is current." in migrating.communicate(timeout=PATIENCE)[0]
    assert folders == {path.parent.resolve()}

"""The SQLite file while a store has it open: removed, renamed, replaced, damaged."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.database.engines import engine_for, sqlite_path
from app.database.schema import check_schema
from app.database.sqlite import DamagedFile
from app.database.writing import writing
from app.events.queries import EventFilter, list_events
from app.events.rows import Row
from app.events.store import EventStore, StoreUnavailable
from app.web.transactions import DatabaseAway, changing, reading
from tests.conftest import WEBHOOK, basic_header, bearer_header
from tests.events.stores import new_event, running, writer_for

READER = bearer_header()


@pytest.fixture
def path(sqlite_url: str) -> Path:
    return sqlite_path(sqlite_url)


@pytest.fixture
async def store(sqlite_url: str) -> AsyncIterator[EventStore]:
    """A SQLite database with one event, `before`."""
    async with running(sqlite_url) as store:
        await store.append(new_event("before"))
        yield store


def side(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def backup(path: Path, to: Path) -> Path:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
    return to


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    for each in (path, side(path, "-wal"), side(path, "-shm")):
        each.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("old.db"))


def replace(path: Path) -> None:
    backup(path, path.with_name("backup.db")).replace(path)


def delete_log(path: Path) -> None:
    side(path, "-wal").unlink()


def delete_index(path: Path) -> None:
    side(path, "-shm").unlink()


def keys_in(path: Path) -> set[bytes]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {key for (key,) in connection.execute("SELECT dedup_key FROM events")}


FATES = [delete, delete_all, rename, replace, delete_log, delete_index]


@pytest.mark.parametrize("fate", FATES)
async def test_nothing_is_acknowledged_once_the_file_is_another(store, path, fate: Callable[[Path], None]):
    fate(path)
    for number in range(3):
        with pytest.raises(StoreUnavailable):
            await store.append(new_event(f"after {number}"))


@pytest.mark.parametrize("fate", FATES)
async def test_nothing_is_read_and_changed_once_the_file_is_another(sqlite_url, path, fate):
    async with engine_for(sqlite_url) as engine:
        async with writing(engine):
            pass
        fate(path)
        for transaction in (reading, changing):
            with pytest.raises(DatabaseAway, match=r"priohook\.db"):
                async with transaction(engine) as connection:
                    await list_events(connection, EventFilter(), limit=1)


@pytest.mark.parametrize(
    ("fate", "says"),
    [(delete, "priohook.db is gone"), (replace, "priohook.db was replaced"), (delete_log, "was removed")],
)
async def test_readiness_says_what_became_of_the_file(sqlite_url, start, path, fate, says):
    async with start(sqlite_url) as client:
        assert (await client.post(WEBHOOK, content=b'{"data":{}}', headers=basic_header())).status_code == 200
        fate(path)
        assert (await client.post(WEBHOOK, content=b'{"data":{"n":1}}', headers=basic_header())).status_code == 503
        assert (await client.get("/api/events", headers=READER)).status_code == 503
        reply = await client.get("/readyz")
    assert reply.status_code == 503
    assert says in reply.text
    assert str(path.parent) not in reply.text


async def test_what_is_committed_into_a_file_that_goes_meanwhile_is_not_acknowledged(sqlite_url, path, monkeypatch):
    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(lambda statement: rename(path) if going and statement == "COMMIT" else None)
        return connection

    going = False
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", traced)
    async with running(sqlite_url) as store:
        await store.append(new_event("before"))
        going = True
        with pytest.raises(StoreUnavailable):
            await store.append(new_event("meanwhile"))
        with pytest.raises(StoreUnavailable):  # and what was committed is copied into the file that was opened
            await store.append(new_event("after"))
        monkeypatch.undo()
        kept = keys_in(shutil.copy(path.with_name("old.db"), path.with_name("copy.db")))
    assert kept == {new_event(key).dedup_key for key in ("before", "meanwhile")}


async def test_a_file_that_is_renamed_back_is_used_again(store, path):
    rename(path)
    with pytest.raises(StoreUnavailable):
        await store.append(new_event("away"))
    path.with_name("old.db").rename(path)
    assert not (await store.append(new_event("back"))).duplicate
    assert keys_in(path) == {new_event(key).dedup_key for key in ("before", "back")}


@pytest.mark.parametrize(("fate", "kept"), [(rename, "old.db"), (delete_log, "priohook.db")])
async def test_what_was_acknowledged_is_in_the_file_that_is_left(sqlite_url, path, tmp_path, fate, kept):
    async with running(sqlite_url) as store:
        await store.append(new_event("before"))
        fate(path)
        with pytest.raises(StoreUnavailable):
            await store.append(new_event("after"))
        assert keys_in(shutil.copy(tmp_path / kept, tmp_path / "copy.db")) == {new_event("before").dedup_key}


async def test_a_backup_in_the_files_place_stays_as_it_is(sqlite_url, path):
    async with running(sqlite_url) as store:
        await store.append(new_event("in the backup"))
        copy = backup(path, path.with_name("backup.db"))
        for number in range(50):
            await store.append(new_event(f"later {number}", body=bytes(9999)))
        copy.replace(path)
        with pytest.raises(StoreUnavailable):
            await store.append(new_event("after"))
        assert keys_in(path) == {new_event("in the backup").dedup_key}
    assert keys_in(path) == {new_event("in the backup").dedup_key}


def damage(path: Path) -> bytes:
    """Damages all pages but the first, as a bad disk or a careless copy does. Returns what the file held before."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")  # a commit, else other connections go on with the pages they hold
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(len(whole) - 4096))
    return whole


async def test_a_damaged_file_is_named_as_such(sqlite_url, start, path, lines):
    async with start(sqlite_url) as client:
        assert (await client.post(WEBHOOK, content=b'{"data":{}}', headers=basic_header())).status_code == 200
        await asyncio.to_thread(damage, path)  # the receiver may be writing
        assert (await client.post(WEBHOOK, content=b'{"data":{"n":1}}', headers=basic_header())).status_code == 503
        listed = await client.get("/api/events", headers=READER)
        ready = await client.get("/readyz")
    assert (listed.status_code, ready.status_code) == (503, 503)
    assert "priohook.db is damaged (database disk image is malformed). Stop priohook" in ready.text
    assert "priohook.db is damaged" in listed.text
    failed = [line["error"] for line in lines() if line["event"] == "commit_failed"]
    assert [error for error in failed if "malformed" in error] == failed != []


async def test_a_damaged_file_takes_nothing_more(sqlite_url, path):
    writer = writer_for(sqlite_url)
    await writer.write([Row(new_event("before"))])
    whole = damage(path)
    with pytest.raises(DamagedFile):
        await writer.write([Row(new_event("after"))])
    path.write_bytes(whole)  # as a disk that reads a page today and fails with it tomorrow
    for again in (writer.probe(thorough=True), writer.write([Row(new_event("again"))])):
        with pytest.raises(DamagedFile):
            await again
    await writer.close()


async def test_a_file_that_is_no_database_is_named_as_such(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("Buy milk. " * 999)
    async with engine_for(f"sqlite+aiosqlite:///{path}") as engine:
        with pytest.raises(DamagedFile, match=r"notes\.db is damaged \(file is not a database\)"):
            await check_schema(engine)

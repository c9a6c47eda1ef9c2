import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from app.events.rows import NewEvent, Row
from app.events.spool_file import SpoolFile
from tests.events.stores import new_event

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "the spool").mkdir()
    return tmp_path / "the spool"


@contextmanager
def used(folder: Path, *events: NewEvent) -> Iterator[Path]:
    """A file of the spool that this process has."""

    async def make() -> SpoolFile:
        file = await asyncio.to_thread(SpoolFile.make, folder)
        for event in events:
            await file.write([Row(event)])
        return file

    file = asyncio.run(make())
    try:
        yield file.path
    finally:
        asyncio.run(file.close())


def left(folder: Path, *events: NewEvent) -> Path:
    with used(folder, *events) as path:
        return path


@pytest.fixture
def postgres(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", postgres_url)
    return postgres_url


def references(url: str) -> list[str]:
    async def read() -> list[str]:
        connection = await asyncpg.connect(url)
        try:
            return [row["reference"] for row in await connection.fetch("SELECT reference FROM events ORDER BY id")]
        finally:
            await connection.close()

    return asyncio.run(read())


def test_a_list_says_what_waits_and_which_file_a_process_has(run, postgres, folder, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_SPOOL", str(folder))
    free = left(folder, new_event("a", received_at=NOON, body=b"12345"), new_event("b"))
    with used(folder, new_event("c")) as other:
        rows = [json.loads(line) for line in run("spool", "list", "--json").text.splitlines()]
        assert [(row["file"], row["in_use"], row["events"]) for row in rows] == [
            (str(free), False, 2),
            (str(other), True, 1),
        ]
        assert rows[0]["oldest"] == "2026-08-12T12:00:00Z"
        assert run("spool", "list", str(free)).text.split("\t")[:3] == [str(free), "free", "2"]


def test_a_list_without_a_folder_says_what_to_name(run):
    done = run("spool", "list")
    assert done.status == 2
    assert "Name its folder" in done.errors


def test_files_are_moved_and_removed(run, postgres, folder):
    left(folder, new_event("a", reference="A"), new_event("b", reference="B"))
    left(folder, new_event("c", reference="C"))
    done = run("spool", "move", str(folder))
    assert (done.status, done.errors) == (0, "")
    assert ["2 events moved" in line or "1 event moved" in line for line in done.text.splitlines()] == [True, True]
    assert references(postgres) == ["A", "B", "C"]
    assert list(folder.iterdir()) == []
    assert run("spool", "move", str(folder)).text == ""


def test_a_move_is_audited(run, postgres, folder):
    path = left(folder, new_event("a", reference="A"))
    run("spool", "move", str(folder), "--reason", "ticket 7")
    row = json.loads(run("audit", "list", "--json").text)
    assert (row["action"], row["target"], row["reason"]) == ("move", str(path), "ticket 7")


def test_a_file_that_a_process_has_is_left_to_it(run, postgres, folder):
    with used(folder, new_event("a")) as path:
        done = run("spool", "move", str(path))
    assert done.status == 1
    assert "in use" in done.errors
    assert references(postgres) == []


def test_a_file_that_cannot_be_read_is_named(run, postgres, folder):
    path = folder / "spool-damaged.db"
    path.write_bytes(b"not a database" * 1000)
    other = left(folder, new_event("a", reference="A"))
    for command, said in (("list", str(other)), ("move", "1 event moved")):
        done = run("spool", command, str(folder))
        assert done.status == 1
        assert "spool-damaged.db" in done.errors
        assert said in done.text
    assert references(postgres) == ["A"]


def test_an_empty_file_of_another_name_stays(run, postgres, folder):
    for name in ("spool-empty.db", "other.db"):
        (folder / name).touch()
    assert run("spool", "move", str(folder / "other.db")).status == 1
    assert run("spool", "move", str(folder)).status == 0
    assert [path.name for path in folder.iterdir()] == ["other.db"]


@pytest.mark.parametrize("name", ["priohook.db", "spool-other.db"])
def test_a_database_that_is_no_file_of_the_spool_stays_as_it_is(run, postgres, tmp_path, name):
    path = tmp_path / name
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TABLE events (body); INSERT INTO events VALUES ('kept')")
    before = path.read_bytes(), {*tmp_path.iterdir()}
    for command in ("move", "list"):
        done = run("spool", command, str(path))
        assert done.status == 1
        assert "not a file of the spool" in done.errors
    assert (path.read_bytes(), {*tmp_path.iterdir()}) == before


def test_sqlite_has_no_spool(run, folder):
    done = run("spool", "move", str(folder))
    assert done.status == 2
    assert "PostgreSQL" in done.errors

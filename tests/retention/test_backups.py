import asyncio
import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from app.database.engines import engine_for, sqlite_path
from app.database.locks import locked_file
from app.database.writing import writing
from app.deliveries import operations
from app.deliveries.tables import AttemptResult, Destination, ReplayStatus
from app.events.tables import Event
from app.retention.archiving import Archiving, archiving
from app.retention.backups import back_up, remember
from app.retention.erasing import erase
from app.retention.holding import MAY_HAVE_ARRIVED, Held, come_to_rest
from app.retention.last_backup import LastBackup, last_backup
from app.retention.manifests import BackupProblem, Contents, manifest_path, read_manifest, verify
from app.retention.restoring import prepare, swap, unused
from tests.deliveries.workers import ALL, Workers

NOW = datetime(2026, 8, 13, tzinfo=UTC)


def quiet(done: int, total: int) -> None:
    assert done <= total


@pytest.fixture
async def database(sqlite_url):
    """Workers of a SQLite file with one event delivered, one waiting for a retry, and one not dispatched."""
    async with engine_for(sqlite_url) as engine:
        workers = Workers(engine)
        await workers.register()
        await workers.store("A")
        await workers.store("B")
        await workers.dispatch()
        one, two = (await workers.turn()).claims
        await workers.turn(workers.ended(one), workers.ended(two, 500), limits=workers.limits._replace(max_in_flight=0))
        await workers.store("C")
        yield workers


@pytest.fixture
def file(tmp_path, sqlite_url, database):
    path = tmp_path / "copy.db"
    back_up(sqlite_url, path, progress=quiet)
    return path


def restore(file: Path, target: Path, *, deliver_again: bool = False):
    manifest = read_manifest(file)
    verify(file, manifest)
    with unused(target, manifest):
        copy, standstill = prepare(file, target, manifest, ALL, deliver_again=deliver_again, now=NOW)
        return standstill, swap(copy, target, now=NOW)


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


async def test_a_backup_is_whole_private_and_described_by_its_manifest(file, database, sqlite_url):
    manifest = read_manifest(file)
    assert manifest.rows["events"] == 3
    assert manifest.rows["undispatched"] == 1
    assert manifest.bytes == file.stat().st_size
    assert [path.stat().st_mode & 0o777 for path in (file, manifest_path(file))] == [0o600, 0o600]
    assert {path.name for path in file.parent.iterdir() if path.name.startswith("copy.db")} == {
        "copy.db",
        "copy.db.manifest.json",
    }
    verify(file, manifest)
    async with writing(database.engine) as connection:
        assert await last_backup(connection) is None
        await remember(connection, str(file), manifest)
        assert await last_backup(connection) == LastBackup(manifest.made_at, str(file))


def test_a_backup_is_never_written_over(file, sqlite_url, tmp_path):
    before = file.read_bytes()
    with pytest.raises(BackupProblem, match="exists already"):
        back_up(sqlite_url, file, progress=quiet)
    assert file.read_bytes() == before
    with pytest.raises(BackupProblem, match="no folder"):
        back_up(sqlite_url, tmp_path / "none" / "copy.db", progress=quiet)


def test_a_backup_that_was_changed_is_refused(file, tmp_path):
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    with pytest.raises(BackupProblem, match="SHA-256 differs"):
        verify(file, read_manifest(file))


def test_a_manifest_of_other_rows_or_of_a_newer_schema_is_refused(file):
    path = manifest_path(file)
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"rows": manifest["rows"] | {"events": 4}}))
    with pytest.raises(BackupProblem, match="does not hold the rows"):
        verify(file, read_manifest(file))
    path.unlink()
    with pytest.raises(BackupProblem, match="is missing"):
        read_manifest(file)
    path.write_text("{}")
    with pytest.raises(BackupProblem, match="not a manifest"):
        read_manifest(file)


def test_a_backup_of_a_newer_release_is_refused(file):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    newer = file.with_name("newer.db")
    back_up(f"sqlite+aiosqlite:///{file}", newer, progress=quiet)
    with pytest.raises(BackupProblem, match="schema 9999, which this release does not know"):
        verify(newer, read_manifest(newer))


def test_a_restored_database_holds_what_may_have_arrived(file, tmp_path):
    target = tmp_path / "restored.db"
    standstill, replaced = restore(file, target)
    assert replaced is None
    assert standstill.held == [Held("erp", 2)]
    assert (standstill.destinations, standstill.pending) == (["erp"], 0)
    assert target.stat().st_mode & 0o777 == 0o600
    assert rows(target, "events") == 3
    assert rows(target, "undispatched") == 0
    with closing(sqlite3.connect(target)) as connection:
        statuses = connection.execute("SELECT status FROM deliveries ORDER BY event_id").fetchall()
        unknown = connection.execute("SELECT result, error FROM attempts WHERE result = 'lost'").fetchall()
        (reason,) = connection.execute("SELECT paused_reason FROM destinations").fetchone()
    assert statuses == [("delivered",), ("dead",), ("dead",)]
    assert unknown == [(AttemptResult.LOST.value, MAY_HAVE_ARRIVED)] * 2
    assert reason.startswith("restored")


def test_what_was_pending_can_be_left_to_be_sent_again(file, tmp_path):
    target = tmp_path / "restored.db"
    standstill, _ = restore(file, target, deliver_again=True)
    assert (standstill.held, standstill.pending, standstill.destinations) == ([], 2, ["erp"])


async def test_what_is_held_is_sent_in_order_once_a_person_retries_it(workers):
    events = [await workers.store("A") for _ in range(3)]
    await workers.dispatch()
    await workers.turn()
    replay_id = await workers.start()
    async with writing(workers.engine) as connection:
        standstill = await come_to_rest(connection, ALL, taken_at=workers.now, deliver_again=False, now=workers.now)
    assert standstill.held == [Held("erp", 3)]
    assert standstill.replays == [str(replay_id)]
    assert [row.status for row in await workers.replays()] == [ReplayStatus.PAUSED.value]
    assert (await workers.turn()).claims == []
    async with writing(workers.engine) as connection:
        await operations.resume(connection, "erp", now=workers.now)
    assert (await workers.turn()).claims == [], "to resume a destination sends nothing that it may have had"
    async with writing(workers.engine) as connection:
        assert await operations.retry_dead(connection, "erp", now=workers.now) == 3
    sent = []
    while claims := (await workers.turn()).claims:
        sent += [claim.event_id for claim in claims]
        await workers.turn(*map(workers.ended, claims), limits=workers.limits._replace(max_in_flight=0))
    assert sent == events


async def test_a_destination_that_the_backup_does_not_know_is_paused_too(workers):
    async with writing(workers.engine) as connection:
        wanted = {"erp": ["*"], "crm": ["*"]}
        standstill = await come_to_rest(connection, wanted, taken_at=workers.now, deliver_again=False, now=workers.now)
        paused = await connection.scalars(select(Destination.name).where(Destination.paused_at.is_not(None)))
        assert standstill.destinations == sorted(paused) == ["crm", "erp"]


BACKED_UP = Contents(
    revision="0021",
    rows={"events": 2, "deliveries": 2},
    newest_event_id=UUID(int=1),
    newest_delivery_id=UUID(int=1),
    last_finished_at="2026-08-12 12:00:00",
    last_erased_at="2026-08-12 12:00:00",
)


@pytest.mark.parametrize(
    "change",
    [
        {"newest_event_id": UUID(int=2)},
        {"newest_delivery_id": UUID(int=2)},
        {"last_finished_at": "2026-08-12 12:00:01"},
        {"last_erased_at": "2026-08-12 12:00:01"},
        {"rows": {"events": 3, "deliveries": 2}},
        {"rows": {"events": 2, "deliveries": 3}},
    ],
    ids=str,
)
def test_each_of_these_alone_makes_a_database_newer_than_a_backup(change):
    """Retention may have deleted more events than arrived, so that not even their number tells."""
    later = BACKED_UP.model_copy(update=change)
    assert later.is_newer_than(BACKED_UP)
    assert not BACKED_UP.is_newer_than(later)


def test_a_database_as_it_was_backed_up_is_not_newer():
    assert not BACKED_UP.is_newer_than(BACKED_UP)


def test_a_worker_that_has_nothing_open_is_noticed(file, sqlite_url):
    target = sqlite_path(sqlite_url)
    with locked_file(Path(f"{target.resolve()}-worker")) as alone:
        assert alone
        with pytest.raises(BackupProblem, match="A worker uses"), unused(target, read_manifest(file)):
            pass


async def test_something_newer_is_never_replaced(file, sqlite_url, database):
    await database.store("D")
    await database.engine.dispose()
    with pytest.raises(BackupProblem, match="newer than the backup"):
        restore(file, sqlite_path(sqlite_url))
    assert rows(sqlite_path(sqlite_url), "events") == 4


async def test_a_delivery_that_ended_after_the_backup_is_newer_too(file, sqlite_url, database):
    database.wait(100)
    (claim,) = (await database.turn()).claims
    await database.turn(database.ended(claim), limits=database.limits._replace(max_in_flight=0))
    await database.engine.dispose()
    with pytest.raises(BackupProblem, match="newer than the backup"):
        restore(file, sqlite_path(sqlite_url))


async def test_an_older_database_is_replaced_and_kept_beside(file, sqlite_url, database):
    await database.engine.dispose()
    target = sqlite_path(sqlite_url)
    _, replaced = await asyncio.to_thread(restore, file, target)
    assert replaced == target.with_name("priohook.db.replaced-20260813T000000Z")
    assert rows(replaced, "events") == rows(target, "events") == 3


async def test_a_database_in_use_is_not_replaced(file, sqlite_url, database):
    async with database.engine.connect() as connection:
        await connection.scalar(select(1))
        with pytest.raises(BackupProblem, match="A process uses"):
            restore(file, sqlite_path(sqlite_url))


async def test_a_database_that_cannot_be_read_is_not_replaced(file, tmp_path):
    target = tmp_path / "broken.db"
    target.write_bytes(os.urandom(8192))
    with pytest.raises(BackupProblem, match="cannot be read"):
        restore(file, target)
    orphan = tmp_path / "gone.db-wal"
    orphan.touch()
    with pytest.raises(BackupProblem, match=r"There is .*gone\.db-wal, but no"):
        restore(file, tmp_path / "gone.db")
    assert not list(tmp_path.glob("*restoring*"))


WORKS = Archiving("on", "cp %p /archive/%f", None, 5, NOW, 1, NOW - timedelta(days=1))


def test_an_archive_that_works_is_no_problem():
    assert WORKS.problem() is None
    assert WORKS._replace(mode="always", command="", library="basic_archive", last_failed_at=None).problem() is None


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (WORKS._replace(mode="off"), "archive_mode is off"),
        (WORKS._replace(command="(disabled)"), "Neither archive_command"),
        (WORKS._replace(command="", library=""), "Neither archive_command"),
        (WORKS._replace(last_failed_at=NOW + timedelta(minutes=1)), "has failed 1 times"),
        (WORKS._replace(last_archived_at=None), "has failed 1 times"),
        (WORKS._replace(last_archived_at=None, last_failed_at=None), "Nothing has been archived yet"),
    ],
)
def test_an_archive_that_cannot_be_relied_on_is_named(archive, words):
    assert words in (archive.problem() or "")


async def test_postgresql_says_what_it_archives(postgres_url):
    async with engine_for(postgres_url) as engine, engine.connect() as connection:
        assert (await archiving(connection)).mode in ("on", "off", "always")


async def test_an_erasure_after_the_backup_is_newer_too(file, sqlite_url, database):
    async with writing(database.engine) as connection:
        ids = (await connection.scalars(select(Event.id))).all()
        await erase(connection, ids[:1], drop=True, now=NOW)
    await database.engine.dispose()
    with pytest.raises(BackupProblem, match="erasures that are newer than the backup"):
        restore(file, sqlite_path(sqlite_url))


async def test_an_event_with_a_lower_id_is_newer_too(file, sqlite_url, database):
    """Of a time in which the clock was ahead, the backup has greater ids."""
    database.now -= timedelta(days=1)
    await database.store("D")
    await database.engine.dispose()
    with pytest.raises(BackupProblem, match="newer than the backup"):
        restore(file, sqlite_path(sqlite_url))


async def test_a_file_that_changes_after_it_was_verified_is_not_restored(file, tmp_path):
    manifest = read_manifest(file)
    verify(file, manifest)
    file.write_bytes(file.read_bytes()[:-4096])
    with pytest.raises(BackupProblem, match="has changed since it was verified"):
        prepare(file, tmp_path / "new.db", manifest, ALL, deliver_again=False, now=NOW)
    assert not list(tmp_path.glob("*restoring*"))


async def test_the_database_that_is_restored_has_the_mode_of_the_one_that_was_there(file, sqlite_url, database):
    await database.engine.dispose()
    target = sqlite_path(sqlite_url)
    target.chmod(0o640)
    _, replaced = await asyncio.to_thread(restore, file, target)
    assert [path.stat().st_mode & 0o777 for path in (target, replaced)] == [0o640, 0o640]
    assert [path.stat().st_nlink for path in (target, replaced)] == [1, 1]


async def test_while_the_copy_is_swapped_in_a_database_is_always_there(file, sqlite_url, database, monkeypatch):
    await database.engine.dispose()
    target = sqlite_path(sqlite_url)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("replace", "chmod"):
        with monkeypatch.context() as stopped:
            stopped.setattr(Path, step, stop)
            with pytest.raises(KeyboardInterrupt):
                await asyncio.to_thread(restore, file, target)
        assert rows(target, "events") == 3


async def test_without_hard_links_the_old_database_is_moved_away(file, sqlite_url, database, monkeypatch):
    await database.engine.dispose()

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "chown", refuse)
    _, replaced = await asyncio.to_thread(restore, file, sqlite_path(sqlite_url))
    assert rows(replaced, "events") == rows(sqlite_path(sqlite_url), "events") == 3

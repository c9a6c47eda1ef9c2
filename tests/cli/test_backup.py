import json
from pathlib import Path

import pytest

from app.database.engines import is_sqlite, sqlite_path
from tests.events.stores import new_event


@pytest.fixture
def stored(fill):
    """Two events of a database whose destination is `erp`."""
    return [str(each) for each in fill(new_event("one"), new_event("two"))]


def test_a_sqlite_database_is_copied_and_put_back(run, stored, database_url, monkeypatch):
    if not is_sqlite(database_url):
        return
    monkeypatch.setenv("PRIOHOOK_DESTINATIONS", '{"erp": {"url": "http://127.0.0.1:9/"}}')
    done = run("backup", "copy.db")
    assert done.status == 0
    assert "copy.db holds 2 events" in done.text
    assert "copy.db.manifest.json" in done.text
    assert audited(run) == {"action": "backup", "target": str(Path("copy.db").resolve())}
    assert run("backup", "copy.db").status == 1
    sqlite_path(database_url).unlink()
    for side in ("-wal", "-shm"):
        Path(f"{sqlite_path(database_url)}{side}").unlink(missing_ok=True)
    assert run("restore", "copy.db").status == 2, "it asks on a terminal only"
    done = run("restore", "copy.db", "--yes")
    assert done.status == 0
    assert "erp is paused: priohook destinations resume erp" in done.text
    listed = [json.loads(line)["id"] for line in run("events", "list", "--json").text.splitlines()]
    assert listed == stored[::-1]
    assert audited(run) == {"action": "restore", "target": "copy.db"}


def audited(run):
    """The last action."""
    row = json.loads(run("audit", "list", "--limit", "1", "--json").text)
    return {name: row[name] for name in ("action", "target")}


def test_a_backup_names_the_files_that_hold_secrets(run, stored, database_url):
    if is_sqlite(database_url):
        sqlite_path(database_url).with_name("priohook-clients.toml").touch()
        assert "priohook-clients.toml, which hold secrets" in run("backup", "copy.db").text


def test_on_postgresql_it_checks_the_archive_and_says_what_to_use(run, stored, database_url):
    if is_sqlite(database_url):
        assert run("backup").status == 2
        return
    done = run("backup", "copy.db")
    assert done.status == 1, "the server of the tests archives nothing"
    assert "pg_basebackup" in done.text
    assert "nothing is archived" in done.errors
    assert json.loads(run("backup", "--json").text)["mode"] == "off"
    done = run("restore", "copy.db")
    assert done.status == 2
    assert "priohook restore --already-restored" in done.errors


def test_a_database_that_was_restored_by_other_means_is_brought_to_rest(run, working, monkeypatch):
    async def store(workers):
        return [str(await workers.store()) for _ in range(2)]

    stored = working(store)
    monkeypatch.setenv("PRIOHOOK_DESTINATIONS", '{"erp": {"url": "http://127.0.0.1:9/"}}')
    done = json.loads(run("restore", "--already-restored", "--yes", "--json").text)
    assert done == {"destinations": ["erp"], "held": {"erp": 2}, "pending": 0, "replays": []}, (
        "undispatched events are held too"
    )
    dead = [json.loads(line) for line in run("deliveries", "list", "--status", "dead", "--json").text.splitlines()]
    assert {each["event_id"] for each in dead} == set(stored)
    assert {each["last_result"] for each in dead} == {"lost"}
    assert audited(run) == {"action": "restore", "target": None}


def test_a_worker_that_sends_keeps_a_database_from_being_brought_to_rest(run, working):
    async def send(workers):
        await workers.store()
        await workers.dispatch()
        workers.wait(3600)  # now
        await workers.turn()

    working(send)
    done = run("restore", "--already-restored", "--yes")
    assert done.status == 1
    assert "A worker is sending deliveries" in done.errors

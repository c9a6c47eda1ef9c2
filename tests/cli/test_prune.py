import json
from datetime import UTC, datetime, timedelta

import pytest

from app.database.engines import is_sqlite
from tests.events.stores import new_event


@pytest.fixture
def ages(monkeypatch):
    """Ninety days for accepted and for refused events."""
    monkeypatch.setenv("PRIOHOOK_RETENTION", '{"accepted": "90d", "quarantined": "90d"}')


@pytest.fixture
def old(fill, working):
    """Of three events one is young, and one of the old ones is not dispatched yet."""
    long_ago = datetime.now(UTC) - timedelta(days=100)
    events = [new_event("one", received_at=long_ago), new_event("young")]
    fill(*events)
    working(lambda workers: workers.dispatch({}))
    return [str(each) for each in (*[event.id for event in events], *fill(new_event("two", received_at=long_ago)))]


def listed(run):
    return {json.loads(line)["id"] for line in run("events", "list", "--json").text.splitlines()}


def test_old_events_are_deleted_and_the_plan_says_what_stays(run, ages, old):
    done = run("prune")
    assert done.status == 0
    lines = [line.split() for line in done.text.splitlines()]
    assert ["old", "enough", "1", "accepted", "events", "from", "before"] in [line[:7] for line in lines]
    assert ["must", "stay", "1", "not", "dispatched"] in lines
    assert ["deleted", "1", "accepted", "events"] in lines
    assert listed(run) == set(old[1:])


def test_a_dry_run_deletes_nothing(run, ages, old):
    done = json.loads(run("prune", "--dry-run", "--json").text)
    assert done["plan"]["accepted"]["rows"] == 1
    assert done["plan"]["accepted"]["kept"] == {"not dispatched": 1}
    assert done["deleted"] is None
    assert listed(run) == set(old)


def test_json_has_the_plan_what_was_deleted_and_the_space(run, ages, old, database_url):
    done = json.loads(run("prune", "--json").text)
    assert done["deleted"] == {"replays": 0, "quarantined": 0, "accepted": 1, "copies": 0}
    assert done["space"]["bytes"] > 0
    assert ("free_bytes" if is_sqlite(database_url) else "tables") in done["space"]


def test_without_ages_nothing_can_be_deleted(run, old):
    done = run("prune")
    assert done.status == 2
    assert "no table retention" in done.errors
    assert listed(run) == set(old)


def test_a_dry_run_without_ages_says_so_and_shows_the_space(run, old):
    done = run("prune", "--dry-run")
    assert done.status == 0
    assert "no table retention" in done.text
    assert " MB" in done.text


def test_vacuum_writes_a_sqlite_file_anew_and_asks_before(run, old, database_url):
    done = run("prune", "--vacuum")
    assert done.status == 2
    if not is_sqlite(database_url):
        assert "--vacuum is for SQLite" in done.errors
        return
    assert "MB of free disk" in done.errors
    assert "give --yes" in done.errors
    assert run("prune", "--vacuum", "--yes").status == 0
    assert json.loads(run("prune", "--vacuum", "--yes", "--json").text)["space"]["free_bytes"] == 0
    assert listed(run) == set(old)

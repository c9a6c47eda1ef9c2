import asyncio
import json
import socket
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from app.api.status import StatusShown
from app.cli import status
from app.database.engines import engine_for
from app.database.schema import known_revisions
from app.database.writing import writing
from app.events.rows import Row
from app.events.spool_file import SpoolFile
from app.telemetry.processes import Gauges, Identity, beat
from tests.deliveries.workers import Workers
from tests.events.stores import new_event

ERP = {"erp": {"url": "https://erp.example/in"}}


def test_an_idle_installation_is_well_and_status_0(run, fill, beats):
    fill()
    beats("receiver", host="another", ago=5)
    done = run("status")
    assert (done.status, done.errors) == (0, "")
    assert done.text.startswith("All is well.\n\npriohook    0.1.0 on ")
    assert max(map(len, done.text.splitlines())) <= 80


def test_something_wrong_is_status_1_and_the_first_line(run, working):
    async def pause(workers: Workers):
        await workers.pause(paused=True)

    working(pause)
    done = run("status")
    assert done.status == 1
    nobody = "No receiver has run yet: nobody takes webhooks.\n  priohook serve\n"
    assert done.text.startswith(nobody + "No worker runs: nothing is delivered.\n  priohook worker\n")
    assert "\nerp has been paused for 60 min, and 0 deliveries wait: By hand.\n" in done.text
    assert "\n  priohook destinations resume erp\n" in done.text


def test_json_has_the_same(run, working):
    working(lambda workers: workers.pause(paused=True))
    done = run("status", "--json")
    shown = json.loads(done.text)
    assert (done.status, shown["well"]) == (1, False)
    assert "destination_paused" in [each["name"] for each in shown["findings"]]
    assert shown["readings"]["destinations"][0]["state"] == "paused"
    assert json.loads(StatusShown.model_validate(shown).model_dump_json()) == shown  # the API answers the same


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_is_away_is_status_1_with_a_sentence(run, database_url, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    done = run("status")
    assert (done.status, done.errors) == (1, "")
    assert done.text.startswith("The database could not be used: No connection to ")
    assert done.text.endswith("\n  priohook settings\n")
    shown = json.loads(run("status", "--json").text)
    assert (shown["well"], shown["readings"]) == (False, None)
    assert "No connection to " in shown["findings"][0]["what"]


def test_what_waits_in_the_spool_is_told_while_the_database_is_away(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    monkeypatch.setenv("PRIOHOOK_SPOOL", str(tmp_path))
    at = datetime.now(UTC) - timedelta(minutes=5)

    async def keep():
        file = SpoolFile.make(tmp_path)
        await file.write([Row(new_event("a", received_at=at))])
        await file.close()

    asyncio.run(keep())
    done = run("status")
    assert done.status == 1
    assert "\nIn the spool, 1 event has waited for 5 min: the database takes none.\n" in done.text


def test_without_a_database_serve_is_what_to_type(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'none.db'}")
    done = run("status")
    assert done.status == 1
    assert done.text.startswith("There is no database")
    assert done.text.endswith("\n  priohook serve\n")


def test_a_schema_that_is_behind_is_told_with_what_to_type(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}")
    sqlite3.connect(tmp_path / "empty.db").close()
    done = run("status")
    assert done.status == 1
    assert done.text.startswith("The database has no tables yet, but this release needs ")
    assert done.text.endswith("\n  priohook migrate\n")


@pytest.fixture
def schema_at(fill, database_url):
    """`with schema_at("0001"):` the database is at this migration."""

    async def put(revision):
        async with engine_for(database_url) as engine, writing(engine) as connection:
            before = await connection.scalar(text("SELECT version_num FROM alembic_version"))
            await connection.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})
        return before

    @contextmanager
    def schema_at(revision):
        before = asyncio.run(put(revision))
        try:
            yield
        finally:
            asyncio.run(put(before))

    fill()
    return schema_at


def test_a_database_of_an_older_release_is_status_1_with_what_to_type(run, schema_at):
    with schema_at("0001"):
        done = run("status")
    assert (done.status, done.errors) == (1, "")
    head = known_revisions()[-1]
    told = f"The database is at 0001, but this release needs {head}: run `priohook migrate`."
    assert " ".join(done.text.split()) == f"{told} priohook migrate"


def test_a_database_of_a_newer_release_is_status_1_with_what_to_type_and_all_that_can_be_read(run, schema_at, beats):
    beats("receiver", host="here", ago=5)
    with schema_at("9999"):
        done = run("status")
    assert (done.status, done.errors) == (1, "")
    head = known_revisions()[-1]
    told = f"The database is at 9999, but this release knows only {head}: use the newer release that migrated it."
    assert " ".join(done.text.split()).startswith(f"{told} priohook --version priohook ")
    assert ", schema 9999\n" in done.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_newer_database_that_cannot_be_read_is_not_blamed_on_the_connection(run, schema_at, tmp_path):
    with schema_at("9999"):
        connection = sqlite3.connect(tmp_path / "priohook.db")
        connection.execute("ALTER TABLE refusals RENAME TO denials")
        done = run("status")
        connection.execute("ALTER TABLE denials RENAME TO refusals")
        connection.close()
    assert done.status == 1
    assert done.text.startswith("The database is at 9999, but this release knows only ")
    assert done.text.endswith("\n  priohook --version\n")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_hangs_is_status_1_after_a_while(run, fill, database_url, monkeypatch):
    fill()
    monkeypatch.setattr(status, "WITHIN", 0.5)
    held, over = threading.Event(), threading.Event()

    async def hold():
        async with engine_for(database_url) as engine, engine.begin() as connection:
            await connection.execute(text("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
            held.set()
            await asyncio.to_thread(over.wait)

    holding = threading.Thread(target=lambda: asyncio.run(hold()))
    holding.start()
    try:
        assert held.wait(60)
        done = run("status")
    finally:
        over.set()
        holding.join()
    assert (done.status, done.errors) == (1, "")
    assert done.text.startswith("The database could not be used: it did not answer within 0.5 seconds.")


def test_watch_needs_a_terminal(run, fill):
    fill()
    assert run("status", "--watch").status == 2


def test_watch_repaints_until_it_is_interrupted(run, fill, beats, terminal, monkeypatch):
    fill()
    beats("receiver", host="here", ago=5)
    looks = []

    def wait(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", wait)
    terminal(80)
    done = run("status", "--watch")
    assert (done.status, len(looks)) == (0, 2)
    assert done.text.count("All is well.") >= 2


@pytest.fixture
def beats(database_url, monkeypatch):
    """`beats("worker", host="here", ago=5)` lets a process report itself."""
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", database_url)

    async def report(kind, host, ago):
        now = datetime.now(UTC) - timedelta(seconds=ago)
        identity = replace(Identity.of_this_process(kind, name=f"{host}:1:aa", settings="abc", now=now), host=host)
        async with engine_for(database_url) as engine, writing(engine) as connection:
            await beat(connection, identity, Gauges(), now=now)

    return lambda kind, *, host, ago: asyncio.run(report(kind, host, ago))


def test_the_worker_of_this_host_is_probed_by_its_heartbeat(run, beats):
    beats("receiver", host=socket.gethostname(), ago=1)
    beats("worker", host="another", ago=1)
    beats("worker", host=socket.gethostname(), ago=600)
    done = run("status", "--worker")
    assert (done.status, done.written) == (1, b"")
    assert f"No worker runs on {socket.gethostname()}" in done.errors
    beats("worker", host=socket.gethostname(), ago=5)
    done = run("status", "--worker")
    assert (done.status, done.errors) == (0, "")
    assert done.text.startswith(f"A worker runs on {socket.gethostname()}. It reported ")


def test_processes_and_refusals_are_shown(run, beats):
    beats("worker", host="here", ago=3)
    text = run("status").text
    assert "\nprocesses   0 receivers, 1 worker, beat " in text
    assert "version 0.1.0, settings abc" in text

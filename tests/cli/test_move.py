"""`priohook move`; under load it is in tests/e2e/test_move.py."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any

import pytest

from app.cli import move
from app.database.engines import engine_for, sqlite_path
from app.database.locks import locked_file
from app.telemetry.processes import Gauges, Identity, beat
from tests.cli.conftest import Run
from tests.e2e.conftest import empty_database
from tests.events.stores import new_event, running

SECRET = "hunter2"


@pytest.fixture
def source(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configured SQLite file, with an event."""
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", sqlite_url)
    store(sqlite_url)
    return sqlite_path(sqlite_url)


@pytest.fixture
def new_url(postgres_server_url: str) -> Iterator[str]:
    with empty_database(postgres_server_url) as url:
        yield url


@pytest.fixture
def receives(sqlite_url: str) -> Callable[[], None]:
    """`receives()`: a receiver says that it runs, and nothing more."""

    def receives() -> None:
        async def say() -> None:
            now = datetime.now(UTC)
            receiver = Identity.of_this_process("receiver", name="old-one", settings="", now=now)
            async with engine_for(sqlite_url) as engine, engine.begin() as connection:
                await beat(connection, receiver, Gauges(), now=now)

        asyncio.run(say())

    return receives


def store(url: str) -> None:
    async def append() -> None:
        async with running(url) as store:
            await store.append(new_event("first"))

    asyncio.run(append())


def made(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'priohook_move%'").fetchall()


def with_password(url: str) -> str:
    return url.replace("priohook@", f"priohook:{SECRET}@")


def test_without_a_receiver_all_moves_at_once_and_the_same_command_says_so_again(source, new_url, run: Run):
    done = run("move", with_password(new_url))
    assert done.status == 0, done.errors
    assert "rows are copied and compared" in done.text
    assert f"All is in {new_url} now." in done.text
    assert SECRET not in done.text + done.errors
    assert SECRET.encode() not in source.read_bytes()
    assert run("move", new_url).text.startswith(f"All is in {new_url} now.")
    with closing(sqlite3.connect(source)) as connection:
        assert connection.execute("SELECT url FROM priohook_move").fetchall() == [(None,)]
    refused = run("events", "list")
    assert (refused.status, f"was moved to {new_url}" in refused.errors) == (1, True)


def test_the_audit_has_the_beginning_and_the_end(source, new_url, run: Run, monkeypatch):
    assert run("move", new_url, "--reason", "we grow").status == 0
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", new_url)
    rows = run("audit", "list", "--action", "move", "--json").text
    assert [step in rows for step in ("begins", "ended", "we grow")] == [True] * 3
    assert run("audit", "verify").status == 0


def test_only_a_sqlite_file_moves_and_only_to_postgresql(source, new_url, run: Run, monkeypatch):
    for target in ("sqlite:///other.db", "mysql://host/db", "nothing"):
        refused = run("move", target)
        assert (refused.status, "postgresql://user:password@host/database" in refused.errors) == (2, True)
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", new_url)
    assert run("move", new_url).status == 2


def test_a_database_that_holds_something_is_refused_and_stays_as_it_is(source, postgres_url, run: Run):
    store(postgres_url)
    refused = run("move", postgres_url)
    assert (refused.status, "is not empty" in refused.errors) == (1, True)
    assert not made(source)


def test_a_database_that_is_away_is_named(source, run: Run):
    refused = run("move", f"postgresql://priohook:{SECRET}@127.0.0.1:1/priohook")
    assert (refused.status, "127.0.0.1" in refused.errors) == (1, True)
    assert SECRET not in refused.errors


def test_a_receiver_that_does_not_answer_keeps_all_as_it_is(source, new_url, run: Run, receives, monkeypatch):
    monkeypatch.setattr(move, "READY_WITHIN", timedelta(0))
    receives()
    refused = run("move", new_url)
    assert (refused.status, "The receiver old-one does not answer." in refused.errors) == (1, True)
    assert run("events", "list").status == 0
    with closing(sqlite3.connect(source)) as connection:
        assert connection.execute("SELECT phase FROM priohook_move").fetchall() == [("copying",)]


def test_a_receiver_that_cannot_use_the_new_database_is_named_with_the_reason(source, new_url, run: Run, receives):
    def say() -> None:
        ends = monotonic() + 60
        with closing(sqlite3.connect(source, isolation_level=None)) as connection:
            while monotonic() < ends:
                with suppress(sqlite3.OperationalError):  # the table is not there yet
                    if connection.execute("SELECT phase FROM priohook_move").fetchall() == [("resting",)]:
                        connection.execute("INSERT INTO priohook_move_receivers VALUES ('old-one', 'no such host')")
                        return
                sleep(0.01)

    receives()
    receiver = Thread(target=say)
    receiver.start()
    refused = run("move", new_url)
    receiver.join()
    assert (refused.status, "old-one cannot use the new database: no such host." in refused.errors) == (1, True)
    assert run("events", "list").status == 0


def test_the_url_stays_in_the_file_while_a_receiver_has_not_followed_though_the_command_was_killed(
    source, new_url, run: Run, receives, monkeypatch
):
    assert run("move", new_url).status == 0
    receives()
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE priohook_move SET url = ?", (new_url,))  # as it was before the end
    monkeypatch.setattr(move, "FOLLOW_WITHIN", timedelta(0))
    again = run("move", new_url)
    assert (again.status, "Only 0 of 1 receivers use the new database." in again.errors) == (0, True)
    with closing(sqlite3.connect(source)) as connection:
        assert connection.execute("SELECT url FROM priohook_move").fetchall() == [(new_url,)]


def test_a_file_that_was_moved_to_another_database_is_not_said_to_be_in_this_one(
    source, new_url, postgres_url, run: Run
):
    assert run("move", new_url).status == 0
    refused = run("move", postgres_url)
    assert (refused.status, f"was moved to another database: {new_url}." in refused.errors) == (1, True)
    assert run("move", with_password(new_url)).status == 0


def test_a_worker_that_does_not_end_keeps_all_as_it_is(source, new_url, run: Run, monkeypatch):
    monkeypatch.setattr(move, "READY_WITHIN", timedelta(0))
    with locked_file(source.with_name(f"{source.name}-worker")):
        refused = run("move", new_url)
    assert (refused.status, "A worker still runs." in refused.errors) == (1, True)
    assert run("move", new_url).status == 0


def test_two_moves_of_one_file_do_not_run_at_once(source, new_url, run: Run):
    with locked_file(source.with_name(f"{source.name}-move")):
        refused = run("move", new_url)
    assert (refused.status, "runs already" in refused.errors) == (1, True)


def test_a_move_that_is_given_up_can_begin_anew_with_another_database(
    source, new_url, postgres_server_url, run: Run, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr(move, "READY_WITHIN", timedelta(0))
        with locked_file(source.with_name(f"{source.name}-worker")):
            assert run("move", new_url).status == 1
    assert made(source)
    assert run("move", new_url, "--give-up").status == 0
    assert not made(source)
    refused = run("move", new_url)
    assert (refused.status, "holds a part of another SQLite file" in refused.errors) == (1, True)
    with empty_database(postgres_server_url) as other:
        assert run("move", other).status == 0
        refused = run("move", new_url, "--give-up")
        assert (refused.status, "The move has ended" in refused.errors) == (1, True)

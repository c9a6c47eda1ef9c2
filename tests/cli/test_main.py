import asyncio
import re
import subprocess
import sys
from errno import EPERM
from pathlib import Path

import pytest

from app.cli.failures import sentence
from app.database import engines, migrations
from tests.database.test_engines import HEAD

PROJECT = Path(__file__).parents[2]
UNUSED_PORT = 1  # nobody listens there; binding to it is root's alone
LIST = ["events", "list"]
COMMANDS = [LIST, ["events", "show", "01987f6e-0000-7000-8000-000000000000"]]


def downgrade(url: str) -> None:
    async def go() -> None:
        async with engines.engine_for(url) as engine:
            await migrations.migrate(engine, revision="base")

    asyncio.run(go())


def upgrade(url: str) -> None:
    async def go() -> None:
        async with engines.engine_for(url) as engine:
            await migrations.migrate(engine)

    asyncio.run(go())


@pytest.fixture
def without_tables(database_url, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", database_url)
    downgrade(database_url)
    yield
    upgrade(database_url)


@pytest.fixture
def sqlite(sqlite_url, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", sqlite_url)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_without_tables_is_status_1_and_says_what_to_run(run, without_tables, command):
    done = run(*command)
    assert (done.status, done.written) == (1, b"")
    assert (
        done.errors
        == f"priohook: The database has no tables yet, but this release needs {HEAD}: run `priohook migrate`.\n"
    )


def test_migrate_makes_the_tables_and_may_be_run_again(run, without_tables):
    assert run("migrate") == (0, b"The schema is current.\n", "")
    assert run("migrate") == (0, b"The schema is current.\n", "")
    assert run(*LIST).status == 0


def test_migrate_goes_back_when_told_to(run, without_tables):
    run("migrate")
    assert run("migrate", "--revision", "base") == (0, b"The schema is at base.\n", "")
    assert run(*LIST).status == 1


@pytest.mark.parametrize("command", [*COMMANDS, ["migrate"]])
@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:pass-word@127.0.0.1:{UNUSED_PORT}/db",
        "postgresql://me:pass-word@127.0.0.1/db?sslmode=unheard-of",
        "sqlite:///no/such/folder/priohook.db",
        "sqlite:///.",
    ],
)
def test_a_database_that_cannot_be_used_is_status_1_and_one_sentence(run, monkeypatch, url, command):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", url)
    done = run(*command)
    assert (done.status, done.written) == (1, b"")
    sentence = r"(The database could not be used: .* Check database_url|There is no database|.*could not be used:) .*"
    assert re.fullmatch(rf"priohook: {sentence}\.\n", done.errors)
    assert "pass-word" not in done.errors


@pytest.mark.parametrize("url_end", ["/no_such_database"])
def test_a_database_that_is_not_there_is_status_1_and_names_it(run, monkeypatch, postgres_server_url, url_end):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", postgres_server_url.rpartition("/")[0] + url_end)
    done = run(*LIST)
    assert done.status == 1
    assert done.errors.count("\n") == 1
    assert "no_such_database" in done.errors


def test_a_file_that_is_no_database_is_status_1_and_one_sentence(run, tmp_path, monkeypatch):
    (tmp_path / "priohook.db").write_bytes(b"something else, long enough to be looked at" * 100)
    done = run(*LIST)
    assert done.status == 1
    assert "file is not a database" in done.errors
    assert done.errors.count("\n") == 1


def test_a_revision_that_nobody_knows_is_status_1_and_one_sentence(run, sqlite):
    done = run("migrate", "--revision", "9999")
    assert (done.status, done.written) == (1, b"")
    assert done.errors.startswith("priohook: ")
    assert "9999" in done.errors
    assert done.errors.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["unheard-of"], ["--unheard-of"], ["migrate", "extra"], ["serve", "--port", "x"]]
)
def test_a_wrong_use_is_status_2(run, arguments):
    done = run(*arguments)
    assert (done.status, done.written) == (2, b"")
    assert done.errors.startswith("Usage: priohook ")


@pytest.mark.parametrize("command", [[], ["serve"], ["migrate"], ["events"], ["events", "list"], ["clients", "new"]])
def test_every_command_explains_itself(run, command):
    done = run(*command, "--help")
    assert done.status == 0
    assert done.text.startswith("Usage: priohook ")


@pytest.mark.parametrize("program", [[sys.executable, "-m", "app"], [str(Path(sys.executable).parent / "priohook")]])
def test_both_names_of_the_program_run_it(program):
    done = subprocess.run([*program, "--version"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert re.fullmatch(r"priohook \d+\.\d+\.\d+\n", done.stdout)


def test_a_reader_that_closes_the_pipe_early_causes_no_traceback(sqlite):
    writing = subprocess.Popen(
        [sys.executable, "-m", "app", "settings"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT
    )
    assert writing.stdout is not None
    writing.stdout.close()
    errors = writing.communicate()[1]
    assert b"Traceback" not in errors
    assert b"database" not in errors


def test_a_worker_makes_no_file(run, tmp_path):
    done = run("worker")
    assert (done.status, done.errors) == (
        1,
        "priohook: There is no database priohook.db: `priohook serve` creates it.\n",
    )
    assert not (tmp_path / "priohook.db").exists()


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["worker"]])
def test_a_working_directory_that_was_deleted_is_named(tmp_path, command):
    folder = tmp_path / "deleted"
    folder.mkdir()
    program = f"import os; os.rmdir({str(folder)!r}); from app.cli.main import main; main()"
    line = [sys.executable, "-c", program, *command]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        "priohook: The working directory was deleted. Change to a directory that exists, and try again.\n"
    )


def test_an_error_of_the_system_without_a_file_is_not_blamed_on_the_database():
    refused = PermissionError(EPERM, "Operation not permitted")
    assert sentence(refused) == "The system refused what priohook needs: [Errno 1] Operation not permitted."
    assert "database" in str(sentence(ConnectionResetError("reset")))


def test_every_command_prints_through_what_escapes_control_characters():
    paths = (PROJECT / "app" / "cli").glob("*.py")
    assert [path.name for path in paths if "click.echo" in path.read_text()] == ["output.py"]

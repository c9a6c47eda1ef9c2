import subprocess
import sys

import click
import pytest

from app.cli import main
from app.cli.lazy import LazyGroup
from app.cli.main import priohook
from app.settings.model import Settings

TOP = click.Context(priohook)
GROUPS = [(name, priohook.get_command(TOP, name)) for name in priohook.list_commands(TOP)]
LAZY = [("priohook", priohook), *((name, group) for name, group in GROUPS if isinstance(group, LazyGroup))]

HEAVY = ("aiohttp", "alembic", "asyncpg", "faker", "pydantic", "sqlalchemy", "starlette", "uvicorn")
ASK = f"""
import sys
sys.argv = ["priohook", *sys.argv[1:]]
try:
    from app.cli.main import main
    main()
finally:
    print(*sorted(set(sys.modules) & set({HEAVY})), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_import_nothing_that_takes_long(arguments):
    done = subprocess.run([sys.executable, "-c", ASK, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "\n")


@pytest.mark.slow
def test_a_list_of_events_imports_neither_the_server_nor_the_receiver_nor_alembic():
    code = "import sys, app.cli.events; print(set(sys.modules) & {'app.receiver', 'app.server', 'alembic'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_a_worker_imports_no_library_of_a_broker_unless_a_destination_needs_it():
    code = "import sys, app.cli.worker; print(set(sys.modules) & {'nats', 'aiormq', 'aiokafka'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_the_status_imports_neither_the_api_nor_what_only_workers_and_tables_on_a_terminal_need():
    named = ("app.api", "app.deliveries.dispatch", "app.deliveries.claims", "app.deliveries.queries", "rich.console")
    code = f"import sys, app.cli.status; print(set(sys.modules) & {set(named)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_what_a_command_imports_is_never_searched_for_garbage():
    code = "import gc; from app.cli.main import priohook; before = gc.get_freeze_count(); "
    code += "priohook.get_command(None, 'events'); print(before, gc.get_freeze_count() > 10_000, gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "0 True True\n"


@pytest.mark.parametrize(("name", "group"), LAZY)
def test_help_lists_each_command_with_the_first_sentence_of_its_own_help(name, group):
    context = click.Context(group, info_name=name)
    listed = group.get_help(context).partition("Commands:")[2]
    for command, (_, sentence) in group.lazy.items():
        real = group.get_command(context, command)
        assert real is not None
        assert real.name == command
        help_text = " ".join((real.help or "").split())
        assert f"{help_text} ".startswith(f"{sentence} ")
        assert sentence.endswith(".")
        assert f"{command} {sentence}" in " ".join(listed.split())


def test_a_command_reads_its_settings_once(run, tmp_path, monkeypatch):
    (tmp_path / "priohook.toml").write_text('[destinations.erp]\nurl = "https://erp.example/"\n')
    load, read = Settings.load, []

    def counted() -> Settings:
        read.append(load())
        return read[-1]

    monkeypatch.setattr(Settings, "load", counted)
    run("replay", "--dry-run")
    assert len(read) == 1


def test_a_bug_is_a_traceback(run, monkeypatch):
    monkeypatch.setitem(main.COMMANDS, "keys", ("app.no_such_module:keys", "Make a key that signs tokens."))
    with pytest.raises(ModuleNotFoundError):
        run("keys")

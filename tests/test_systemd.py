"""The unit of deploy/systemd, as systemd reads it."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import click
import pytest

from app.cli.main import priohook
from app.cli.serve import LAST
from app.server.beside import ENDS_WITHIN
from app.server.server import ends_within
from app.settings.model import Settings
from app.settings.sources import CONFIG_VARIABLE
from tests.pages import PROJECT, page

UNIT = PROJECT / "deploy" / "systemd" / "priohook@.service"
DOCS = page("deploying").partition("## systemd\n")[2].partition("\n## ")[0]
PROGRAM = "/opt/priohook/bin/priohook"
MOST_EXPOSED = 1.5  # of 10, where 10 is a service without any protection
INSTANCES = ["serve", "worker"]


def options() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found[name].append(value)
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a program that is on this machine."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace(PROGRAM, str(Path(sys.executable).parent / "priohook")))
    return path


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=120)  # noqa: S607


def test_systemd_knows_all_that_the_unit_says(installed):
    done = analyze("verify", "--man=no", "--recursive-errors=no", installed)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_leaves_little_of_the_system_to_whoever_breaks_in(installed):
    done = analyze("security", "--offline=yes", "--json=short", f"--threshold={MOST_EXPOSED * 10:.0f}", installed)
    exposed = [each for each in json.loads(done.stdout) if float(each["exposure"] or 0) > 0.1]
    assert done.returncode == 0, exposed
    assert f"less than {MOST_EXPOSED}," in DOCS


@pytest.mark.parametrize("instance", INSTANCES)
def test_an_instance_is_a_command_that_runs_until_it_is_told_to_end(instance):
    (line,) = options()["ExecStart"]
    assert line == f"{PROGRAM} %i $ARGUMENTS"
    assert priohook.get_command(click.Context(priohook), instance) is not None
    assert f"priohook@{instance}" in DOCS


def test_systemd_waits_until_both_have_ended_in_good_order():
    spooling = Settings(database_url="postgresql://host/priohook", spool=Path("/var/lib/priohook"))
    longest = max(ends_within(spooling) + LAST, 2 * ENDS_WITHIN)
    (patience,) = options()["TimeoutStopSec"]
    assert float(patience) >= longest + 30  # of shutdown_delay
    assert options()["KillMode"] == ["mixed"]  # else a worker beside `serve` is told twice, and started again


def test_settings_and_secrets_come_from_where_the_page_says(monkeypatch, tmp_path):
    """As systemd does it: a folder's file `database_url` is the credential `priohook_database_url`."""
    (loaded,) = options()["LoadCredential"]
    name, _, folder = loaded.partition(":")
    assert folder in DOCS
    (tmp_path / f"{name}_database_url").write_text("postgresql://host/priohook")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Settings.load().database_url == "postgresql+asyncpg://host/priohook"
    (variable,) = options()["Environment"]
    assert variable.partition("=")[0] == CONFIG_VARIABLE
    assert variable.partition("=")[2] in DOCS

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from starlette.routing import Route

from app.application import create_app
from app.cli.main import priohook
from app.settings.model import ClientSettings, Settings
from app.telemetry.logs import stderr_writer
from app.web.openapi.document import describe
from tests.conftest import CLIENTS
from tests.web.openapi.test_document import ROUTES

README = (Path(__file__).parent.parent / "README.md").read_text()


def commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_readme_names_every_setting(name):
    assert f"| `{name}` |" in README


@pytest.mark.parametrize(("name", "command"), list(commands(priohook, "priohook")))
def test_the_readme_names_every_command_and_its_options(name, command):
    (row,) = [line for line in README.splitlines() if re.match(rf"\| `{name}[ `]", line)]
    options = {
        option
        for each in command.params
        if isinstance(each, click.Option) and not each.hidden
        for option in each.opts[:1]
    }
    assert {option for option in options if option not in row} == set()


def test_the_readme_names_every_url():
    clients = {name: ClientSettings.model_validate(each) for name, each in CLIENTS.items()}
    app = create_app(Settings(clients=clients), log=stderr_writer("json"))
    routes = [route for route in app.routes if isinstance(route, Route)]
    urls = {f"| `{method} {route.path_format}` |" for route in routes for method in (route.methods or set()) - {"HEAD"}}
    assert {url for url in urls if url not in README} == set()


def test_the_readme_names_every_dependency():
    requirements = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    names = re.findall(r'^    "([a-z0-9_-]+)(?:\[\w+\])?>=', requirements, re.MULTILINE)
    assert names
    assert {name for name in names if name not in README.lower()} == set()


STATUS_ROWS = dict(re.findall(r"^\| (\d{3}) \|.*\| `(test_\w+)` \|$", README, re.MULTILINE))


def test_each_status_in_the_readme_has_the_test_that_it_names():
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    assert STATUS_ROWS
    assert {name for name in STATUS_ROWS.values() if f"def {name}(" not in tests} == set()


def test_the_readme_names_every_status_that_an_operation_declares():
    declared = {
        status for path in describe(ROUTES)["paths"].values() for each in path.values() for status in each["responses"]
    }
    assert {status for status in declared if status >= "400"} <= set(STATUS_ROWS)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_destinations_of_the_readme_can_be_used_as_they_are_printed():
    (printed,) = [block for block in blocks("toml") if "[destinations" in block]
    Path("priohook.toml").write_text(printed)
    assert set(Settings.load().destinations) == {"erp", "gate"}

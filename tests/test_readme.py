import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from starlette.routing import Route

from app.application import create_app
from app.auth.clients import clients_from
from app.cli.main import priohook
from app.settings import ClientSettings, Settings
from app.telemetry.logs import stderr_writer
from tests.conftest import CLIENTS

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
    options = {option for each in command.params if isinstance(each, click.Option) for option in each.opts[:1]}
    assert {option for option in options if option not in row} == set()


def test_the_readme_names_every_url():
    clients = {name: ClientSettings.model_validate(each) for name, each in CLIENTS.items()}
    app = create_app(Settings(), clients=clients_from(clients), log=stderr_writer("json"))
    routes = [route for route in app.routes if isinstance(route, Route)]
    urls = {f"| `{method} {route.path}` |" for route in routes for method in (route.methods or set()) - {"HEAD"}}
    assert {url for url in urls if url not in README} == set()


def test_the_readme_names_every_dependency():
    requirements = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    names = re.findall(r'^    "([a-z0-9_-]+)(?:\[\w+\])?>=', requirements, re.MULTILINE)
    assert names
    assert {name for name in names if name not in README.lower()} == set()

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from app.console.pages import Page
from app.settings.model import Settings
from app.web.openapi.document import describe
from app.web.openapi.operations import Route
from tests.logcalls import LogEvent, log_events
from tests.pages import DOCS, GENERATED, PAGES, PROJECT, README, blocks, commands, page, shown_commands, written
from tests.test_application import application
from tests.web.openapi.test_document import ROUTES

LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)")
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
STATUS_ROWS = dict(re.findall(r"^\| (\d{3}) \|.*\| `(test_\w+)` \|$", page("api"), re.MULTILINE))


def anchors(text: str) -> set[str]:
    """The anchors of a page: its headings, as hosting sites write them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[><=;]", each)[0] for each in requirements}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_of_a_page_leads_somewhere(path):
    for target, anchor in LINK.findall(path.read_text()):
        file = path.parent / target if target else path
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file.read_text()), f"{target}#{anchor}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_line_of_a_page_is_a_command_with_its_options(path):
    options = {
        name: {each for option in context.command.params for each in (*option.opts, "--help")}
        for name, context in commands()
    }
    for words in shown_commands(path.read_text()):
        names = [" ".join(["priohook", *words[:count]]).partition("|")[0] for count in (1, 2, 3)]
        known = [name for name in names if name in options]
        group = names[-1] == names[0] and any(name.startswith(f"{names[0]} ") for name in options)
        assert known or group or words[0] in {"--help", "--version"}, words
        given = {word for word in words if re.fullmatch("--[a-z-]+", word)}
        assert not known or given <= options[known[0]], words


def test_the_readme_leads_to_every_page():
    text = README.read_text()
    assert {path.name for path in DOCS.glob("*.md") if f"(docs/{path.name})" not in text} == set()


def test_the_readme_begins_with_the_two_set_up_commands():
    commands = re.findall(r"^python3 -m venv .*$", README.read_text(), re.MULTILINE)
    assert [command.rpartition("/")[2] for command in commands] == ["priohook serve", "pytest"]
    assert all("pip install -r requirements" in command for command in commands)


def test_the_readme_stays_short():
    assert len(README.read_text().splitlines()) <= 160


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_says_what_the_program_says(name):
    assert page(name) == written(page(name), GENERATED[name]()), "run `python -m tests.pages`"


def test_the_api_page_names_every_url_and_no_other():
    routes = [route for route in application().routes if isinstance(route, Route)]
    urls = {f"{method} {route.path_format}" for route in routes for method in (route.methods or set()) - {"HEAD"}}
    assert set(re.findall(r"^\| `([A-Z]+ /[^`]+)` \|", page("api"), re.MULTILINE)) == urls


def test_the_console_page_describes_each_page_of_the_console():
    routes = [route for route in application().routes if isinstance(route, Page) and route.method == "GET"]
    shown = {route.path for route in routes if re.fullmatch("/console/[a-z]+", route.path)}
    assert {path for path in shown if f"`{path}" not in page("console")} == {"/console/find", "/console/stream"}


def test_the_page_of_logs_has_each_log_event_with_its_levels_and_fields():
    rows = re.findall(r"^\| `(\w+)` \| ([a-z ]+) \| ([`\w ]+) \| .+ \|$", page("logs"), re.MULTILINE)
    documented = {
        name: LogEvent(set(levels.split(" or ")), set(fields[1:-1].split("` `"))) for name, levels, fields in rows
    }
    assert documented == log_events()


def test_contributing_names_every_dependency():
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    names = names_of(project["dependencies"] + [each for extra in extras.values() for each in extra])
    text = (PROJECT / "CONTRIBUTING.md").read_text().lower()
    assert {name for name in names if name not in text} == set()


def test_every_extra_has_a_file_of_pinned_versions():
    pinned = "".join(
        path.read_text() for path in PROJECT.glob("requirements-*.txt") if path.stem != "requirements-test"
    )
    extras = {name: each for name, each in PYPROJECT["project"]["optional-dependencies"].items() if name != "test"}
    names = names_of([requirement for each in extras.values() for requirement in each])
    assert {name for name in names if f"\n{name}==" not in f"\n{pinned}"} == set()


def test_each_status_of_the_api_page_has_the_test_that_it_names():
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    assert STATUS_ROWS
    assert {name for name in STATUS_ROWS.values() if f"def {name}(" not in tests} == set()


def test_the_api_page_names_every_status_that_an_operation_declares():
    declared = {
        status for path in describe(ROUTES)["paths"].values() for each in path.values() for status in each["responses"]
    }
    assert {status for status in declared if status >= "400"} <= set(STATUS_ROWS)


@pytest.mark.parametrize(
    ("path", "names"),
    [(README, {"erp"}), (DOCS / "deliveries.md", {"erp", "gate"}), (DOCS / "brokers.md", {"stream", "queue", "log"})],
)
def test_printed_destinations_can_be_used(path, names):
    printed = "".join(block for block in blocks(path.read_text(), "toml") if "[destinations" in block)
    Path("priohook.toml").write_text(re.sub(r"^secret = .*$", "", printed, flags=re.MULTILINE))
    assert set(Settings.load().destinations) == names


def test_the_changelog_tells_each_change_once():
    lines = (PROJECT / "CHANGELOG.md").read_text().splitlines()
    beginnings = Counter(line[:60] for line in lines if line.startswith("- "))
    assert [beginning for beginning, number in beginnings.items() if number > 1] == []


def test_the_drawing_has_the_floors_of_the_import_contract():
    (contract,) = [each for each in PYPROJECT["tool"]["importlinter"]["contracts"] if each["type"] == "layers"]
    drawn = re.findall(r"^(\d+) (.+)$", page("architecture"), re.MULTILINE)
    assert [floor for floor, _ in drawn] == [str(number) for number in reversed(range(len(drawn)))]
    assert [rooms for _, rooms in drawn] == contract["layers"]


def test_the_drawing_has_the_rooms_of_the_package():
    drawn = set(re.findall(r"^  (\w+(?:/|\.py)) ", page("architecture"), re.MULTILINE))
    package = [path for path in (PROJECT / "app").iterdir() if not path.name.startswith((".", "__pycache__"))]
    rooms = {path.name if path.is_file() else f"{path.name}/" for path in package if path.name != "__init__.py"}
    assert drawn == rooms


def test_every_file_that_the_architecture_names_is_there():
    named = set(re.findall(r"`(\w+/[\w/]+\.py)`", page("architecture")))
    assert named
    assert {file for file in named if not (PROJECT / file).is_file()} == set()

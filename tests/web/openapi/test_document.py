import ast
import json
import re
from pathlib import Path

import pytest

import app
from app.auth.token_request import OF_TOKENS
from app.console.pages import Page
from app.settings.clients import Scope
from app.web.openapi.document import SCOPES, answers, describe
from app.web.openapi.operations import ErrorModel, Route
from app.web.problems import NotFound
from tests.answers import ROWS
from tests.conftest import WEBHOOK, basic_header
from tests.test_application import OPEN, application
from tests.web.openapi.raised import raised_by

ROUTES = [route for route in application().routes if isinstance(route, Route)]
DOCUMENT = describe(ROUTES)
OPERATIONS = [(path, operation) for path, item in DOCUMENT["paths"].items() for operation in item.values()]


def test_every_route_is_described():
    described = [route for route in application().routes if not isinstance(route, Page)]
    assert len(OPERATIONS) == len(ROUTES) == len(described)


def test_every_reference_leads_to_a_model():
    text = json.dumps(DOCUMENT)
    used = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used == set(DOCUMENT["components"]["schemas"])


def test_an_id_in_a_path_is_a_uuid_and_a_name_is_not_empty():
    parameters = [each for _, operation in OPERATIONS for each in operation.get("parameters", ())]
    in_path = {each["name"]: each["schema"] for each in parameters if each["in"] == "path"}
    assert {name for name, schema in in_path.items() if schema.get("format") == "uuid"} == {
        "event_id",
        "delivery_id",
        "replay_id",
    }
    assert {name for name, schema in in_path.items() if schema.get("minLength") == 1} == {"name", "reference"}


def test_only_open_urls_need_no_credential():
    assert {path for path, operation in OPERATIONS if not operation["security"]} == OPEN


def test_a_described_scope_is_the_one_that_the_door_asks_for():
    (webhook,) = (route for route in ROUTES if route.path == WEBHOOK)
    assert DOCUMENT["paths"][WEBHOOK]["post"]["security"] == [{"basic": ["webhooks:send"]}]
    assert webhook.door
    assert webhook.door.middleware
    assert webhook.door.middleware.kwargs["scope"] is Scope.SEND


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_says_what_success_is_what_its_door_answers_and_500(route):
    door = {problem.status for problem in route.door.problems} if route.door else set()
    statuses = set(answers(route.operation, route.door))
    assert statuses >= {500, *door}
    assert any(status < 300 for status in statuses)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_handler_raises_what_its_description_lists_and_nothing_else(route):
    assert_same(raised_by(route.endpoint), route.operation.problems)


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_a_door_raises_what_it_lists_and_nothing_else(scheme):
    door = next(route.door for route in ROUTES if route.door and route.door.scheme == scheme and route.door.problems)
    middleware = [each.cls for each in (door.middleware, door.behind) if each]
    assert_same(set().union(*map(raised_by, middleware)), door.problems)


def assert_same(raised, listed):
    assert {problem for problem in raised if set(listed).isdisjoint(problem.__mro__)} == set()
    assert {problem for problem in listed if not any(issubclass(each, problem) for each in raised)} == set()


@pytest.mark.parametrize("package", ["deliveries", "events", "receiver", "auth"])
def test_nobody_is_told_over_http_to_type_a_command(package):
    for path in (Path(app.__file__).parent / package).rglob("*.py"):
        if path.name != "first_clients.py":  # the command line's alone
            strings = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
            assert not [each for each in strings if isinstance(each, str) and re.search(r"priohook [a-z]+ [a-z]", each)]


def test_a_webhook_is_described_with_every_status_of_the_table_of_answers():
    described = {int(status) for status in DOCUMENT["paths"][WEBHOOK]["post"]["responses"]}
    assert described == {row.status for row in ROWS} - {404, 405, 501} | {500}


def test_every_scope_of_a_token_has_a_meaning():
    assert set(SCOPES) == OF_TOKENS


def test_a_problem_is_what_the_document_calls_an_error_model():
    content = json.loads(bytes(NotFound("Nothing.", "Look elsewhere.").response("1").body))
    assert ErrorModel.model_validate(content).model_dump() == content


@pytest.mark.parametrize(
    "example", DOCUMENT["paths"][WEBHOOK]["post"]["requestBody"]["content"]["application/json"]["examples"]
)
async def test_an_example_of_a_webhook_is_accepted(start, sqlite_url, example):
    (operation,) = (operation for path, operation in OPERATIONS if path == WEBHOOK)
    value = operation["requestBody"]["content"]["application/json"]["examples"][example]["value"]
    async with start(sqlite_url) as client:
        assert (await client.post(WEBHOOK, json=value, headers=basic_header())).status_code == 200

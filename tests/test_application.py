import io
import re
from inspect import isroutine
from typing import Any, get_args, get_origin, get_type_hints

import httpx2
import pytest
from sqlalchemy import text
from starlette.requests import Request

from app.application import create_app
from app.auth.basic import CHALLENGE as BASIC_CHALLENGE
from app.auth.bearer import CHALLENGE as BEARER_CHALLENGE
from app.console.pages import Page
from app.lifespan import State
from app.settings.model import Settings, SettingsProblem
from app.telemetry.logs import LogWriter
from app.web.openapi.operations import Route
from app.web.router import Router
from tests.conftest import CLIENTS, basic_header, readiness

OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs"}
OPEN_PAGES = {"/console/sign-in", "/console/static/{digest}/{name}"}
TOKEN = "/oauth2/token"

UNDEFINED_METHODS = ["PROPFIND", "BREW", "PURGE", "QUERY", "POSTS"]


def application(**changes) -> Router:
    settings = Settings.model_validate({"clients": CLIENTS, **changes})
    return create_app(settings, log=LogWriter(io.StringIO(), style="json"))


async def test_a_stranger_gets_nothing_but_the_challenge_from_every_url():
    app = application()
    challenges = {"basic": BASIC_CHALLENGE, "bearer": BEARER_CHALLENGE}
    asked = 0
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://priohook") as stranger:
        for route in app.routes:
            assert isinstance(route, Route | Page), "whatever is no described route has no place in the table"
            assert route.methods, f"{route.path} takes any method"
            if isinstance(route, Page):
                continue
            if route.door is None:
                assert route.path in OPEN
                continue
            for method in route.methods:
                asked += 1
                reply = await stranger.request(method, re.sub(r"\{.*?\}", "1", route.path), content=b"{}")
                assert reply.status_code == 401, route.path
                assert reply.headers["WWW-Authenticate"] == challenges[route.door.scheme], route.path
                # RFC 6749 wants an error in the body where tokens are given, though it says no more than the status.
                assert reply.content == b"" or (route.path, reply.json()["error"]) == (TOKEN, "invalid_client")
    assert asked


async def test_a_stranger_is_shown_where_to_sign_in_by_every_page():
    app = application()
    asked = 0
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://priohook") as stranger:
        for route in app.routes:
            if not isinstance(route, Page) or route.path in OPEN_PAGES:
                continue
            for method in route.methods or ():
                asked += 1
                reply = await stranger.request(method, re.sub(r"\{.*?\}", "1", route.path), content=b"a=1")
                assert reply.status_code == 303, route.path
                assert reply.headers["Location"].startswith("/console/sign-in"), route.path
                assert reply.content == b""
    assert asked


def test_every_handler_says_what_it_needs_of_the_state_and_the_lifespan_gives_it():
    said = set()
    for route in application().routes:
        assert isinstance(route, Route | Page)
        hints = get_type_hints(route.endpoint) if isroutine(route.endpoint) else {}  # else it is plain ASGI
        for hint in hints.values():
            if get_origin(hint) is Request or hint is Request:
                (needed,) = get_args(hint)  # without arguments it says nothing
                said.add(route.path)
                assert needed is Any or needed.__required_keys__ <= State.__required_keys__, route.path
    assert len(said) > len(OPEN)


def test_the_open_urls_are_all_there():
    assert {route.path for route in application().routes} >= OPEN  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", UNDEFINED_METHODS)
async def test_a_method_that_http_does_not_define_is_501(start, sqlite_url, method):
    paths = {re.sub(r"\{.*?\}", "1", route.path) for route in application().routes if isinstance(route, Route)}
    async with start(sqlite_url) as client:
        replies = [await client.request(method, path, headers=basic_header()) for path in paths]
    assert {(reply.status_code, reply.json()["error"]) for reply in replies} == {(501, "NOT_IMPLEMENTED")}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_every_answer_has_a_request_id_of_its_own(start, sqlite_url, path):
    async with start(sqlite_url) as client:
        replies = [await client.get(path) for _ in range(2)]
    assert len({reply.headers["X-Request-Id"] for reply in replies}) == 2


async def test_a_request_id_from_outside_is_not_believed(start, sqlite_url):
    async with start(sqlite_url) as client:
        reply = await client.get("/healthz", headers={"X-Request-Id": "mine"})
    assert "mine" not in reply.headers.get_list("X-Request-Id")


async def test_health_and_readiness_are_open(client):
    assert (await client.get("/healthz")).json() == {"status": "alive"}
    assert (await client.get("/readyz")).json()["status"] == "ready"


async def test_head_of_health_is_answered_without_a_body(client):
    reply = await client.head("/healthz")
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.fixture
async def revision(engine):
    """`await revision("0000")` sets the database's revision; at the end it is restored."""
    async with engine.begin() as connection:
        before = await connection.scalar(text("SELECT version_num FROM alembic_version"))

    async def put(name: str) -> None:
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :name"), {"name": name})

    yield put
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM alembic_version"))
        await connection.execute(text("INSERT INTO alembic_version VALUES (:name)"), {"name": before})


async def test_a_schema_that_lacks_migrations_is_alive_and_not_ready(client, engine, revision):
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM alembic_version"))
    reply = await readiness(client, 503)
    assert reply.json()["error"] == "SERVICE_UNAVAILABLE"
    assert "priohook migrate" in reply.json()["error_description"]
    assert int(reply.headers["Retry-After"]) > 0
    assert (await client.get("/healthz")).status_code == 200


async def test_a_newer_release_may_have_migrated_already(client, revision):
    await revision("from_a_newer_release")
    assert (await client.get("/readyz")).status_code == 200


async def test_an_application_without_clients_is_refused():
    with pytest.raises(SettingsProblem, match="No client is configured"):
        create_app(Settings(), log=LogWriter(io.StringIO(), style="json"))

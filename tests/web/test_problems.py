import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from app.web import problems
from app.web.problems import (
    InternalError,
    MethodNotAllowed,
    MethodNotImplemented,
    NotFound,
    Problem,
    Unavailable,
    problem_for,
)
from tests.conftest import WEBHOOK, basic_header

ERROR_MODEL = {"error", "error_reference", "error_message", "error_description", "error_uri", "errors"}


def problem(status: int, **more: Any) -> Problem:
    kind = type("Any", (Problem,), {"status": status})
    return kind("It failed.", "Do something.", **more)  # type: ignore[no-any-return]


def body_of(problem: Problem) -> dict[str, Any]:
    return json.loads(bytes(problem.response("abc").body))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_REQUEST"),
        (401, "AUTHENTICATION_FAILED"),
        (403, "FORBIDDEN"),
        (404, "NOT_FOUND"),
        (405, "METHOD_NOT_ALLOWED"),
        (406, "NOT_ACCEPTABLE"),
        (408, "REQUEST_TIMEOUT"),
        (413, "CONTENT_TOO_LARGE"),
        (415, "UNSUPPORTED_MEDIA_TYPE"),
        (422, "UNPROCESSABLE_ENTITY"),
        (429, "LIMIT_REACHED"),
        (500, "INTERNAL_SERVER_ERROR"),
        (501, "NOT_IMPLEMENTED"),
        (502, "BAD_GATEWAY"),
        (503, "SERVICE_UNAVAILABLE"),
        (504, "GATEWAY_TIMEOUT"),
    ],
)
def test_each_status_has_its_error_code(status, code):
    assert body_of(problem(status))["error"] == code


def test_a_problem_is_an_error_model_and_nothing_else():
    assert body_of(problem(400)) == {
        "error": "INVALID_REQUEST",
        "error_reference": "abc",
        "error_message": "It failed.",
        "error_description": "Do something.",
    }
    assert set(body_of(problem(400))) <= ERROR_MODEL


def test_a_description_that_says_nothing_is_left_out():
    assert "error_description" not in body_of(NotFound("There is nothing."))


@pytest.mark.parametrize("odd", ["Zoë 票 🎫", 'a "quoted" \\ line\n', "lone \ud800 surrogate", "NUL \0"])
def test_any_text_makes_valid_json(odd):
    assert body_of(NotFound(odd))["error_message"] == odd.replace("\ud800", "?")


def test_it_is_json_and_keeps_its_own_headers():
    response = problem(503, headers={"Retry-After": "7"}).response("abc")
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Retry-After"] == "7"


def test_passing_trouble_says_when_to_try_again():
    assert int(Unavailable("The database is away.").response("abc").headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("error", "method", "kind"),
    [
        (NotFound("There is nothing."), "GET", NotFound),
        (HTTPException(404), "BREW", NotFound),
        (HTTPException(405, headers={"Allow": "POST"}), "GET", MethodNotAllowed),
        (HTTPException(405, headers={"Allow": "POST"}), "BREW", MethodNotImplemented),
    ],
)
def test_an_exception_stands_for_its_problem(error, method, kind):
    assert type(problem_for(error, method=method)) is kind


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("bug"), OSError("bug")], ids=repr)
def test_a_bug_stands_for_no_problem(error):
    assert problem_for(error, method="GET") is None


async def sent_by(problem: Problem, arriving: list[dict[str, Any]]) -> list[Any]:
    """What a response sends; messages that still arrive are taken from the list."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return arriving.pop(0)

    async def send(message: Any) -> None:
        sent.append((len(arriving), message))

    await problem.response("abc")({"type": "http"}, receive, send)
    return sent


async def test_a_problem_that_closes_says_so_and_answers_before_it_reads_what_still_arrives():
    chunk = {"type": "http.request", "body": b"x", "more_body": True}
    arriving: list[dict[str, Any]] = [chunk, chunk, {"type": "http.request", "body": b"", "more_body": False}]
    (left, head), (_, body), (left_at_end, end) = await sent_by(problem(413, close=True, unread=True), arriving)
    assert (b"connection", b"close") in head["headers"]
    assert (left, left_at_end) == (3, 0)
    assert body["more_body"] is True
    assert end == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_sender_that_hangs_up_ends_the_reading():
    arriving: list[dict[str, Any]] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": b"", "more_body": False},
    ]
    await sent_by(problem(413, close=True, unread=True), arriving)
    assert len(arriving) == 1


async def test_a_sender_that_never_ends_is_not_read_forever(monkeypatch):
    monkeypatch.setattr(problems, "LINGER_BYTES", 10)
    arriving: list[dict[str, Any]] = [{"type": "http.request", "body": b"12345", "more_body": True}] * 5
    await sent_by(problem(413, close=True, unread=True), arriving)
    assert len(arriving) == 3


async def test_a_problem_that_leaves_the_connection_reads_nothing():
    arriving: list[dict[str, Any]] = []
    ((_, head), _) = await sent_by(InternalError("It failed."), arriving)
    assert b"connection" not in dict(head["headers"])


async def test_the_reference_in_the_answer_is_the_request_id_of_header_and_log(start, sqlite_url, lines):
    async with start(sqlite_url) as client:
        reply = await client.post(WEBHOOK, content=b"{", headers=basic_header())
    (line,) = [line for line in lines() if line["event"] == "request"]
    assert reply.status_code == 400
    assert reply.json()["error_reference"] == reply.headers["X-Request-Id"] == line["request_id"]

import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.checker.check import asked, differences
from app.checker.rows import STRANGER, Request, Row
from app.checker.wire import Answer, parts

REFUSED = Row(request="", status=400, error="INVALID_REQUEST", tolerable=True)
STORED = Row(request="", status=200, headers=(("Event-Id", "*"),))
NOT_ALLOWED = Row(request="", status=405, error="*", headers=(("Allow", "POST"),))


def answer(status: int = 400, *, body: bytes | None = None, **headers: str) -> Answer:
    model = json.dumps({"error": "INVALID_REQUEST", "error_reference": "1"}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    usual = {"content-type": "application/json", "x-request-id": "1"}
    return Answer(status, usual | named, model if body is None else body)


@pytest.mark.parametrize(
    ("row", "got"),
    [
        (REFUSED, answer()),
        (REFUSED, answer(200, body=b"")),
        (STORED, answer(200, body=b"", event_id="7")),
        (NOT_ALLOWED, answer(405, allow="POST")),
    ],
)
def test_an_answer_as_its_row_says_does_not_differ(row: Row, got: Answer):
    assert list(differences(row, got)) == []


@pytest.mark.parametrize(
    ("row", "got", "difference"),
    [
        (REFUSED, answer(500), "the status is 500"),
        (REFUSED, answer(content_type="text/html"), "Content-Type is text/html"),
        (REFUSED, answer(body=b"<html>"), "the body is not an ErrorModel; it begins with b'<html>'"),
        (REFUSED, answer(body=b'{"error": "OTHER", "error_reference": "1"}'), "the error is OTHER"),
        (REFUSED, answer(x_request_id="2"), "error_reference differs from X-Request-Id"),
        (STORED, answer(200, body=b""), "there is no Event-Id"),
        (STORED, answer(200, body=b"ok", event_id="7"), "there is a body of 2 bytes"),
        (STORED, answer(202, body=b"", event_id="7"), "the status is 202"),
        (NOT_ALLOWED, answer(405, allow="GET"), "Allow is GET"),
    ],
)
def test_a_difference_is_named(row: Row, got: Answer, difference: str):
    assert list(differences(row, got)) == [difference]


def test_a_check_fails_authentication_far_less_often_than_is_allowed():
    wrong = [row for row, request in asked(known=True, read_only=False) if row.status == 401 and request.authorization]
    assert 0 < len(wrong) * 10 < 60


@pytest.mark.parametrize("known", [True, False])
def test_what_would_be_stored_or_needs_what_nobody_outside_has_is_left_out(known: Any):
    left = list(asked(known=known, read_only=True))
    assert {row.kept for row, _ in left} == {None}
    assert not [row for row, request in left if STRANGER in request.authorization]


def test_a_body_in_chunks_has_an_end():
    sent = parts(Request(name="", content=(b"ab", b"c")), urlsplit("http://a/b"), credentials={})
    assert list(sent)[1:] == [b"2\r\nab\r\n", b"1\r\nc\r\n", b"0\r\n\r\n"]

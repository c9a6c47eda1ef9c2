import json

import pytest

from app.checker.causes import advice
from app.checker.rows import Request, Row
from app.checker.wire import Answer

ROW = Row(request="an event", status=200)
REQUEST = Request(name="an event", advice="Its own.")
MODEL = json.dumps({"error": "CONTENT_TOO_LARGE", "error_reference": "1"}).encode()


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (301, "redirects to https://there"),
        (401, "credentials are wrong"),
        (403, "lacks the scope"),
        (404, "whole URL"),
        (429, "more than 60 times"),
        (502, "cannot reach priohook"),
        (504, "cannot reach priohook"),
        (500, "Its own."),
        (200, "Its own."),
    ],
)
def test_the_status_tells_the_cause(status, cause):
    assert cause in advice(ROW, REQUEST, Answer(status, {"location": "https://there"}, b""))


@pytest.mark.parametrize(("body", "cause"), [(MODEL, "max_body_bytes"), (b"<html>", "Its own."), (b"[1]", "Its own.")])
def test_a_limit_of_ours_is_told_from_a_proxys(body, cause):
    assert cause in advice(ROW, REQUEST, Answer(413, {}, body))

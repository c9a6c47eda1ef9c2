"""Code that reads bytes from outside takes time in proportion to their number, whatever they are."""

from collections.abc import Callable
from datetime import UTC, datetime
from time import thread_time
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.routing import Route

from app.api.events import MEDIA_TYPE
from app.auth.basic import credential
from app.auth.bearer import B64TOKEN
from app.auth.token_request import SCOPE
from app.auth.tokens import COMPACT
from app.deliveries.destinations.http import retry_after
from app.prioticket.payloads import UNPRINTABLE
from app.server.head import HOST, REQUEST_LINE
from app.web.body import content_coding
from app.web.etags import has_current
from app.web.negotiation import accepts_json, is_json
from app.web.parameters import MOMENT
from tests.test_application import application

pytestmark = pytest.mark.slow

SHORT, TIMES = 4_000, 8
LEAST = 0.0002  # seconds; below it the clock says little, and the square of LONG takes a hundred times as long
NOW = datetime(2026, 8, 12, tzinfo=UTC)


def current(field: bytes) -> object:
    return has_current(SimpleNamespace(headers=Headers({"if-none-match": field.decode()})), '"a"')  # type: ignore[arg-type]


def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda content: read(content.decode())


READERS: dict[str, Callable[[bytes], object]] = {
    "request line": REQUEST_LINE.match,
    "host": HOST.fullmatch,
    "Accept": accepts_json,
    "Content-Type": is_json,
    "Content-Encoding": content_coding,
    "Basic": lambda token: credential([b"Basic " + token]),
    "Bearer": B64TOKEN.fullmatch,
    "token": text(COMPACT.fullmatch),
    "scope": text(SCOPE.fullmatch),
    "media type": text(MEDIA_TYPE.fullmatch),
    "moment": text(MOMENT.fullmatch),
    "text of an event": text(lambda value: UNPRINTABLE.sub("", value)),
    "If-None-Match": current,
    "Retry-After": text(lambda value: retry_after(value, now=NOW)),
}
PARTS = [
    b"1",
    b"a",
    b"A=",
    b"a.",
    b" ",
    b"?",
    b",",
    b";",
    b'"',
    b"=",
    b":",
    b"/",
    b"a/b;q=1,",
    b"; a=a",
    b"%41",
    b"a ",
    b"-",
]
BEGINNINGS = [
    b"",
    b"FOO /",
    b"FOO /?",
    b"[",
    b"a/a",
    b"a/a;a=",
    b"application/json;q=",
    b"application/json;q=1.",
    b"a.",
]
"""The text that leads a pattern to the part that repeats."""


def seconds(read: Callable[[Any], object], content: object) -> float:
    began = thread_time()
    read(content)
    return thread_time() - began


def assert_linear(read: Callable[[Any], object], make: Callable[[int], object]) -> None:
    short = min(seconds(read, make(SHORT)) for _ in range(3))
    long = min(seconds(read, make(SHORT * TIMES)) for _ in range(3))
    assert long < 3 * TIMES * max(short, LEAST)


def repeated(beginning: bytes, part: bytes, end: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: (beginning + part * size)[:size] + end


@pytest.mark.parametrize("end", [b"", b"\x01", b"x"])
@pytest.mark.parametrize("reader", READERS)
def test_reading_a_header_takes_a_time_in_proportion_to_its_bytes(reader, end):
    for beginning in BEGINNINGS:
        for part in PARTS:
            assert_linear(READERS[reader], repeated(beginning, part, end))


def test_finding_a_route_takes_a_time_in_proportion_to_the_path():
    patterns = [route.path_regex for route in application().routes if isinstance(route, Route)]
    for part in (b"a", b"/", b"/pause", b"/a/body", b"\n"):
        for pattern in patterns:
            beginning = pattern.pattern.removeprefix("^").partition("(")[0].rstrip("$").encode()
            assert_linear(text(pattern.match), repeated(beginning, part))

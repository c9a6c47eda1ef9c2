import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from time import perf_counter
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, text
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from app.application import create_app
from app.database.engines import engine_for
from app.events.tables import Event
from app.settings.model import Settings
from app.telemetry.logs import LogWriter, logging_to
from app.telemetry.meter import ACKNOWLEDGED, Meter
from app.telemetry.middleware import RequestLine
from app.telemetry.spans import Spans
from app.telemetry.tally import Tally
from tests.conftest import CLIENTS, SECRET, WEBHOOK, basic_header, payload

NOTIFICATION = payload("01-notification-order-create")
ORDER = payload("08-order-payload-confirmed")
CONTACT = ("alex@example.com", "Alex", "Example")
BODY_WORDS = ("order_contacts", "contact_email", "order_bookings", ORDER[:20].hex())
"""Of an order's body; the last is how PostgreSQL shows the bytes of a row that it refuses."""


def request_lines(lines: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [line for line in lines() if line["event"] == "request"]


async def test_a_stored_event_is_one_line_with_all_that_is_known(start, sqlite_url, lines):
    async with start(sqlite_url) as client:
        reply = await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    (line,) = request_lines(lines)
    assert line.pop("time")
    assert 0 <= line.pop("wait_ms") <= line.pop("ms") < 60_000
    assert re.fullmatch("[0-9a-f]{32}", line.pop("trace"))
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": reply.headers["X-Request-Id"],
        "method": "POST",
        "path": WEBHOOK,
        "address": "127.0.0.1",
        "user_agent": f"python-httpx2/{httpx2.__version__}",
        "client": "prioticket",
        "bytes": len(NOTIFICATION),
        "event_id": reply.headers["Event-Id"],
        "type": "ORDER_CREATE",
        "reference": json.loads(NOTIFICATION)["data"]["notification"]["notification_item_id"],
        "duplicate": False,
        "status": 200,
    }


async def test_a_copy_is_a_line_that_says_so_with_the_first_events_id(start, sqlite_url, lines):
    async with start(sqlite_url) as client:
        for _ in range(2):
            await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    first, second = request_lines(lines)
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["event_id"] == second["event_id"]


async def test_a_quarantined_event_is_a_line_with_its_id_and_the_reasons_status(start, sqlite_url, lines):
    async with start(sqlite_url, on_unprocessable="accept") as client:
        reply = await client.post(WEBHOOK, content=b"{", headers=basic_header())
    (line,) = request_lines(lines)
    assert (line["status"], line["quarantined"]) == (200, 400)
    assert line["event_id"] == reply.headers["Event-Id"]


async def test_a_new_quarantined_event_is_a_warning_and_its_copies_are_not(start, sqlite_url, lines):
    async with start(sqlite_url) as client:
        for _ in range(2):
            await client.post(WEBHOOK, content=b'{"name": "Alex"', headers=basic_header())
    (line,) = [line for line in lines() if line["event"] == "quarantined"]
    told = {name: line[name] for name in ("level", "client", "status", "reason")}
    assert told == {"level": "warning", "client": "prioticket", "status": 400, "reason": "not_readable"}
    assert line["event_id"] == request_lines(lines)[0]["event_id"]
    assert "Alex" not in json.dumps(line)


async def test_the_line_of_what_is_refused_says_why_in_a_word(start, sqlite_url, lines):
    refused = {
        "scope": ("POST", WEBHOOK, basic_header("reader")),
        "missing": ("POST", WEBHOOK, {}),
        "wrong_secret": ("POST", WEBHOOK, basic_header("prioticket", "wrong-secret")),
        "not_acceptable": ("POST", WEBHOOK, {**basic_header(), "Accept": "text/html"}),
        "unsupported_media_type": ("POST", WEBHOOK, {**basic_header(), "Content-Type": "text/plain"}),
        "not_readable": ("POST", WEBHOOK, basic_header()),
        "method_not_allowed": ("GET", WEBHOOK, {}),
        "not_found": ("GET", "/webhook", {}),
        "invalid_request": ("POST", "/oauth2/token", basic_header()),
    }
    async with start(sqlite_url) as client:
        for method, path, headers in refused.values():
            await client.request(method, path, headers={"User-Agent": "x" * 100, **headers})
    assert [line["reason"] for line in request_lines(lines)] == list(refused)
    assert {(line["address"], line["user_agent"]) for line in request_lines(lines)} == {("127.0.0.1", "x" * 60)}


@pytest.mark.parametrize("username", ["prioticket", "hunter2-typed-into-the-wrong-field"])
async def test_only_a_configured_username_is_in_a_line(start, sqlite_url, lines, log, username):
    async with start(sqlite_url) as client:
        await client.post(WEBHOOK, headers=basic_header(username, "wrong-secret"))
    (line,) = request_lines(lines)
    assert line.get("client") == ("prioticket" if username == "prioticket" else None)
    assert "hunter2" not in log.getvalue()


async def test_the_trace_of_the_sender_goes_on_in_the_line_and_in_the_event(start, sqlite_url, lines, stored_in):
    sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with start(sqlite_url) as client:
        reply = await client.post(WEBHOOK, content=ORDER, headers={**basic_header(), "traceparent": sent})
    (line,) = request_lines(lines)
    (event,) = await stored_in(sqlite_url)
    assert line["trace"] == sent[3:35]
    assert (event.trace[:36], event.trace != sent) == (sent[:36], True)
    assert (event.address, event.request_id) == ("127.0.0.1", reply.headers["X-Request-Id"])


async def test_a_trace_of_a_later_version_may_end_in_any_bytes(start, sqlite_url, lines):
    sent = b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-\xff\xfe"
    async with start(sqlite_url) as client:
        reply = await client.post(WEBHOOK, content=ORDER, headers={**basic_header(), "traceparent": sent})
    assert reply.status_code == 200
    assert request_lines(lines)[0]["trace"] == sent[3:35].decode()


@pytest.mark.parametrize("sent", [None, "nonsense"])
async def test_without_a_valid_trace_a_new_one_begins_and_is_not_stored(start, sqlite_url, lines, stored_in, sent):
    async with start(sqlite_url) as client:
        headers = basic_header() | ({"traceparent": sent} if sent else {})
        await client.post(WEBHOOK, content=b"{", headers=headers)
    (line,) = request_lines(lines)
    (event,) = await stored_in(sqlite_url)
    assert event.trace is None
    assert line["trace"].endswith(event.request_id)


@pytest.fixture
def stored_in() -> Callable[[str], Any]:
    """`await stored_in(url)`: all events of a database."""

    async def rows(url: str) -> Any:
        async with engine_for(url) as engine, engine.connect() as connection:
            return (await connection.execute(select(*Event.__table__.columns).order_by(Event.id))).all()

    return rows


async def test_each_request_is_one_line_in_order(start, sqlite_url, lines):
    async with start(sqlite_url) as client:
        for path in ("/healthz", "/nothing", "/readyz", WEBHOOK):
            await client.get(path)
    assert [(line["path"], line["status"]) for line in request_lines(lines)] == [
        ("/healthz", 200),
        ("/nothing", 404),
        ("/readyz", 200),
        (WEBHOOK, 405),
    ]


async def test_a_forbidden_client_is_named(start, sqlite_url, lines):
    async with start(sqlite_url) as client:
        await client.post(WEBHOOK, headers=basic_header("reader"))
    (line,) = request_lines(lines)
    assert (line["status"], line["client"]) == (403, "reader")


async def test_a_query_is_not_logged_and_a_path_only_its_beginning(start, sqlite_url, log, lines):
    async with start(sqlite_url) as client:
        await client.get("/" + "a" * 10_000, params={"password": "swordfish"})
    (line,) = request_lines(lines)
    assert line["path"] == "/" + "a" * 199
    assert all("swordfish" not in json.dumps(line) for line in request_lines(lines))


async def boom(_: Request) -> Response:
    raise RuntimeError("a bug")


async def half(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("a bug")


@asynccontextmanager
async def with_bugs(log: io.StringIO) -> AsyncIterator[httpx2.AsyncClient]:
    writer = LogWriter(log, style="json")
    app = Router([Route("/boom", boom)], middleware=[Middleware(RequestLine, log=writer, tally=Tally(), spans=Spans())])
    with writer.running(), logging_to(writer):
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://priohook") as client:
            yield client


async def test_a_bug_is_answered_500_with_an_error_model_that_the_log_refers_to(log, lines):
    async with with_bugs(log) as client:
        reply = await client.get("/boom")
    (failure,) = [line for line in lines() if line["event"] == "request_failed"]
    (line,) = request_lines(lines)
    assert (reply.status_code, reply.json()["error"]) == (500, "INTERNAL_SERVER_ERROR")
    assert reply.json()["error_reference"] == reply.headers["X-Request-Id"]
    assert failure["request_id"] == line["request_id"] == reply.headers["X-Request-Id"]
    assert (failure["level"], failure["error"], line["status"]) == ("error", "RuntimeError", 500)
    assert "in boom" in failure["traceback"]


async def test_the_answer_to_a_bug_does_not_show_it(log):
    async with with_bugs(log) as client:
        assert "a bug" not in (await client.get("/boom")).text


async def test_the_request_after_a_bug_is_served(log):
    async with with_bugs(log) as client:
        await client.get("/boom")
        assert (await client.get("/nothing")).status_code == 404


async def test_a_bug_in_the_middle_of_an_answer_starts_no_second_one(log, lines):
    writer = LogWriter(log, style="json")
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    with writer.running(), logging_to(writer):
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await RequestLine(half, log=writer, tally=Tally(), spans=Spans())(scope, receive, send)
    assert sent == ["http.response.start", "http.response.body"]
    assert [line["event"] for line in lines()] == ["request_failed", "request"]


async def test_a_request_that_is_cancelled_is_a_line_all_the_same(log, lines):
    writer = LogWriter(log, style="json")
    started = asyncio.Event()

    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await asyncio.Event().wait()

    async def nothing(*_: Any) -> Any:
        return None

    with writer.running():
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        request = asyncio.create_task(
            RequestLine(stuck, log=writer, tally=Tally(), spans=Spans())(scope, nothing, nothing)
        )
        await started.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert [line["status"] for line in request_lines(lines)] == [499]


def no_word_of_the_request_in(log: io.StringIO) -> bool:
    written = log.getvalue()
    assert '"event":"request"' in written
    credential = basic_header()["Authorization"].split()[1]
    return not any(word in written for word in (SECRET, SECRET[:-1], credential, *CONTACT, *BODY_WORDS))


async def slowly() -> AsyncIterator[bytes]:
    yield ORDER
    await asyncio.Event().wait()


RIGHT = basic_header()
WRONG_BODY = ORDER.replace(b'"data"', b'"date"')

FAILURES: dict[str, tuple[int, dict[str, Any]]] = {
    "no credential": (401, {"headers": {}}),
    "wrong password": (401, {"headers": basic_header(secret=SECRET[:-1])}),
    "password for a name": (401, {"headers": basic_header(username=SECRET)}),
    "another scheme": (401, {"headers": {"Authorization": RIGHT["Authorization"].replace("Basic", "Bearer")}}),
    "bad base64": (401, {"headers": {"Authorization": RIGHT["Authorization"] + "!"}}),
    "unencoded": (401, {"headers": {"Authorization": f"Basic prioticket:{SECRET}"}}),
    "two headers": (401, {"headers": [("Authorization", RIGHT["Authorization"])] * 2}),
    "no scope": (403, {"headers": basic_header("reader")}),
    "not acceptable": (406, {"headers": RIGHT | {"Accept": "text/html"}}),
    "no JSON": (400, {"content": ORDER[:-5]}),
    "no UTF-8": (400, {"content": ORDER.replace(b"Alex", b"Alex\xff")}),
    "NaN": (400, {"content": ORDER.replace(b'"Alex"', b"NaN")}),
    "no gzip": (400, {"headers": RIGHT | {"Content-Encoding": "gzip"}}),
    "slow": (408, {"content": slowly}),
    "content type": (415, {"headers": RIGHT | {"Content-Type": "text/plain"}}),
    "content coding": (415, {"headers": RIGHT | {"Content-Encoding": "br"}}),
    "no envelope": (422, {"content": WRONG_BODY}),
    "no object": (422, {"content": b"[" + ORDER + b"]"}),
    "too large": (413, {"content": ORDER + b" " * 70_000}),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_no_failure_logs_a_credential_a_body_or_a_contact(start, sqlite_url, log, failure):
    status, request = FAILURES[failure]
    content = request.get("content", ORDER)
    changes = {"max_body_bytes": 20_000, "body_timeout": timedelta(milliseconds=50 if callable(content) else 10_000)}
    async with start(sqlite_url, **changes) as client:
        reply = await client.post(
            WEBHOOK, content=content() if callable(content) else content, headers=request.get("headers", RIGHT)
        )
    assert reply.status_code == status
    assert no_word_of_the_request_in(log)


async def test_an_address_that_failed_too_often_logs_no_credential(start, sqlite_url, log):
    async with start(sqlite_url) as client:
        replies = [await client.post(WEBHOOK, headers=basic_header(secret=SECRET[:-1])) for _ in range(61)]
    assert replies[-1].status_code == 429
    assert no_word_of_the_request_in(log)


async def test_a_stored_order_logs_no_credential_no_body_and_no_contact(start, database_url, log):
    async with start(database_url) as client:
        assert (await client.post(WEBHOOK, content=ORDER, headers=RIGHT)).status_code == 200
    assert no_word_of_the_request_in(log)


@pytest.fixture
async def refusing(database_url, engine):
    """The database refuses every row, as a bug in a migration might make it do."""
    refuse, allow = {
        "sqlite": (
            "CREATE TRIGGER refuse BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'refused'); END",
            "DROP TRIGGER refuse",
        ),
        "postgresql": (
            "ALTER TABLE events ADD CONSTRAINT refuse CHECK (body_bytes < 0)",
            "ALTER TABLE events DROP CONSTRAINT refuse",
        ),
    }[engine.dialect.name]
    async with engine.begin() as connection:
        await connection.execute(text(refuse))
    yield
    async with engine.begin() as connection:
        await connection.execute(text(allow))


@pytest.mark.usefixtures("refusing")
async def test_a_row_that_the_database_refuses_is_logged_without_what_is_in_it(start, database_url, log, lines):
    async with start(database_url) as client:
        reply = await client.post(WEBHOOK, content=ORDER, headers=RIGHT | {"X-Guest": "Alex"})
    assert reply.status_code == 503
    assert "BadRow" in next(line["error"] for line in lines() if line["event"] == "commit_failed")
    assert no_word_of_the_request_in(log)


async def test_a_bug_behind_the_door_logs_no_credential_no_body_and_no_contact(sqlite_url, log):
    settings = Settings.model_validate({"database_url": sqlite_url, "clients": CLIENTS})
    writer = LogWriter(log, style="json")
    app = create_app(settings, log=writer)
    # Without its lifespan the application has no store, which is a bug that shows after the body was parsed.
    transport = httpx2.ASGITransport(app)
    with writer.running(), logging_to(writer):
        async with httpx2.AsyncClient(transport=transport, base_url="http://priohook") as client:
            reply = await client.post(WEBHOOK, content=ORDER, headers=RIGHT)
    assert reply.status_code == 500
    assert "request_failed" in log.getvalue()
    assert no_word_of_the_request_in(log)


async def test_an_acknowledgement_takes_from_the_first_byte_that_the_server_saw(log):
    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ignore(_: object) -> None:
        pass

    async def nothing() -> Message:
        raise AssertionError

    meter = Meter()
    line = RequestLine(answer, log=LogWriter(log, style="json"), tally=Tally(), spans=Spans(), meter=meter)
    scope = {"type": "http", "method": "POST", "path": "/webhooks/prioticket", "headers": []}
    await line({**scope, "state": {"began": perf_counter() - 5}}, nothing, ignore)
    assert 5 <= meter.histograms[ACKNOWLEDGED][()].total < 10

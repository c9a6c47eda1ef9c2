"""Each row of the table of answers over a socket, and HTTP itself, byte by byte."""

import gzip
import json
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from app.checker.check import differences
from app.checker.wire import Answer, parts
from app.web.response_headers import SECURITY_HEADERS
from tests.answers import ASKED, CREDENTIALS
from tests.conftest import WEBHOOK, basic_header, payload
from tests.e2e.conftest import (
    JSON,
    configured,
    dial,
    empty_database,
    migrate,
    new_event,
    request,
    serving,
)

LIMIT = 1024 * 1024
UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request, tmp_path_factory):
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('wire') / 'priohook.db'}"
        return
    with empty_database(request.getfixturevalue("postgres_server_url")) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="module")
def server(url, tmp_path_factory):
    settings = configured(url, body_timeout="1", trusted_proxies="127.0.0.0/8")
    with serving(tmp_path_factory.mktemp("wire"), **settings) as served:
        yield served


@pytest.fixture
def wire(server):
    with dial(server) as wire:
        yield wire


def assert_error(reply, status: int, error: str) -> None:
    """Checks that the body is an ErrorModel whose reference is the request id."""
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert reply.error["error"] == error
    assert reply.error["error_reference"] == reply.headers["x-request-id"]
    assert reply.error["error_message"]
    assert "date" in reply.headers


BODY = payload("01-notification-order-create")
WRONG = "Authorization: " + basic_header(secret="wrong")["Authorization"]

OPEN = {  # the connection can be used again
    "slash at the end": (request(BODY, target="/webhooks/prioticket/"), 404, "NOT_FOUND"),
    "two slashes in front": (request(BODY, target="//webhooks/prioticket"), 404, "NOT_FOUND"),
    "encoded dot segment": (request(BODY, target="/webhooks/%2e/prioticket"), 404, "NOT_FOUND"),
    "encoded dot dot segment": (request(BODY, target="/x/%2e%2e/webhooks/prioticket"), 404, "NOT_FOUND"),
    "encoded slash at the end": (request(BODY, target="/webhooks/prioticket%2f"), 404, "NOT_FOUND"),
    "path in another case": (request(BODY, target="/Webhooks/Prioticket"), 404, "NOT_FOUND"),
    "path with NUL": (request(BODY, target="/webhooks/prioticket%00"), 404, "NOT_FOUND"),
    "asterisk": (request(method="OPTIONS", target="*"), 404, "NOT_FOUND"),
    "PUT": (request(BODY, method="PUT"), 405, "METHOD_NOT_ALLOWED"),
    "OPTIONS": (request(method="OPTIONS"), 405, "METHOD_NOT_ALLOWED"),
    "PROPFIND of an unknown path": (request(BODY, method="PROPFIND", target="/nowhere"), 404, "NOT_FOUND"),
    "right, then wrong Authorization": (request(BODY, WRONG), 401, "AUTHENTICATION_FAILED"),
}

CLOSED = {  # the answer is followed by the end of the connection
    "BREW without credentials": (request(BODY, method="BREW", authorization=None), 501, "NOT_IMPLEMENTED"),
    "BREW with a query": (request(BODY, method="BREW", target="/webhooks/prioticket?a=b"), 501, "NOT_IMPLEMENTED"),
    "lower case": (request(BODY, method="post"), 501, "NOT_IMPLEMENTED"),
    "BREW of an unknown path": (request(BODY, method="BREW", target="/nowhere"), 404, "NOT_FOUND"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, 400, "INVALID_REQUEST"),
    "words": (b"hello there\r\n\r\n", 400, "INVALID_REQUEST"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "INVALID_REQUEST"),
    "HTTP/3.0": (request(BODY, version="HTTP/3.0"), 400, "INVALID_REQUEST"),
    "bytes in the path": (request(BODY, target="/webhooks/\xe9"), 400, "INVALID_REQUEST"),
    "CONNECT": (request(method="CONNECT", target="example.org:443"), 400, "INVALID_REQUEST"),
    "two lengths": (request(BODY, "Content-Length: 3"), 400, "INVALID_REQUEST"),
    "length and chunks": (request(BODY, "Transfer-Encoding: chunked"), 400, "INVALID_REQUEST"),
    "negative length": (request(BODY, "Content-Length: -1", length=None), 400, "INVALID_REQUEST"),
    "length beyond 64 bits": (request(BODY, f"Content-Length: {10**30}", length=None), 400, "INVALID_REQUEST"),
    "space before a colon": (request(BODY, "X : y"), 400, "INVALID_REQUEST"),
    "bad chunk": (request(b"zz\r\n", "Transfer-Encoding: chunked", length=None), 400, "INVALID_REQUEST"),
    "bytes in the host": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "INVALID_REQUEST"),
    "a URL as the host": (b"GET / HTTP/1.1\r\nHost: http://x/\r\n\r\n", 400, "INVALID_REQUEST"),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400, "INVALID_REQUEST"),
    "two hosts": (request(BODY, "Host: other"), 400, "INVALID_REQUEST"),
    "one host twice": (request(BODY, "Host: priohook"), 400, "INVALID_REQUEST"),
    "two hosts, HTTP/1.0": (request(BODY, "Host: other", version="HTTP/1.0"), 400, "INVALID_REQUEST"),
    "HTTP/2.0": (request(BODY, version="HTTP/2.0"), 400, "INVALID_REQUEST"),
    "HTTP/0.9": (request(BODY, version="HTTP/0.9"), 400, "INVALID_REQUEST"),
    "chunks, HTTP/1.0": (
        request(b"0\r\n\r\n", "Transfer-Encoding: chunked", length=None, version="HTTP/1.0"),
        400,
        "INVALID_REQUEST",
    ),
    "gzip and chunks": (
        request(b"0\r\n\r\n", "Transfer-Encoding: gzip, chunked", length=None),
        400,
        "INVALID_REQUEST",
    ),
    "chunks twice": (
        request(b"0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", length=None),
        400,
        "INVALID_REQUEST",
    ),
    "identity": (request(BODY, "Transfer-Encoding: identity", length=None), 400, "INVALID_REQUEST"),
    "fragment": (request(BODY, target="/webhooks/prioticket#x"), 400, "INVALID_REQUEST"),
    "target over 8 KiB": (request(BODY, target=f"{WEBHOOK}?{'a' * 8192}"), 414, "URI_TOO_LONG"),
    "101 fields": (request(BODY, *["a:"] * 97), 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"),
    "head over 64 KiB": (request(BODY, "X: " + "a" * 70_000), 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_request_gets_the_answer_of_its_row_and_the_next_on_its_connection_is_served(wire, server, name):
    row, asked = ASKED[name]
    address = ("X-Forwarded-For", f"198.51.100.{list(ASKED).index(name)}")  # failures count by address
    for _ in range(asked.times):
        with suppress(OSError):  # what is too large may be answered before its end
            wire.send(*parts(asked, urlsplit(server.url + WEBHOOK), credentials=CREDENTIALS, headers=(address,)))
        reply = wire.reply()
    assert (reply.status, list(differences(row, Answer(reply.status, reply.headers, reply.body)))) == (row.status, [])
    closes = row.closes or asked.method == "BREW"  # which the parser does not know
    assert (reply.headers.get("connection") == "close") == closes
    assert wire.ended() if closes else wire.send(request(new_event())).reply().status == 200


@pytest.mark.parametrize(("sent", "status", "error"), OPEN.values(), ids=OPEN)
def test_a_refused_request_is_told_why_and_the_next_on_its_connection_is_served(wire, sent, status, error):
    assert_error(wire.send(sent).reply(), status, error)
    assert wire.send(request(new_event())).reply().status == 200


@pytest.mark.parametrize(("sent", "status", "error"), CLOSED.values(), ids=CLOSED)
def test_what_spoils_the_connection_is_told_why_before_it_ends(wire, sent, status, error):
    reply = wire.send(sent).reply()
    assert_error(reply, status, error)
    assert reply.headers["connection"] == "close"
    assert wire.ended()


@pytest.mark.parametrize("sent", [request(new_event()), CLOSED["words"][0], request(method="BREW")])
def test_every_answer_has_the_security_headers_and_a_request_id(wire, sent):
    headers = wire.send(sent).reply().headers
    assert headers["x-request-id"]
    assert headers.items() >= {name.decode(): value.decode() for name, value in SECURITY_HEADERS}.items()


def test_head_gets_no_body(wire):
    assert wire.send(request(method="HEAD")).reply(to="HEAD").status == 405
    assert wire.send(request(new_event())).reply().status == 200


def test_an_address_is_the_one_that_a_trusted_proxy_names(wire):
    address = "X-Forwarded-For: 203.0.113.9"
    statuses = [wire.send(request(BODY, address, authorization=WRONG)).reply().status for _ in range(61)]
    assert statuses == [401] * 60 + [429]
    assert wire.send(request(BODY, authorization=WRONG)).reply().status == 401


def chunked(body: bytes, size: int) -> bytes:
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


LARGE = b" " * 5 * LIMIT


@pytest.mark.parametrize(
    "sent",
    [
        request(LARGE),
        request(chunked(LARGE, 60_000), "Transfer-Encoding: chunked", length=None),
        request(gzip.compress(LARGE, 0), "Content-Encoding: gzip"),
    ],
    ids=["declared", "chunked", "gzip"],
)
def test_a_sender_of_5_mb_that_reads_only_afterwards_sees_its_413(wire, sent):
    reply = wire.send(*(sent[at : at + 100_000] for at in range(0, len(sent), 100_000))).reply()
    assert reply.status == 413
    assert reply.headers["connection"] == "close"
    assert reply.error["error_reference"] == reply.headers["x-request-id"]
    assert wire.ended()


def test_a_body_of_exactly_the_limit_is_read(wire):
    event = new_event()
    assert wire.send(request(event + b" " * (LIMIT - len(event)))).reply().status == 200


@pytest.mark.parametrize("size", [1, 7, 60_000])
def test_a_chunked_body_is_read(wire, size):
    sent = request(chunked(new_event(), size), "Transfer-Encoding: chunked", length=None)
    assert wire.send(sent).reply().status == 200


def test_a_content_type_that_is_repeated_with_one_value_is_one(wire):
    assert wire.send(request(new_event(), JSON)).reply().status == 200


def test_who_asks_first_is_told_to_continue(wire):
    event = new_event()
    head = request(b"", "Expect: 100-continue", length=len(event))
    assert wire.send(head).reply().status == 100
    assert wire.send(event).reply().status == 200


def test_who_asks_first_with_a_wrong_credential_is_refused_before_the_body(wire):
    head = request(b"", "Expect: 100-continue", length=LIMIT, authorization=WRONG)
    assert wire.send(head).reply().status == 401


def test_pipelined_requests_are_answered_in_order(wire):
    first, second = new_event(), new_event()
    wire.send(request(first) + request(b"[]") + request(second) + request(first))
    replies = [wire.reply() for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 422, 200, 200]
    assert replies[0].headers["event-id"] == replies[3].headers["event-id"] != replies[2].headers["event-id"]


@pytest.mark.parametrize("behind", [b"hello there\r\n\r\n", request(BODY, method="BREW")], ids=["words", "BREW"])
def test_what_follows_a_request_never_takes_the_place_of_its_answer(wire, behind):
    wire.send(request(new_event()) + behind)
    assert wire.reply().status == 200
    assert_error(wire.reply(), 400, "INVALID_REQUEST")
    assert wire.ended()


def test_a_request_that_was_answered_early_gets_no_second_answer_when_its_body_is_malformed(wire):
    wire.send(request(b"5\r\n", "Transfer-Encoding: chunked", length=None, authorization=WRONG))
    assert wire.reply().status == 401
    wire.send(b"hello\r\nzz\r\n")
    assert wire.ended()


@pytest.mark.parametrize("count", [1, 3])
def test_who_closes_its_half_still_gets_its_answers(wire, count):
    wire.send(*(request(new_event()) for _ in range(count))).half_close()
    assert [wire.reply().status for _ in range(count)] == [200] * count
    assert wire.ended()


def test_who_closes_its_half_within_a_body_gets_no_answer_and_the_server_goes_on(wire, server):
    wire.send(request(b'{"data":', length=100)).half_close()
    assert wire.ended()
    with dial(server) as other:
        assert other.send(request(new_event())).reply().status == 200


def test_a_head_over_64_kib_is_refused_however_it_arrives(wire):
    head = request(BODY, "X: " + "a" * 70_000)
    wire.send(*(head[at : at + 5_000] for at in range(0, 70_000, 5_000)))
    assert wire.reply().status == 431


@pytest.mark.parametrize("line", [b"a:\r\n", b"a:b\r\n"])
def test_a_head_of_too_many_fields_is_refused_before_its_end(wire, line):
    reply = wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + line * 102).reply()
    assert_error(reply, 431, "REQUEST_HEADER_FIELDS_TOO_LARGE")
    assert wire.ended()


def test_a_head_of_100_fields_is_read(wire):
    assert wire.send(request(new_event(), *["a:"] * 96)).reply().status == 200


def test_a_target_of_8_kib_is_read(wire):
    assert wire.send(request(new_event(), target=f"{WEBHOOK}?{'a' * 8000}")).reply().status == 200


@pytest.mark.parametrize("host", ["", "priohook", "priohook:8000", "10.0.0.1:80", "[::1]:8000", "prio_hook.example."])
def test_a_valid_host_is_read(wire, host):
    sent = request(new_event()).replace(b"Host: priohook", b"Host: " + host.encode())
    assert wire.send(sent).reply().status == 200


def test_http_1_0_needs_no_host(wire):
    sent = request(new_event(), version="HTTP/1.0").replace(b"Host: priohook\r\n", b"")
    assert wire.send(sent).reply().status == 200


def test_http_1_0_is_never_told_to_continue(wire):
    head = request(b"", "Expect: 100-continue", length=len(BODY), version="HTTP/1.0")
    assert wire.send(head, BODY).reply().status == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [("http://priohook", 404), ("http://priohook:80?a=b", 404), ("http://priohook/healthz", 200), ("example:1", 400)],
)
def test_a_whole_url_without_a_path_means_the_root(wire, target, status):
    assert wire.send(request(method="GET", target=target)).reply().status == status


def test_trailers_are_thrown_away_however_many_fields_they_are(wire):
    body = chunked(new_event(), 99).removesuffix(b"\r\n") + b"a:\r\n" * 200 + b"\r\n"
    assert wire.send(request(body, "Transfer-Encoding: chunked", length=None)).reply().status == 200
    assert wire.send(request(new_event())).reply().status == 200


def test_a_head_just_below_64_kib_is_read(wire):
    assert wire.send(request(new_event(), "X: " + "a" * 64_000)).reply().status == 200


def test_http_1_0_gets_its_200_and_the_end_of_the_connection(wire):
    reply = wire.send(request(new_event(), version="HTTP/1.0")).reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert wire.ended()


@pytest.mark.parametrize(
    "target", ["http://priohook/webhooks/prioticket", "/webhooks/prioticket?x=/nowhere", "/webhooks/%70rioticket"]
)
def test_a_target_written_another_way_is_the_same_path(wire, target):
    assert wire.send(request(new_event(), target=target)).reply().status == 200


@pytest.mark.parametrize("cut", [0, 1, 40, 300], ids=["whole", "bytes", "middles", "halves"])
def test_a_request_that_offers_another_protocol_keeps_its_body(wire, cut):
    sent = request(new_event(), *UPGRADE) + request(new_event(), *UPGRADE)
    wire.send(*(sent[at : at + cut] for at in range(0, len(sent), cut)) if cut else [sent])
    assert [wire.reply().status for _ in range(2)] == [200, 200]


def test_a_request_that_offers_another_protocol_may_be_chunked(wire):
    sent = request(chunked(new_event(), 9), *UPGRADE, "Transfer-Encoding: chunked", length=None)
    assert wire.send(sent, request(new_event())).reply().status == 200
    assert wire.reply().status == 200


def test_a_request_that_offers_another_protocol_and_has_a_wrong_credential_is_refused(wire):
    assert wire.send(request(BODY, *UPGRADE, authorization=WRONG)).reply().status == 401


def test_thousands_of_pipelined_offers_of_another_protocol_are_answered(wire):
    wire.send(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n" * 2000)
    assert {wire.reply().status for _ in range(2000)} == {404}


def test_the_log_has_one_line_for_each_request_also_outside_the_application(tmp_path):
    database = f"sqlite+aiosqlite:///{tmp_path / 'priohook.db'}"
    with serving(tmp_path, **configured(database)) as server:
        references = []
        for sent in (request(new_event()), request(BODY, method="BREW"), b"hello there\r\n\r\n"):
            with dial(server) as wire:
                references.append(wire.send(sent).reply().headers["x-request-id"])
        server.end()
        lines = [json.loads(line) for line in server.stderr.splitlines()]
    assert [line["request_id"] for line in lines] == references
    assert [line["status"] for line in lines] == [200, 501, 400]


def test_the_headers_of_a_request_that_offers_another_protocol_are_kept(tmp_path, priohook):
    settings = configured(f"sqlite+aiosqlite:///{tmp_path / 'priohook.db'}")
    with serving(tmp_path, **settings) as server, dial(server) as wire:
        event_id = wire.send(request(new_event(), *UPGRADE)).reply().headers["event-id"]
    shown = priohook("events", "show", event_id, **settings).stdout
    assert all(header.lower() in shown.lower() for header in UPGRADE)

import asyncio
import gzip
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from app.deliveries.destinations import connections
from app.deliveries.destinations.answers import MOST_BODY, MOST_BYTES, MOST_INTERIM
from app.deliveries.destinations.http import MOST_KEPT, HTTPDestination, headers, retry_after
from app.deliveries.results import Outcome
from app.deliveries.tables import AttemptResult
from app.events.ids import new_id
from app.settings.model import DestinationSettings
from app.telemetry import traces
from tests.deliveries.claims import EVENT_ID, new_claim

NOW = datetime(2026, 8, 12, 12, tzinfo=UTC)
SECRET, OTHER = ("whsec_" + b64encode(bytes([each]) * 32).decode() for each in (1, 2))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
CERTIFICATE = Path(__file__).parents[2] / "e2e" / "untrusted.pem"
CERTIFICATE_UNTIL = datetime(2126, 10, 31, 10, 23, 8, tzinfo=UTC)
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Consumer:
    """A server that always gives one answer, and the requests it got."""

    url: str = ""
    targets: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def serving(
    take: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """A server and its port. All its connections end with it."""
    taking: set[asyncio.Task[None]] = set()

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taking.add(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            await take(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async with await asyncio.start_server(taken, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]
        async with asyncio.timeout(20):
            await asyncio.gather(*taking)


@asynccontextmanager
async def consumer(answer: bytes | Answer = OK) -> AsyncIterator[Consumer]:
    seen = Consumer()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = dict(line.split(": ", 1) for line in head[1:] if line)
        seen.targets.append(head[0])
        seen.headers.append(pairs)
        seen.bodies.append(await reader.readexactly(int(pairs.get("Content-Length", "0"))))
        if callable(answer):
            await answer(writer)
        else:
            writer.write(answer)
            await writer.drain()

    async with serving(take) as port:
        seen.url = f"http://127.0.0.1:{port}/in?tenant=nl"
        yield seen


async def send(url: str, **settings: Any) -> Outcome:
    claim = settings.pop("claim", None) or new_claim()
    destination = HTTPDestination(DestinationSettings.model_validate({"url": url, "timeout": 5, **settings}))
    try:
        return await destination.send(claim, now=datetime.now(UTC))
    finally:
        await destination.close()


def signed(sent: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in sent.items()}


async def test_the_exact_bytes_arrive_with_what_says_how_to_read_them():
    body = gzip.compress(bytes(range(256)))
    came_with = [
        ["content-type", "application/vnd.x+json; charset=utf-8"],
        ["content-encoding", "gzip"],
        ["x-own", "1"],
    ]
    async with consumer() as seen:
        outcome = await send(seen.url, claim=new_claim(body=body, headers=came_with))
    assert outcome == Outcome(AttemptResult.DELIVERED, 200, answer=b"")
    assert seen.bodies == [body]
    assert seen.targets == ["POST /in?tenant=nl HTTP/1.1"]
    (sent,) = seen.headers
    assert sent["Content-Type"] == "application/vnd.x+json; charset=utf-8"
    assert sent["Content-Encoding"] == "gzip"
    assert "x-own" not in {name.lower() for name in sent}


async def test_an_event_without_a_content_type_is_sent_without_one():
    async with consumer() as seen:
        await send(seen.url, claim=new_claim(headers=[]))
    assert set(seen.headers[0]) == {
        "Host",
        "Accept",
        "User-Agent",
        "webhook-id",
        "webhook-timestamp",
        "Priohook-Attempt",
        "Priohook-Event-Type",
        "Priohook-Reference",
        "Content-Length",
    }


async def test_the_destinations_own_headers_are_sent():
    async with consumer() as seen:
        await send(seen.url, headers={"X-Tenant": "nl", "Authorization": "Bearer x"})
    assert (seen.headers[0]["X-Tenant"], seen.headers[0]["Authorization"]) == ("nl", "Bearer x")


@pytest.mark.parametrize("verifier", [SECRET, OTHER])
async def test_each_of_several_secrets_signs_so_that_standard_webhooks_verifies_it(verifier):
    body = '{"data": "é"}'.encode()
    async with consumer() as seen:
        await send(seen.url, secret=[SECRET, OTHER], claim=new_claim(body=body))
    Webhook(verifier).verify(seen.bodies[0], signed(seen.headers[0]))


async def test_a_signature_does_not_fit_other_bytes():
    async with consumer() as seen:
        await send(seen.url, secret=SECRET)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(seen.bodies[0] + b" ", signed(seen.headers[0]))


def test_without_a_secret_nothing_is_signed():
    assert "webhook-signature" not in headers(new_claim(), [], now=NOW)


def test_bytes_that_are_no_text_are_signed_too():
    sent = headers(new_claim(body=b"\xff\x00"), [b"k" * 32], now=NOW)
    assert sent["webhook-signature"].startswith("v1,")


def test_the_trace_of_the_attempt_is_sent():
    trace = traces.begun()
    assert headers(new_claim(trace=trace), [], now=NOW)["traceparent"] == trace


def test_the_headers_say_which_event_and_which_attempt():
    replay = new_claim().delivery_id
    claim = new_claim(attempt=3, replay_id=replay, superseded=True, event_name="ORDER_CREATE")
    assert headers(claim, [], now=NOW) == {
        "Content-Type": "application/json",
        "webhook-id": str(EVENT_ID),
        "webhook-timestamp": str(int(NOW.timestamp())),
        "Priohook-Attempt": "3",
        "Priohook-Event-Type": "ORDER_UPDATE",
        "Priohook-Event-Name": "ORDER_CREATE",
        "Priohook-Reference": "PRI1",
        "Priohook-Replay": str(replay),
        "Priohook-Superseded": "true",
    }


@given(st.text())
def test_whatever_a_reference_is_its_header_is_printable_ascii_and_can_be_read_back(reference):
    sent = headers(new_claim(reference=reference, type=reference), [], now=NOW)["Priohook-Reference"]
    assert all(" " <= each <= "~" for each in sent)
    assert unquote(sent) == reference.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_no_redirect_is_followed(status):
    async with consumer() as elsewhere:
        redirect = f"HTTP/1.1 {status}\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n".encode()
        async with consumer(redirect) as seen:
            outcome = await send(seen.url)
    assert outcome.status == int(status[:3])
    assert elsewhere.targets == []


async def test_of_an_answer_2_kib_are_kept():
    async with consumer(b"HTTP/1.1 500 Oops\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9000) as seen:
        outcome = await send(seen.url)
    assert outcome == Outcome(AttemptResult.REFUSED, 500, answer=b"x" * MOST_KEPT)


async def test_an_endless_answer_is_left_after_64_kib():
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 4096)
            sent += 4096
            await writer.drain()

    async with consumer(endless) as seen:
        outcome = await send(seen.url, timeout=20)
    assert (outcome.status, len(outcome.answer or b"")) == (200, MOST_KEPT)
    assert sent < 256 * MOST_BODY  # the buffers of both sockets, which Linux lets grow to 10 MB, included


async def test_a_gzip_bomb_stays_as_small_as_it_came():
    bomb = gzip.compress(b"x" * 50_000_000)
    async with consumer(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    ) as seen:
        outcome = await send(seen.url)
    assert outcome == Outcome(AttemptResult.DELIVERED, 200, answer=bomb[:MOST_KEPT])


async def test_cookies_are_not_sent_back():
    async with consumer(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    ) as seen:
        destination = HTTPDestination(DestinationSettings(url=seen.url))
        for _ in range(2):
            await destination.send(new_claim(), now=NOW)
        await destination.close()
    assert len(seen.headers) == 2
    assert not any("Cookie" in sent for sent in seen.headers)


async def test_retry_after_comes_with_the_outcome():
    async with consumer(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n") as seen:
        outcome = await send(seen.url)
    assert outcome == Outcome(AttemptResult.REFUSED, 429, answer=b"", retry_after=timedelta(seconds=7))


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("0", 0),
        ("120", 120),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(days=90), usegmt=True), 0),
        ("Wed, 12 Aug 2026 12:01:00", 60),
        ("Wed, 12 Aug 2026 14:01:00 +0200", 60),
        ("0000000000000120", 120),
        ("3601", 3600),
        ("86400", 3600),
        ("10000000000", 3600),
        ("9" * 5000, 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_an_hour_at_most(value, wait):
    assert retry_after(value, now=NOW) == timedelta(seconds=wait)


@pytest.mark.parametrize(
    "value", [None, "", "soon", "-1", "1.5", "1e3", "²", "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"]
)
def test_a_retry_after_that_cannot_be_read_is_none(value):
    assert retry_after(value, now=NOW) is None


@given(
    st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,30} [A-Z][a-z]{2} \d{1,30} \d+:\d+:\d+ [+-]?\w+", fullmatch=True)
)
def test_no_retry_after_is_an_error(value):
    wait = retry_after(value, now=NOW)
    assert wait is None or wait >= timedelta(0)


async def test_a_consumer_that_never_answers_is_left_at_the_deadline():
    left = asyncio.Event()

    async def wait(_: asyncio.StreamWriter) -> None:
        await left.wait()

    async with consumer(wait) as seen:
        outcome = await send(seen.url, timeout=0.2)
        left.set()
    assert outcome == Outcome(AttemptResult.TIMED_OUT, error="It did not answer within 0.2 seconds.")


async def test_an_answer_whose_body_trickles_counts_by_its_status_and_is_left_at_the_deadline():
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with consumer(trickle) as seen, asyncio.timeout(20):
        outcome = await send(seen.url, timeout=0.2)
    assert (outcome.status, outcome.error) == (200, None)
    assert set(outcome.answer or b"") == {ord("x")}


async def test_a_connection_that_is_not_taken_is_left_at_its_own_deadline(monkeypatch):
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", timedelta(seconds=0.2))

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as port, asyncio.timeout(30):
        # A TLS handshake that nobody answers is part of connecting.
        outcome = await send(f"https://127.0.0.1:{port}/", timeout=60)
    assert outcome.error == "It could not be connected to within 0.2 seconds."


async def test_a_refused_connection_is_an_outcome():
    async with consumer() as seen:
        pass
    outcome = await send(seen.url)
    assert (outcome.status, outcome.result) == (None, AttemptResult.UNREACHABLE)
    assert "Connect" in str(outcome.error)


async def test_a_reset_is_an_outcome():
    async def reset(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with consumer(reset) as seen:
        outcome = await send(seen.url)
    assert outcome.status is None
    assert outcome.error


@pytest.mark.parametrize(
    "answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.1 20", b"HTTP/2 200 OK\r\n\r\n", b""]
)
async def test_an_answer_that_is_no_http_is_an_outcome(answer):
    async with consumer(answer) as seen:
        outcome = await send(seen.url)
    assert outcome.status is None
    assert 0 < len(str(outcome.error)) <= MOST_KEPT


async def test_trouble_with_tls_is_an_outcome():
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await reader.read()

    async with serving(plain) as port:
        outcome = await send(f"https://127.0.0.1:{port}/")
    assert outcome.status is None
    assert "SSL" in str(outcome.error)


async def test_the_end_of_the_certificate_is_told_with_the_outcome(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)

    async with serving(answer, tls) as port:
        outcome = await send(f"https://127.0.0.1:{port}/")
    assert outcome.status == 200
    assert outcome.certificate_until == CERTIFICATE_UNTIL


async def test_without_tls_there_is_no_certificate():
    async with consumer() as seen:
        assert (await send(seen.url)).certificate_until is None


async def test_an_answer_that_is_no_http_is_an_outcome_without_the_url():
    async def mumble(writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()
        writer.close()

    async with consumer(mumble) as seen:
        outcome = await send(seen.url + "?key=secret")
    assert outcome.status is None
    assert outcome.error
    assert "secret" not in outcome.error


@pytest.mark.parametrize("url", ["http://user:pa/ss@host/x", "https://host:99999/", "http://a..b/", "http://:80/"])
def test_a_url_that_cannot_be_sent_to_is_refused_and_not_repeated(url):
    with pytest.raises(ValidationError, match="must have a host, and a port from 1 to 65535 if any") as refused:
        DestinationSettings(url=url)
    assert "ss@" not in str(refused.value)


async def answered(answer: bytes | Answer, **settings: Any) -> Outcome:
    async with consumer(answer) as seen:
        return await send(seen.url, **settings)


@pytest.mark.parametrize(
    "odd",
    [
        b"HTTP/1.1 200 OK\r\nContent-Security-Policy: " + b"x" * 300_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(2000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * MOST_BYTES,
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 2,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSpace : before the colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 \x1b[31m\r\n\r\n",
        b"HTTP/1.0 200 OK\n\nok",
        b"HTTP/1.1 200 OK\r\nX: cut",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_a_success_is_a_success_whatever_else_is_odd_about_the_answer(odd):
    outcome = await answered(odd, timeout=20)
    assert outcome.error is None
    assert 200 <= (outcome.status or 0) < 300


@pytest.mark.parametrize(
    "target", ["/in?sig=a%2Bb%2Fc%3D%3D", "/hook/abc%3D%3D", "/a%2Cb", "/in?u=https%3A%2F%2Fx%2Fy", "/%zz"]
)
async def test_the_url_is_sent_as_it_is_configured(target):
    async with consumer() as seen:
        await send(seen.url.partition("/in")[0] + target)
    assert seen.targets == [f"POST {target} HTTP/1.1"]


@pytest.mark.parametrize(
    ("after_port", "target"),
    [("", "/"), ("?a=b", "/?a=b"), ("/x#part", "/x"), ("/a b/é", "/a%20b/%C3%A9")],
)
async def test_what_a_request_cannot_carry_is_encoded(after_port, target):
    async with consumer() as seen:
        await send(seen.url.partition("/in")[0] + after_port)
    assert seen.targets == [f"POST {target} HTTP/1.1"]


async def test_the_user_in_a_url_becomes_a_basic_credential():
    async with consumer() as seen:
        await send(seen.url.replace("://", "://us%40er:pa%2Fss@"))
    assert seen.headers[0]["Authorization"] == f"Basic {b64encode(b'us@er:pa/ss').decode()}"
    assert "@" not in seen.headers[0]["Host"]


async def test_interim_answers_without_an_end_are_left_soon():
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" * 1000)
            sent += 1000
            await writer.drain()

    outcome = await answered(endless, timeout=60)
    assert outcome.error == f"It sent more than {MOST_INTERIM} interim answers (1xx) and no final one."
    assert sent < 10_000 * MOST_INTERIM  # buffers of both systems included


@pytest.mark.parametrize("flood", [b"X-Evil: aaaaaaaa\r\n" * 4000, b"a:\r\n" * 16_000, b"a" * 65_536])
async def test_a_head_without_an_end_is_left_after_a_mebibyte(flood):
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Oops\r\nX: ")
        while True:
            writer.write(flood)
            await writer.drain()

    assert (await answered(endless, timeout=60)).status == 500


async def test_a_protocol_switch_is_a_failure():
    outcome = await answered(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    assert outcome.status == 101


@dataclass
class KeptConsumer:
    """A server that keeps connections open and follows a script on each."""

    url: str = ""
    connections: int = 0
    requests: int = 0


@asynccontextmanager
async def kept_consumer(*answers: bytes | None) -> AsyncIterator[KeptConsumer]:
    """Answers each request of a connection with the next of `answers`; None closes the connection without an answer."""
    seen = KeptConsumer()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        for answer in answers:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            seen.requests += 1
            if answer is None:
                break
            writer.write(answer)
            await writer.drain()

    async with serving(take) as port:
        seen.url = f"http://127.0.0.1:{port}/"
        yield seen


KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def send_twice(url: str) -> list[Outcome]:
    destination = HTTPDestination(DestinationSettings.model_validate({"url": url}))
    outcomes = [await destination.send(new_claim(), now=NOW) for _ in range(2)]
    await destination.close()
    return outcomes


async def test_a_connection_is_used_again():
    async with kept_consumer(KEPT, KEPT) as seen:
        outcomes = await send_twice(seen.url)
    assert [outcome.status for outcome in outcomes] == [200, 200]
    assert (seen.connections, seen.requests) == (1, 2)


async def test_a_kept_connection_that_breaks_before_an_answer_is_replaced_within_the_attempt():
    async with kept_consumer(KEPT, None) as seen:
        outcomes = await send_twice(seen.url)
    assert [outcome.status for outcome in outcomes] == [200, 200]
    assert (seen.connections, seen.requests) == (2, 3)


async def test_a_new_connection_that_breaks_is_a_failed_attempt():
    async with kept_consumer(None) as seen:
        outcomes = await send_twice(seen.url)
    assert [outcome.status for outcome in outcomes] == [None, None]
    assert seen.requests == 2


@pytest.mark.parametrize(
    "odd",
    [
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",  # its body is still to come
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_after_an_answer_whose_end_is_uncertain_its_connection_is_not_used_again(odd):
    async with kept_consumer(odd, b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n") as seen:
        outcomes = await send_twice(seen.url)
    assert [outcome.status for outcome in outcomes] == [int(odd[9:12])] * 2
    assert seen.connections == 2


async def test_nothing_more_of_a_request_is_sent_after_it_was_given_up():
    body = bytes(64 * 1024)  # the kernel takes all of it, and this consumer's end little
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/in"
        outcome = await send(url, timeout=0.5, claim=new_claim(body=body))
        assert outcome.result is AttemptResult.TIMED_OUT
        taken, _ = listener.accept()
        with taken:
            taken.recv(len(body) + 4096, socket.MSG_WAITALL)  # what had arrived
            with pytest.raises(ConnectionResetError):
                taken.recv(1)


async def test_a_kept_connection_is_closed_after_a_while(monkeypatch):
    monkeypatch.setattr(connections, "KEEP_ALIVE", timedelta(0))
    async with kept_consumer(KEPT, KEPT) as seen:
        destination = HTTPDestination(DestinationSettings(url=seen.url))
        await destination.send(new_claim(), now=NOW)
        await asyncio.sleep(0.01)  # the loop's turns in which the timer comes due
        await destination.send(new_claim(), now=NOW)
        await destination.close()
    assert seen.connections == 2


async def test_a_name_server_that_hangs_stalls_its_own_destination_only(monkeypatch):
    hanging = threading.Event()
    lookups = []
    real = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **more: Any) -> Any:
        if host == "hang.example":
            lookups.append(host)
            hanging.wait(60)
        return real(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", timedelta(seconds=4))
    stalled = HTTPDestination(DestinationSettings.model_validate({"url": "http://hang.example/", "timeout": 60}))
    attempts = [asyncio.create_task(stalled.send(new_claim(), now=NOW)) for _ in range(40)]
    await asyncio.sleep(0)
    try:
        async with consumer() as seen:
            outcome = await send(seen.url.replace("127.0.0.1", "localhost"))
        assert outcome.status == 200
        assert {(await attempt).error for attempt in attempts} == {"It could not be connected to within 4 seconds."}
        assert len(lookups) == 1
    finally:
        hanging.set()
        await stalled.close()


async def test_a_name_that_does_not_exist_is_an_outcome(monkeypatch):
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    outcome = await send("http://nowhere.example/")
    assert outcome.status is None
    assert "Name or service not known" in str(outcome.error)


def test_the_headers_of_a_fetched_order_tell_that_and_the_notification_that_it_was_fetched_for():
    cause = new_id()
    sent = headers(new_claim(origin="fetched", cause=cause), [], now=NOW)
    assert (sent["Priohook-Origin"], sent["Priohook-Cause"]) == ("fetched", str(cause))
    received = headers(new_claim(origin="both", cause=cause), [], now=NOW)
    assert not {"Priohook-Origin", "Priohook-Cause", "Priohook-Snapshot"} & received.keys()


def test_a_notification_whose_order_could_not_be_fetched_says_so():
    assert headers(new_claim(snapshot_failed=True), [], now=NOW)["Priohook-Snapshot"] == "failed"

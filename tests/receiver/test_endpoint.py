import asyncio
import gc
import gzip
import json
import sqlite3
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select, update

from app.database.engines import is_sqlite, sqlite_path
from app.database.writing import writing
from app.events.rows import NewEvent
from app.events.tables import Event
from app.prioticket.payloads import Payload
from app.web.problems import Problem
from tests.conftest import WEBHOOK, basic_header, payload
from tests.events.stores import allow_changes
from tests.receiver.sender import Sender

NOTIFICATION = payload("01-notification-order-create")
OTHER = payload("02-notification-order-cancel-partial")
ERROR = payload("11-error-body")
LIMIT = 100_000
TOO_LONG = b"x" * (LIMIT + 1)
SOON = timedelta(seconds=0.1)


@asynccontextmanager
async def locked(url: str) -> AsyncIterator[None]:
    """While this lasts, nobody else can write events; reading goes on."""
    if is_sqlite(url):
        file = sqlite3.connect(sqlite_path(url), isolation_level=None)
        file.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            file.rollback()
            file.close()
        return
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE events IN EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


def assert_error_model(reply: Any, status: int, code: str) -> None:
    model = reply.json()
    assert reply.status_code == status
    assert reply.headers["Content-Type"] == "application/json"
    assert model["error"] == code
    assert model["error_reference"] == reply.headers["X-Request-Id"]
    assert model["error_message"].endswith(".")
    assert set(model) <= {
        "error",
        "error_reference",
        "error_message",
        "error_description",
        "error_uri",
        "errors",
    }


# What is accepted


async def test_an_accepted_event_is_stored_before_its_200(client, stored):
    reply = await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    (event,) = await stored()
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["Event-Id"] == str(event.id)
    assert event.body == NOTIFICATION


async def test_an_accepted_event_has_what_is_known_about_it(client, stored):
    before = datetime.now(UTC)
    await client.post(WEBHOOK, content=payload("10-order-payload-cancelled"), headers=basic_header())
    (event,) = await stored()
    assert before <= event.received_at <= datetime.now(UTC)
    assert (event.status, event.reason, event.client) == ("accepted", None, "prioticket")
    assert (event.type, event.shape, event.reference) == ("ORDER_CANCELLED", "object", "PRI26081200417")
    assert (event.order_version, event.api_version, event.notification_id) == (3, "3.8.0", None)
    assert event.order_modified == datetime(2026, 8, 13, 7, 2, 10, tzinfo=UTC)
    assert event.body_bytes == len(event.body)
    assert (event.duplicates, event.last_duplicate_at, event.released_at) == (0, None, None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": {"kind": "holiday"}}',
        b'\xef\xbb\xbf{"data": {}}',
        b'{"data": {"notification": {"notification_id": "\\u0000", "notification_event": "A\\u0000B"}}}',
        b'{"data": {"notification": {"notification_item_id": "\\ud800"}}}',
        b'{"data": {"order": {"order_reference": 7, "order_version": 1' + b"0" * 400 + b"}}}",
        b'{"api_version": [], "data": {"order": {"order_modified": "0001-01-01T00:00:00+14:00"}}}',
        b'{"data": {"order": {"order_reference": "' + "\N{DESERET CAPITAL LETTER LONG I}".encode() * 5000 + b'"}}}',
    ],
    ids=lambda body: repr(body[:50]),
)
async def test_an_event_with_odd_values_is_stored_byte_for_byte(client, stored, body):
    reply = await client.post(WEBHOOK, content=body, headers=basic_header())
    (event,) = await stored()
    assert (reply.status_code, event.status, event.body) == (200, "accepted", body)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(NOTIFICATION)),
        ("GZIP", gzip.compress(NOTIFICATION)),
        ("x-gzip", gzip.compress(NOTIFICATION)),
        ("gzip, identity", gzip.compress(NOTIFICATION)),
        ("deflate", zlib.compress(NOTIFICATION)),
        ("identity", NOTIFICATION),
        ("", NOTIFICATION),
    ],
)
async def test_an_encoded_event_is_read_and_kept_as_it_came(client, stored, coding, body):
    reply = await client.post(WEBHOOK, content=body, headers={**basic_header(), "Content-Encoding": coding})
    (event,) = await stored()
    assert (reply.status_code, event.body, event.type) == (200, body, "ORDER_CREATE")
    assert event.body_bytes == len(body)


async def test_headers_are_kept_in_order_but_never_those_with_credentials(client, stored):
    headers = [
        *basic_header().items(),
        ("Cookie", "session=hidden-value"),
        ("Proxy-Authorization", "Basic hidden-value"),
        ("Content-Type", "application/json"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
        ("X-Latin", b"caf\xe9: \xff"),
        ("X-Empty", ""),
    ]
    await client.post(WEBHOOK, content=NOTIFICATION, headers=headers)
    (event,) = await stored()
    kept = [(name, value) for name, value in event.headers if name.startswith(("x-", "content-type"))]
    assert kept == [
        ("content-type", "application/json"),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("x-latin", "caf\xe9: \xff"),
        ("x-empty", ""),
    ]
    assert not {"authorization", "cookie", "proxy-authorization"} & {name for name, _ in event.headers}
    assert "hidden-value" not in repr(event.headers)


async def test_a_refused_event_keeps_its_headers_without_credentials_too(client, stored):
    await client.post(WEBHOOK, content=b"{", headers={**basic_header(), "Cookie": "a=b", "X-Kept": "yes"})
    (event,) = await stored()
    assert ["x-kept", "yes"] in event.headers
    assert not {"authorization", "cookie"} & {name for name, _ in event.headers}


# What test_answers.py does not ask of a row


async def test_two_accept_fields_count_as_one_list(client):
    accept = [("Accept", "text/html"), ("Accept", "application/json")]
    reply = await client.post(WEBHOOK, content=NOTIFICATION, headers=[*basic_header().items(), *accept])
    assert reply.status_code == 200


async def test_a_body_exactly_at_the_limit_is_taken(start, sqlite_url):
    async with start(sqlite_url, max_body_bytes=len(NOTIFICATION)) as client:
        reply = await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    assert reply.status_code == 200


async def test_a_declared_length_over_the_limit_is_413_before_the_body_arrives(serve, stored, database_url):
    declared = {**basic_header(), "Content-Length": "5000000000"}
    async with serve(database_url, max_body_bytes=LIMIT) as app:
        reply = await Sender(headers=declared, chunks=[b"x" * 65536], ends=False, stalls=True).send_to(app)
    (event,) = await stored()
    assert (reply.status, reply.answer_headers["connection"]) == (413, "close")
    assert (event.body, event.body_bytes) == (b"x" * 65536, 5_000_000_000)


@pytest.mark.parametrize("coding", ["br", "compress", "zstd", "gzip, br", "gzip, gzip", "gzidentityip", "utf-8"])
async def test_an_unknown_content_coding_is_415(client, coding):
    body = gzip.compress(NOTIFICATION)
    reply = await client.post(WEBHOOK, content=body, headers={**basic_header(), "Content-Encoding": coding})
    assert_error_model(reply, 415, "UNSUPPORTED_MEDIA_TYPE")


# Quarantine


REFUSED = [
    (413, {}, TOO_LONG),
    (415, {"Content-Type": "text/plain"}, NOTIFICATION),
    (415, {"Content-Encoding": "br"}, NOTIFICATION),
    (400, {}, b"\xff\x00not json"),
    (400, {}, b""),
    (400, {"Content-Encoding": "gzip"}, b"not gzip"),
    (422, {}, ERROR),
]
REFUSED_IDS = ["413", "415 type", "415 coding", "400 bytes", "400 empty", "400 coding", "422"]


@pytest.mark.parametrize("refused", REFUSED, ids=REFUSED_IDS)
async def test_a_refused_body_is_quarantined_with_its_reason(start, stored, database_url, refused):
    status, headers, body = refused
    async with start(database_url, max_body_bytes=LIMIT, max_quarantined_bytes=LIMIT) as client:
        reply = await client.post(WEBHOOK, content=body, headers={**basic_header(), **headers})
    (event,) = await stored()
    assert reply.status_code == status
    assert "Event-Id" not in reply.headers
    assert (event.status, event.type, event.client) == ("quarantined", None, "prioticket")
    assert event.reason.startswith(f"{status}: {reply.json()['error_message']}")
    assert (event.body, event.body_bytes) == (body[: 64 * 1024], len(body))


async def test_a_body_over_the_limit_is_one_row_however_it_is_cut_on_its_way(serve, stored, database_url):
    async with serve(database_url, max_body_bytes=LIMIT, max_quarantined_bytes=150_000) as app:
        for size in (70_000, 101_000, 50_000):
            whole = b"x" * 200_000
            chunks = [whole[place : place + size] for place in range(0, len(whole), size)]
            await Sender(chunks=chunks).send_to(app)
    (event,) = await stored()
    assert event.duplicates == 2


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_kept_whole_and_read_if_it_is_not_too_large_for_that(
    serve, stored, database_url, chunks, declared
):
    whole = payload("10-order-payload-cancelled").ljust(150_000)
    size = len(whole) // chunks
    pieces = [whole[place : place + size] for place in range(0, len(whole), size)]
    length = {"Content-Length": str(len(whole))} if declared else {}
    async with serve(database_url, max_body_bytes=LIMIT, max_quarantined_bytes=len(whole)) as app:
        reply = await Sender(headers={**basic_header(), **length}, chunks=pieces).send_to(app)
    (event,) = await stored()
    assert (reply.status, event.status, event.body == whole) == (413, "quarantined", True)
    assert (event.body_bytes, event.type, event.reference) == (len(whole), "ORDER_CANCELLED", "PRI26081200417")


async def test_a_compressed_body_that_is_over_the_limit_once_unpacked_is_kept_whole_and_read(
    start, stored, database_url
):
    body = gzip.compress(payload("05-notification-payment-refund").ljust(LIMIT + 1))
    async with start(database_url, max_body_bytes=LIMIT) as client:
        reply = await client.post(WEBHOOK, content=body, headers={**basic_header(), "Content-Encoding": "gzip"})
    (event,) = await stored()
    assert (reply.status_code, event.body, event.type) == (413, body, "PAYMENT_REFUND")


async def test_an_order_of_2000_guests_is_kept_whole_by_default(client, stored):
    order = json.loads(payload("08-order-payload-confirmed"))
    booking = order["data"]["order"]["order_bookings"][0]
    booking["product_type_details"] = booking["product_type_details"][:1] * 2000
    body = json.dumps(order, indent=2).encode()
    reply = await client.post(WEBHOOK, content=body, headers=basic_header())
    (event,) = await stored()
    assert (reply.status_code, event.body == body, event.reference) == (413, True, "PRI26081200417")


async def test_of_a_compressed_body_over_the_limit_64_kib_are_kept_too(serve, stored, database_url):
    member = gzip.compress(bytes(100), mtime=0)
    body = member * 3000  # 70 KiB that are 300,000 bytes
    async with serve(database_url, max_body_bytes=LIMIT, max_quarantined_bytes=65_536) as app:
        await Sender(headers={**basic_header(), "Content-Encoding": "gzip"}, chunks=[body]).send_to(app)
    (event,) = await stored()
    assert (event.body, event.body_bytes) == (body[: 64 * 1024], len(body))


async def test_a_body_that_is_refused_for_another_reason_is_another_row(client, stored):
    await client.post(WEBHOOK, content=b"[]", headers=basic_header())
    await client.post(WEBHOOK, content=b"[]", headers={**basic_header(), "Content-Type": "text/plain"})
    assert [event.reason[:4] for event in await stored()] == ["422:", "415:"]


async def test_a_refused_body_does_not_make_the_same_body_a_copy_once_it_is_right(client, stored):
    await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), "Content-Type": "text/plain"})
    reply = await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    refused, accepted = await stored()
    assert (refused.status, accepted.status) == ("quarantined", "accepted")
    assert reply.headers["Event-Id"] == str(accepted.id)


# Copies


async def test_two_copies_in_one_batch_are_stored_once(client, stored):
    posts = (client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header()) for _ in range(20))
    replies = await asyncio.gather(*posts)
    (event,) = await stored()
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.headers["Event-Id"] for reply in replies} == {str(event.id)}
    assert event.duplicates == 19
    assert event.last_duplicate_at is not None


async def test_a_later_copy_is_200_with_the_first_id_and_is_counted_there(client, stored):
    replies = [await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header()) for _ in range(2)]
    (event,) = await stored()
    assert [(reply.status_code, reply.headers["Event-Id"]) for reply in replies] == [(200, str(event.id))] * 2
    assert (event.body, event.duplicates) == (NOTIFICATION, 1)
    assert event.received_at < event.last_duplicate_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("sample", "byte", "other"),
    [
        ("01-notification-order-create", b"DELIVERY_PENDING", b"DELIVERY_FAILED"),
        ("01-notification-order-create", b"ORDER_CREATE", b"ORDER_CANCEL"),
        ("12-GUESS-notification-with-order", b"@", b"A"),
        ("10-order-payload-cancelled", b"@", b"A"),
        ("10-order-payload-cancelled", b"{", b" {"),
    ],
)
async def test_one_byte_that_differs_makes_another_event_whatever_ids_and_versions_say(
    client, stored, sample, byte, other
):
    first = payload(sample)
    second = first.replace(byte, other, 1)
    assert second != first
    replies = [await client.post(WEBHOOK, content=body, headers=basic_header()) for body in (first, second)]
    events = await stored()
    assert [(event.body, event.duplicates) for event in events] == [(first, 0), (second, 0)]
    assert [reply.headers["Event-Id"] for reply in replies] == [str(event.id) for event in events]


NAMELESS = b'{"data": {"notification": {"notification_event": "AVAILABILITY_UPDATE", "notification_item_id": "P1"}}}'


async def aged(engine, by: timedelta) -> None:
    """Everything that is stored arrived so much earlier."""
    async with writing(engine) as connection:
        for row in (await connection.execute(select(Event.id, Event.received_at))).all():
            change = update(Event).where(Event.id == row.id)
            await allow_changes(connection)
            await connection.execute(change.values(received_at=row.received_at - by))


@pytest.mark.parametrize("nothing", [b"null", b'""', b'"  "', rb'"\u0000"', b"false", b"[]", b"1.5", None])
async def test_a_notification_without_an_id_is_another_event_after_ten_minutes(client, stored, engine, nothing):
    body = NAMELESS if nothing is None else NAMELESS.replace(b': {"n', b': {"notification_id": ' + nothing + b', "n')

    async def post() -> str:
        return str((await client.post(WEBHOOK, content=body, headers=basic_header())).headers["Event-Id"])

    first = [await post()]
    await aged(engine, timedelta(minutes=9, seconds=50))
    first.append(await post())
    await aged(engine, timedelta(seconds=20))
    second = [await post() for _ in range(2)]
    await aged(engine, timedelta(minutes=11))
    third = [await post()]
    events = await stored()
    ids = [str(event.id) for event in events]
    assert (first, second, third) == ([ids[0]] * 2, [ids[1]] * 2, [ids[2]])
    assert [event.duplicates for event in events] == [1, 1, 0]


async def test_twenty_of_them_at_once_after_ten_minutes_are_one_more_event(client, stored, engine):
    await client.post(WEBHOOK, content=NAMELESS, headers=basic_header())
    await aged(engine, timedelta(hours=1))
    await asyncio.gather(*(client.post(WEBHOOK, content=NAMELESS, headers=basic_header()) for _ in range(20)))
    assert [event.duplicates for event in await stored()] == [0, 19]


async def test_two_receivers_that_get_it_at_once_after_ten_minutes_store_it_once(start, stored, engine, database_url):
    async with start(database_url) as one, start(database_url) as other:
        await one.post(WEBHOOK, content=NAMELESS, headers=basic_header())
        await aged(engine, timedelta(hours=1))
        posts = (each.post(WEBHOOK, content=NAMELESS, headers=basic_header()) for each in (one, other) * 10)
        assert {reply.status_code for reply in await asyncio.gather(*posts)} == {200}
    assert [event.duplicates for event in await stored()] == [0, 19]


@pytest.mark.parametrize(
    "sample", ["01-notification-order-create", "10-order-payload-cancelled", "12-GUESS-notification-with-order"]
)
async def test_what_has_an_id_or_is_an_order_is_a_copy_however_late(client, count, engine, sample):
    await client.post(WEBHOOK, content=payload(sample), headers=basic_header())
    await aged(engine, timedelta(days=7))
    await client.post(WEBHOOK, content=payload(sample), headers=basic_header())
    assert await count() == 1


@pytest.mark.parametrize("length", [LIMIT + 1, LIMIT + 2])
async def test_bodies_over_the_limit_with_one_beginning_and_two_lengths_are_two_events(
    start, stored, database_url, length
):
    async with start(database_url, max_body_bytes=LIMIT) as client:
        for size in (length, LIMIT + 3, length):
            await client.post(WEBHOOK, content=b"x" * size, headers=basic_header())
    assert [(event.body_bytes, event.duplicates) for event in await stored()] == [(length, 1), (LIMIT + 3, 0)]


async def test_a_compressed_copy_is_a_copy(client, count):
    await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    encoded = {**basic_header(), "Content-Encoding": "gzip"}
    await client.post(WEBHOOK, content=gzip.compress(NOTIFICATION), headers=encoded)
    assert await count() == 1


async def test_no_client_can_make_anothers_event_look_like_a_copy(start, stored, database_url):
    secret = "another-clients-secret"
    clients = {name: {"secret": secret, "scopes": ["webhooks:send"]} for name in ("one", "two")}
    async with start(database_url, clients=clients) as client:
        for name in clients:
            await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header(name, secret))
    assert [event.client for event in await stored()] == ["one", "two"]


async def test_a_retry_with_the_next_secret_of_a_username_is_a_copy(start, stored, database_url):
    secrets = {"old": "the-former-secret", "new": "the-present-secret"}
    clients = {
        name: {"secret": secret, "username": "prio", "scopes": ["webhooks:send"]} for name, secret in secrets.items()
    }
    async with start(database_url, clients=clients) as client:
        for secret in secrets.values():
            await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header("prio", secret))
    (event,) = await stored()
    assert (event.client, event.duplicates) == ("old", 1)


# The database in trouble


def numbered(number: int) -> bytes:
    return json.dumps({"data": {"notification": {"notification_id": number}}}).encode()


@pytest.mark.parametrize("bound", [{"max_waiting_events": 2}, {"max_waiting_bytes": 10}], ids=["events", "bytes"])
async def test_while_the_queue_is_full_the_next_is_503_and_the_waiting_are_stored(start, count, database_url, bound):
    async with start(database_url, **bound, commit_timeout=timedelta(minutes=1)) as client:
        async with locked(database_url):
            posts = [
                asyncio.create_task(client.post(WEBHOOK, content=numbered(number), headers=basic_header()))
                for number in range(6)
            ]
            done, _ = await asyncio.wait(posts, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            refused = done.pop().result()
        replies = await asyncio.gather(*posts)
    assert_error_model(refused, 503, "SERVICE_UNAVAILABLE")
    assert int(refused.headers["Retry-After"]) > 0
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 503}
    assert await count() == statuses.count(200)


async def test_a_commit_that_takes_too_long_is_503_and_sending_again_stores_once(start, stored, database_url):
    async with start(database_url, commit_timeout=timedelta(seconds=0.5)) as client:
        async with locked(database_url):
            refused = await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
        for _ in range(20):  # the blocked writer may need a moment to see that the lock is gone
            again = await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
            if again.status_code != 503:
                break
    (event,) = await stored()
    assert_error_model(refused, 503, "SERVICE_UNAVAILABLE")
    assert int(refused.headers["Retry-After"]) > 0
    assert (again.status_code, again.headers["Event-Id"]) == (200, str(event.id))


async def test_a_refused_body_that_cannot_be_kept_is_503_so_that_it_is_sent_again(start, count, database_url):
    async with start(database_url, commit_timeout=SOON, on_unprocessable="accept") as client, locked(database_url):
        reply = await client.post(WEBHOOK, content=b"{", headers=basic_header())
        assert await count() == 0
    assert_error_model(reply, 503, "SERVICE_UNAVAILABLE")


async def test_a_client_that_is_gone_during_the_commit_neither_undoes_nor_doubles_its_event(
    start, stored, database_url
):
    async with start(database_url) as client:
        async with locked(database_url):
            post = asyncio.create_task(client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header()))
            await asyncio.wait([post], timeout=0.1)
            post.cancel()
            with pytest.raises(asyncio.CancelledError):
                await post
        reply = await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    (event,) = await stored()
    assert (reply.status_code, reply.headers["Event-Id"], event.duplicates) == (200, str(event.id), 1)


async def test_a_sender_that_closes_right_after_its_body_has_its_event_stored(serve, stored, database_url):
    async with serve(database_url) as app:
        await Sender(ends=True, stalls=False).send_to(app)
    (event,) = await stored()
    assert (event.body, event.duplicates) == (NOTIFICATION, 0)


async def test_a_client_that_hangs_up_within_its_body_is_not_answered_and_stores_nothing(
    serve, count, lines: Callable[[], list[dict[str, Any]]], database_url
):
    async with serve(database_url) as app:
        sender = await Sender(chunks=[NOTIFICATION[:50]], ends=False).send_to(app)
    assert sender.status is None
    assert await count() == 0
    assert [line["status"] for line in lines() if line["event"] == "request"] == [499]


@pytest.mark.parametrize(("on_unprocessable", "status"), [("accept", 200), ("refuse", 400)])
async def test_a_body_that_is_not_json_leaves_nothing_for_the_garbage_collector(
    sqlite_url, start, on_unprocessable, status
):
    async with start(sqlite_url, on_unprocessable=on_unprocessable) as client:
        gc.collect()
        gc.disable()
        before = {id(each) for each in gc.get_objects() if isinstance(each, Problem)}  # such as other tests' parameters
        try:
            reply = await client.post(WEBHOOK, content=b"{", headers=basic_header())
            assert reply.status_code == status
            assert not [each for each in gc.get_objects() if isinstance(each, Problem) and id(each) not in before]
        finally:
            gc.enable()


def test_the_values_of_a_payload_are_in_the_order_of_an_events_columns():
    columns = Payload._fields[1:]
    assert NewEvent._fields[NewEvent._fields.index(columns[0]) :][: len(columns)] == columns

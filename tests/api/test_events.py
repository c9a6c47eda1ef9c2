import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.writing import writing
from app.events.tables import Event
from tests.conftest import WEBHOOK, basic_header, bearer_header, payload
from tests.events.stores import new_event

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
READER = bearer_header()


async def fill(engine: AsyncEngine, *events: dict[str, Any]) -> list[str]:
    """Stores events, each a minute younger than the one before; their ids."""
    rows = [
        new_event(f"event-{number}", **{"received_at": NOON + timedelta(minutes=number), **columns})
        for number, columns in enumerate(events)
    ]
    async with writing(engine) as connection:
        await connection.execute(insert(Event), [row._asdict() for row in rows])
    return [str(row.id) for row in rows]


@pytest.fixture
async def some(engine) -> list[str]:
    return await fill(
        engine,
        {"type": "ORDER_CREATE", "reference": "PRI/1 %41", "client": "other"},
        {"type": "ORDER_CANCEL", "reference": "PRI2"},
        {"status": "quarantined", "reason": "400: not JSON"},
        {"type": "ORDER_CREATE", "reference": "PRI2"},
    )


async def listed(client, some, query) -> list[int]:
    reply = await client.get("/api/events", params=query, headers=READER)
    assert reply.status_code == 200, reply.text
    return [some.index(each["id"]) for each in reply.json()["events"]]


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ({}, [3, 2, 1, 0]),
        ({"type": "ORDER_CREATE"}, [3, 0]),
        ({"reference": "PRI2"}, [3, 1]),
        ({"reference": "PRI/1 %41"}, [0]),
        ({"status": "quarantined"}, [2]),
        ({"status": "accepted"}, [3, 1, 0]),
        ({"client": "other"}, [0]),
        ({"since": "2026-08-12T12:02:00Z"}, [3, 2]),
        ({"since": "2026-08-12T14:02:00+02:00", "until": "2026-08-12T12:03"}, [2]),
        ({"until": "2026-08-12"}, []),
        ({"since": "0001-01-01", "until": "9999-12-31T23:59:59.999999Z"}, [3, 2, 1, 0]),
        ({"since": "9999-12-31T23:59:59.999999Z"}, []),
        ({"until": "0001-01-01T00:00:00Z"}, []),
        ({"q": "pri2"}, [3, 1]),
        ({"q": "PRI/1"}, [0]),
        ({"q": "cancel"}, [1]),
        ({"q": "cancel", "reference": "PRI/1 %41"}, []),
        ({"q": "%"}, [0]),
        ({"q": "nothing"}, []),
    ],
)
async def test_a_list_narrows_to_what_is_asked_for(client, some, query, places):
    assert await listed(client, some, query) == places


async def test_an_event_is_found_by_what_happened_and_by_what_was_announced(client):
    body = json.loads(payload("12-GUESS-notification-with-order"))
    bookings = body["data"]["order"]["order_bookings"]
    bookings.append({**bookings[0], "booking_status": "BOOKING_CANCELLED"})
    posted = await client.post(WEBHOOK, content=json.dumps(body).encode(), headers=basic_header())
    for query in ({"type": "ORDER_CANCEL_PARTIAL"}, {"type": "ORDER_UPDATE"}, {"q": "update"}):
        reply = await client.get("/api/events", params=query, headers=READER)
        (event,) = reply.json()["events"]
        assert (event["id"], event["type"]) == (posted.headers["Event-Id"], "ORDER_CANCEL_PARTIAL")
        assert event["event_name"] == "ORDER_UPDATE"
    reply = await client.get("/api/events", params={"type": "ORDER_CONFIRMED"}, headers=READER)
    assert reply.json()["events"] == []


async def test_a_search_finds_an_id_whole_or_by_its_beginning(client, some):
    assert await listed(client, some, {"q": some[1]}) == [1]
    assert await listed(client, some, {"q": some[1].replace("-", "").upper()}) == [1]
    assert await listed(client, some, {"q": some[1][:13]}) == [1]


async def test_a_search_finds_a_notification_by_its_id(client):
    posted = await client.post(WEBHOOK, content=payload("01-notification-order-create"), headers=basic_header())
    notification = json.loads(payload("01-notification-order-create"))["data"]["notification"]["notification_id"]
    found = await client.get("/api/events", params={"q": notification}, headers=READER)
    assert [each["id"] for each in found.json()["events"]] == [posted.headers["Event-Id"]]


async def test_a_search_finds_a_notification_by_its_id_wherever_it_is_and_whoever_sent_it(client, engine, monkeypatch):
    monkeypatch.setattr("app.events.search.WINDOW", 1)
    notified = {"notification_id": "n-1", "client": "nobody configured any more"}
    ids = await fill(engine, notified, notified, {"notification_id": "n-12"}, {}, {})
    found = await client.get("/api/events", params={"q": "n-1"}, headers=READER)
    assert ([each["id"] for each in found.json()["events"]], found.json()["next"]) == ([ids[1], ids[0]], None)


async def test_a_search_goes_on_behind_what_one_page_looked_at(client, some, monkeypatch):
    monkeypatch.setattr("app.events.search.WINDOW", 2)
    first = await client.get("/api/events", params={"q": "cancel"}, headers=READER)
    assert first.json()["events"] == []
    second = await client.get(first.json()["next"], headers=READER)
    assert [each["id"] for each in second.json()["events"]] == [some[1]]


async def test_a_client_is_looked_for_in_so_many_events_a_page(client, some, monkeypatch):
    monkeypatch.setattr("app.events.search.WINDOW", 2)
    first = await client.get("/api/events", params={"client": "other"}, headers=READER)
    assert first.json()["events"] == []
    second = await client.get(first.json()["next"], headers=READER)
    assert [each["id"] for each in second.json()["events"]] == [some[0]]


@pytest.mark.parametrize("query", [{}, {"type": "ORDER_CREATE"}, {"q": "PRI2"}, {"q": "ORDER"}])
async def test_pages_together_are_the_whole_list(client, some, query):
    whole = await listed(client, some, query)
    pages = []
    following = "/api/events"
    query = {**query, "limit": 1}
    while following:
        reply = await client.get(following, params=query or None, headers=READER)
        pages += [some.index(each["id"]) for each in reply.json()["events"]]
        following, query = reply.json()["next"], {}
        assert reply.headers.get("Link") == (f'<{following}>; rel="next"' if following else None)
    assert pages == whole


async def test_an_event_that_arrives_meanwhile_moves_no_page(client, some, engine):
    first = await client.get("/api/events", params={"limit": 2}, headers=READER)
    await fill(engine, {"received_at": NOON + timedelta(hours=1), "dedup_key": b"n" * 16})
    second = await client.get(first.json()["next"], headers=READER)
    assert [each["id"] for each in second.json()["events"]] == [some[1], some[0]]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=ten", "limit"),
        ("status=lost", "status"),
        ("since=yesterday", "since"),
        ("since=2026-13-01", "since"),
        ("until=0001-01-01T00:00%2B14:00", "until"),
        ("type=", "type"),
        ("reference=%00", "reference"),
        ("client=" + "x" * 256, "client"),
        ("type=A&type=B", "type"),
        ("typ=A", "typ"),
        ("cursor=", "cursor"),
        ("cursor=AAAA", "cursor"),
    ],
)
async def test_a_parameter_that_cannot_be_used_is_named(client, query, named):
    reply = await client.get(f"/api/events?{query}", headers=READER)
    assert reply.status_code == 400
    assert reply.json()["error"] == "INVALID_REQUEST"
    assert f"parameter {named} " in reply.json()["error_message"]


async def test_a_cursor_of_other_filters_is_refused(client, some):
    page = await client.get("/api/events", params={"limit": 1}, headers=READER)
    reply = await client.get(page.json()["next"] + "&type=ORDER_CREATE", headers=READER)
    assert reply.status_code == 400
    assert "other filters" in reply.json()["error_message"]


async def test_an_event_is_shown_with_its_headers_and_without_its_body(client, some):
    reply = await client.get(f"/api/events/{some[1]}", headers=READER)
    shown = reply.json()
    assert (shown["type"], shown["headers"]) == ("ORDER_CANCEL", [["accept", "*/*"]])
    assert "body" not in shown


@pytest.mark.parametrize("path", ["", "/body"])
@pytest.mark.parametrize("event_id", ["01987f6e-0000-7000-8000-000000000001", "nothing", "%00"])
async def test_an_unknown_event_is_404(client, path, event_id):
    reply = await client.get(f"/api/events/{event_id}{path}", headers=READER)
    assert (reply.status_code, reply.json()["error"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["", "/body"])
async def test_what_did_not_change_is_304(client, some, path):
    reply = await client.get(f"/api/events/{some[0]}{path}", headers=READER)
    again = READER | {"If-None-Match": f'"other", W/{reply.headers["ETag"]}'}
    unchanged = await client.get(f"/api/events/{some[0]}{path}", headers=again)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["ETag"] == reply.headers["ETag"]


async def test_a_copy_changes_the_events_tag_and_not_the_bodys(client, some, engine):
    async def tags():
        replies = [await client.get(f"/api/events/{some[0]}{path}", headers=READER) for path in ("", "/body")]
        return [reply.headers["ETag"] for reply in replies]

    before = await tags()
    async with writing(engine) as connection:
        await connection.execute(update(Event).values(duplicates=Event.duplicates + 1))
    after = await tags()
    assert before[0] != after[0]
    assert before[1] == after[1]


async def test_a_body_is_downloaded_byte_for_byte(client):
    content = payload("01-notification-order-create") + b"\r\n "
    headers = basic_header() | {"Content-Type": "application/json; charset=utf-8"}
    posted = await client.post(WEBHOOK, content=content, headers=headers)
    event_id = posted.headers["Event-Id"]
    reply = await client.get(f"/api/events/{event_id}/body", headers=READER)
    assert reply.content == content
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["Content-Disposition"] == f'attachment; filename="priohook-{event_id}.json"'
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_compressed_body_stays_as_it_arrived_whatever_the_client_would_undo(client):
    content = gzip.compress(payload("01-notification-order-create"))
    headers = basic_header() | {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    event_id = (await client.post(WEBHOOK, content=content, headers=headers)).headers["Event-Id"]
    reply = await client.get(f"/api/events/{event_id}/body", headers=READER)
    assert reply.content == content
    assert reply.headers["Content-Type"] == "application/gzip"
    assert "Content-Encoding" not in reply.headers
    assert reply.headers["Content-Disposition"].endswith('.json.gz"')


@pytest.mark.parametrize(
    ("headers", "served"),
    [
        (b"content-type: text/plain", "text/plain"),
        (b'content-type: text/html; charset="utf-8"', 'text/html; charset="utf-8"'),
        (b"content-type: nonsense", "application/octet-stream"),
        (b"content-type: a/b\r\ncontent-type: c/d", "application/octet-stream"),
        (b"content-type: application/json\r\ncontent-encoding: br", "application/octet-stream"),
        (b"host: priohook", "application/octet-stream"),
    ],
)
async def test_a_body_has_the_content_type_it_came_with_if_it_came_with_one(client, engine, headers, served):
    (event_id,) = await fill(engine, {"headers": headers})
    reply = await client.get(f"/api/events/{event_id}/body", headers=READER)
    assert reply.headers["Content-Type"] == served
    assert "sandbox" in reply.headers["Content-Security-Policy"]


async def test_the_size_of_a_body_that_was_cut_is_said(client, engine):
    (event_id,) = await fill(engine, {"body": b"begin", "body_bytes": 70_000})
    reply = await client.get(f"/api/events/{event_id}/body", headers=READER)
    assert (reply.content, reply.headers["Priohook-Body-Bytes"]) == (b"begin", "70000")


async def test_an_empty_body_is_downloaded(client):
    assert (await client.post(WEBHOOK, content=b"", headers=basic_header())).status_code == 400
    (event,) = (await client.get("/api/events", headers=READER)).json()["events"]
    for method in ("HEAD", "GET"):
        reply = await client.request(method, f"/api/events/{event['id']}/body", headers=READER)
        assert (reply.status_code, reply.content, reply.headers["Content-Length"]) == (200, b"", "0")


async def test_head_says_the_size_and_reads_no_body(client, some):
    reply = await client.head(f"/api/events/{some[0]}/body", headers=READER)
    whole = await client.get(f"/api/events/{some[0]}/body", headers=READER)
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["Content-Length"] == str(len(whole.content))

"""Copies of events that were stored with a key as the releases before migration 0009 made it."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from sqlalchemy import update

from app.database.engines import is_sqlite, sqlite_path
from app.database.writing import writing
from app.events.rows import Stored
from app.events.tables import Event
from app.settings.clients import Scope
from tests.conftest import WEBHOOK, basic_header, bearer_header, payload
from tests.events.stores import allow_changes, new_event, running

NOTIFICATION = payload("01-notification-order-create")
ORDER = payload("08-order-payload-confirmed")
WITHOUT_ID = b'{"data": {"notification": {"notification_event": "PRODUCT_UPDATE", "notification_item_id": "1"}}}'
JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}
BODIES = {
    "a notification": (200, NOTIFICATION, JSON),
    "an order": (200, ORDER, JSON),
    "a notification with an order": (200, payload("12-GUESS-notification-with-order"), JSON),
    "a notification without an id": (200, WITHOUT_ID, JSON),
    "an unknown object": (200, b'{"data": {}}', JSON),
    "no JSON": (400, b"{", JSON),
    "no envelope": (422, b"[]", JSON),
    "no content type of JSON": (415, NOTIFICATION, TEXT),
}
MINUTE = timedelta(minutes=1)
OPERATOR = bearer_header("operator", Scope.REPLAY)


def old_key(status: int, body: bytes) -> bytes:
    kind = "accepted" if status == 200 else f"refused {status}"
    return sha256(f"prioticket\n{kind}\n".encode() + body).digest()[:16]


@pytest.fixture(autouse=True)
def _upgraded(database_url):
    """As migration 0010 leaves a SQLite file that had events."""
    if is_sqlite(database_url):
        with closing(sqlite3.connect(sqlite_path(database_url))) as connection:
            connection.execute("PRAGMA user_version = 0")


@pytest.fixture
def age(engine, stored):
    """Gives the stored events the keys that they would have from an earlier release, and perhaps an earlier arrival."""

    async def age(ago: timedelta = timedelta()) -> None:
        async with writing(engine) as connection:
            await allow_changes(connection)
            for row in await stored():
                status = int(row.reason[:3]) if row.reason else 200
                changes = {"dedup_key": old_key(status, row.body), "received_at": row.received_at - ago}
                await connection.execute(update(Event).where(Event.id == row.id).values(changes))

    return age


async def post(client, body: bytes, headers: dict[str, str]):
    return await client.post(WEBHOOK, content=body, headers=basic_header() | headers)


@pytest.mark.parametrize("kind", BODIES)
async def test_a_copy_of_an_event_with_an_old_key_is_counted_there(client, stored, age, kind):
    status, body, headers = BODIES[kind]
    assert (await post(client, body, headers)).status_code == status
    await age()
    replies = [await post(client, body, headers) for _ in range(2)]
    replies += await asyncio.gather(*(post(client, body, headers) for _ in range(3)))
    (event,) = await stored()
    assert [reply.status_code for reply in replies] == [status] * 5
    assert (event.duplicates, event.dedup_key) == (5, old_key(status, body))
    if status == 200:
        assert {reply.headers["Event-Id"] for reply in replies} == {str(event.id)}


async def test_copies_of_old_and_new_events_and_events_of_their_own_arrive_together(client, stored, age):
    old = [NOTIFICATION, ORDER, b"{"]
    for body in old:
        await post(client, body, JSON)
    await age()
    new = [b'{"data": {"n": %d}}' % number for number in range(20)]
    await post(client, new[0], JSON)
    await asyncio.gather(*(post(client, body, JSON) for body in [*old, *new, *old, *new]))
    assert {row.body: row.duplicates for row in await stored()} == {
        **dict.fromkeys(old, 2),
        **dict.fromkeys(new, 1),
        new[0]: 2,
    }


async def test_two_processes_that_get_copies_of_the_same_old_events_agree(database_url, stored, engine):
    events = [new_event(str(number)) for number in range(100)]
    async with running(database_url) as store:
        await asyncio.gather(*(store.append(each) for each in events))
    async with writing(engine) as connection:
        for each in events:
            old = each.dedup_key[4:] + b"tail"
            await connection.execute(update(Event).where(Event.id == each.id).values(dedup_key=old))
    async with running(database_url, max_batch=16) as one, running(database_url, max_batch=16) as other:
        copies = [new_event(str(number)) for number in range(100)]
        forwards, backwards = await asyncio.gather(
            asyncio.gather(*(one.append(each) for each in copies)),
            asyncio.gather(*(other.append(each) for each in reversed(copies))),
        )
    assert forwards == [Stored(each.id, duplicate=True) for each in events]
    assert backwards == forwards[::-1]
    assert {row.duplicates for row in await stored()} == {2}


async def test_a_notification_without_an_id_that_has_an_old_key_is_another_event_after_ten_minutes(client, stored, age):
    await post(client, WITHOUT_ID, JSON)
    await age(9 * MINUTE)
    await post(client, WITHOUT_ID, JSON)
    assert [row.duplicates for row in await stored()] == [1]
    await age(11 * MINUTE)
    await asyncio.gather(*(post(client, WITHOUT_ID, JSON) for _ in range(2)))
    await post(client, WITHOUT_ID, JSON)
    first, second = await stored()
    assert (first.duplicates, second.duplicates) == (1, 2)
    assert first.dedup_key == first.id.bytes


async def test_a_released_event_is_a_copy_of_one_with_an_old_key(client, stored, age):
    await post(client, NOTIFICATION, JSON)
    await age()
    await post(client, NOTIFICATION, TEXT)
    first, refused = await stored()
    reply = await client.post(f"/api/events/{refused.id}/release", headers=OPERATOR)
    assert reply.json()["event_id"] == str(first.id)
    assert [row.duplicates for row in await stored()] == [1, 0]


async def test_a_key_begins_with_the_time_that_the_body_carries(client, stored):
    for body in (NOTIFICATION, ORDER, b'{"data": {}}', b"{"):
        await post(client, body, JSON)
    begins = [datetime.fromtimestamp(int.from_bytes(row.dedup_key[:4]), UTC).isoformat() for row in await stored()]
    assert begins == ["2026-08-12T08:15:32+00:00", "2026-08-12T08:17:03+00:00", *["1970-01-01T00:00:00+00:00"] * 2]


@pytest.mark.parametrize("year", ["0001", "1969", "2106", "9999"])
async def test_a_time_that_four_bytes_cannot_hold_makes_no_difference(client, stored, year):
    body = NOTIFICATION.replace(b"2026-", year.encode() + b"-")
    for _ in range(2):
        assert (await post(client, body, JSON)).status_code == 200
    assert [row.duplicates for row in await stored()] == [1]

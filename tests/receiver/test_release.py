import gzip
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.events.ids import new_id
from app.receiver.release import NotReleased, Released, release
from tests.conftest import WEBHOOK, basic_header, payload

NOTIFICATION = payload("01-notification-order-create")
ORDER = payload("10-order-payload-cancelled")
NOW = datetime(2026, 8, 12, 10, tzinfo=UTC)
PLAIN_TEXT = {"Content-Type": "text/plain"}

Release = Callable[[UUID], Awaitable[Released]]


@pytest.fixture
def released(engine: AsyncEngine) -> Release:
    """`await released(id)`: judges again, and commits."""

    async def judge(event_id: UUID) -> Released:
        async with engine.begin() as connection:
            return await release(connection, event_id, usernames={}, limit=100_000, now=NOW)

    return judge


async def test_an_event_with_a_wrong_content_type_is_accepted_when_it_is_released(client, stored, released):
    await client.post(WEBHOOK, content=ORDER, headers={**basic_header(), **PLAIN_TEXT})
    (refused,) = await stored()
    assert await released(refused.id) == Released(refused.id, duplicate=False)
    (event,) = await stored()
    assert (event.status, event.released_at, event.received_at) == ("accepted", NOW, refused.received_at)
    assert (event.type, event.shape, event.reference) == ("ORDER_CANCELLED", "object", "PRI26081200417")
    assert (event.order_version, event.api_version) == (3, "3.8.0")
    assert event.order_modified == datetime(2026, 8, 13, 7, 2, 10, tzinfo=UTC)
    assert (event.body, event.headers) == (ORDER, refused.headers)


async def test_a_copy_of_a_released_event_is_a_duplicate_of_it(client, stored, released):
    await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), **PLAIN_TEXT})
    (refused,) = await stored()
    await released(refused.id)
    reply = await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    (event,) = await stored()
    assert (reply.status_code, reply.headers["Event-Id"], event.duplicates) == (200, str(refused.id), 1)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "identity, gzip"])
async def test_a_compressed_event_is_read_when_it_is_released(client, stored, released, coding):
    headers = {**basic_header(), **PLAIN_TEXT, "Content-Encoding": coding}
    await client.post(WEBHOOK, content=gzip.compress(NOTIFICATION), headers=headers)
    (refused,) = await stored()
    await released(refused.id)
    (event,) = await stored()
    assert (event.status, event.type, event.body) == ("accepted", "ORDER_CREATE", refused.body)


async def test_an_event_whose_coding_is_no_coding_is_read_as_it_is(client, stored, released):
    await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), "Content-Encoding": "utf-8"})
    (refused,) = await stored()
    assert await released(refused.id) == Released(refused.id, duplicate=False)


@pytest.mark.parametrize(
    "case",
    [
        ({}, payload("11-error-body"), "an error object"),
        ({}, b"[]", "no object"),
        ({}, b"{", "not JSON"),
        ({"Content-Encoding": "gzip"}, b"not gzip", "not gzip"),
        ({"Content-Encoding": "gzip", **PLAIN_TEXT}, gzip.compress(bytes(100_001)), "over the limit"),
    ],
)
async def test_an_event_that_still_cannot_be_read_stays_in_quarantine(client, stored, released, case):
    headers, body, why = case
    await client.post(WEBHOOK, content=body, headers={**basic_header(), **headers})
    before = await stored()
    with pytest.raises(NotReleased, match=f"is still refused: .*{why}"):
        await released(before[0].id)
    assert await stored() == before


async def test_a_body_that_was_cut_is_not_released(start, stored, released, database_url):
    async with start(database_url, max_body_bytes=100_000) as client:
        await client.post(WEBHOOK, content=b"x" * 100_001, headers=basic_header())
    (refused,) = await stored()
    with pytest.raises(NotReleased, match="Only the first 65536 of 100001 bytes were kept"):
        await released(refused.id)


async def test_an_id_that_nobody_has_is_not_released(released):
    unknown = new_id()
    with pytest.raises(NotReleased, match=f"There is no event {unknown}"):
        await released(unknown)


async def test_an_accepted_event_is_not_released(client, released):
    reply = await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    with pytest.raises(NotReleased, match="is not quarantined"):
        await released(UUID(reply.headers["Event-Id"]))


async def test_an_event_is_released_once(client, stored, released):
    await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), **PLAIN_TEXT})
    (refused,) = await stored()
    await released(refused.id)
    with pytest.raises(NotReleased, match="is not quarantined"):
        await released(refused.id)


async def test_a_copy_of_an_accepted_event_is_counted_there_and_stays_in_quarantine(client, stored, released):
    await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), **PLAIN_TEXT})
    first, refused = await stored()
    assert await released(refused.id) == Released(first.id, duplicate=True)
    first, refused = await stored()
    assert (first.duplicates, first.last_duplicate_at) == (1, refused.received_at)
    assert (refused.status, refused.released_at) == ("quarantined", NOW)
    assert refused.reason.startswith(f"It is a copy of event {first.id}. 415:")


async def test_a_copy_is_judged_and_counted_once(client, stored, released):
    await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), **PLAIN_TEXT})
    first, refused = await stored()
    await released(refused.id)
    with pytest.raises(NotReleased, match=f"was judged already: It is a copy of event {first.id}"):
        await released(refused.id)
    assert (await stored())[0].duplicates == 1


async def test_a_copy_is_one_only_among_the_events_of_its_username(client, engine, stored):
    await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), **PLAIN_TEXT})
    _, refused = await stored()
    async with engine.begin() as connection:
        usernames = {"prioticket": "another"}
        outcome = await release(connection, refused.id, usernames=usernames, limit=100_000, now=NOW)
    assert outcome == Released(refused.id, duplicate=False)


async def test_a_release_that_is_not_committed_changes_nothing(client, engine, stored):
    await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), **PLAIN_TEXT})
    before = await stored()
    async with engine.connect() as connection:
        await release(connection, before[0].id, usernames={}, limit=100_000, now=NOW)
    assert await stored() == before

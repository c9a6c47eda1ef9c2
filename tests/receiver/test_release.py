import gzip
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.writing import writing
from app.deliveries.destinations.http import headers
from app.events.ids import new_id
from app.events.tables import DeletedEvent, Event
from app.receiver.release import NotReleased, Released, foresee, release
from app.settings.clients import Scope
from tests.conftest import WEBHOOK, basic_header, bearer_header, payload
from tests.deliveries.claims import new_claim
from tests.events.stores import allow_changes

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
    came = {**basic_header(), **PLAIN_TEXT, "Content-Encoding": coding}
    await client.post(WEBHOOK, content=gzip.compress(NOTIFICATION), headers=came)
    (refused,) = await stored()
    await released(refused.id)
    (event,) = await stored()
    assert (event.status, event.type, event.body) == ("accepted", "ORDER_CREATE", refused.body)


def raw_deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


MARK = b"\xef\xbb\xbf"
MISLABELLED = {
    "gzip that is plain": ("gzip", NOTIFICATION, None),
    "gzip that is plain with a mark": ("gzip", MARK + b" \n" + NOTIFICATION, None),
    "deflate that is plain": ("deflate", NOTIFICATION, None),
    "an unknown one that is plain": ("br", NOTIFICATION, None),
    "several that are plain": ("gzip, br", NOTIFICATION, None),
    "none that is gzip": ("identity", gzip.compress(NOTIFICATION), "gzip"),
    "none that is deflate": ("identity", zlib.compress(NOTIFICATION), "deflate"),
    "deflate that is gzip": ("deflate", gzip.compress(NOTIFICATION), "gzip"),
    "gzip that is deflate": ("gzip", zlib.compress(NOTIFICATION), "deflate"),
    "an unknown one that is gzip": ("br", gzip.compress(NOTIFICATION), "gzip"),
    "two that are one": ("gzip, gzip", gzip.compress(NOTIFICATION), "gzip"),
    "gzip with zeros behind": ("gzip", gzip.compress(NOTIFICATION) + bytes(8), "gzip"),
    "gzip in members with zeros behind": (
        "gzip",
        gzip.compress(NOTIFICATION[:9]) + gzip.compress(NOTIFICATION[9:]) + bytes(20_000),
        "gzip",
    ),
}


@pytest.mark.parametrize("case", MISLABELLED.values(), ids=MISLABELLED)
async def test_a_wrong_coding_is_overlooked_and_never_told_to_anyone(client, stored, released, case):
    claimed, body, coding = case
    await client.post(WEBHOOK, content=body, headers={**basic_header(), "Content-Encoding": claimed})
    (refused,) = await stored()
    assert await released(refused.id) == Released(refused.id, duplicate=False)
    (event,) = await stored()
    assert (event.status, event.type, event.body, event.headers) == ("accepted", "ORDER_CREATE", body, refused.headers)
    sent = headers(new_claim(body=event.body, headers=event.headers), [], now=NOW)
    assert sent.get("Content-Encoding") == coding
    served = await client.get(f"/api/events/{event.id}/body", headers=bearer_header())
    assert (served.content, "Content-Encoding" in served.headers) == (body, False)
    assert ("gzip" in served.headers["Content-Type"]) == (coding == "gzip")
    assert served.headers["Content-Disposition"].endswith('.gz"') == (coding == "gzip")


@pytest.mark.parametrize("body", [raw_deflated(NOTIFICATION), zlib.compress(NOTIFICATION)], ids=["raw", "wrapped"])
async def test_deflate_is_told_with_its_wrapping_and_without(client, stored, body):
    await client.post(WEBHOOK, content=body, headers={**basic_header(), "Content-Encoding": "deflate"})
    (event,) = await stored()
    assert event.status == "accepted"
    assert headers(new_claim(body=body, headers=event.headers), [], now=NOW)["Content-Encoding"] == "deflate"


async def test_gzip_with_other_bytes_behind_stays_in_quarantine(client, stored, released):
    body = gzip.compress(NOTIFICATION) + b"\0more"
    await client.post(WEBHOOK, content=body, headers={**basic_header(), "Content-Encoding": "gzip"})
    (refused,) = await stored()
    with pytest.raises(NotReleased, match="not gzip"):
        await released(refused.id)


async def test_a_copy_of_a_released_event_is_one_whatever_its_coding(client, stored, released):
    await client.post(WEBHOOK, content=gzip.compress(NOTIFICATION), headers=basic_header())
    (refused,) = await stored()
    await released(refused.id)
    await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    (event,) = await stored()
    assert (event.id, event.duplicates) == (refused.id, 1)


NAMELESS = b'{"data": {"notification": {"notification_event": "AVAILABILITY_UPDATE"}}}'


@pytest.mark.parametrize("minutes", [-11, -9, 9, 11])
async def test_a_notification_without_an_id_is_a_copy_of_none_that_is_ten_minutes_away(
    client, engine, stored, released, minutes
):
    copies = int(abs(minutes) < 10)
    await client.post(WEBHOOK, content=NAMELESS, headers=basic_header())
    await client.post(WEBHOOK, content=NAMELESS, headers={**basic_header(), **PLAIN_TEXT})
    first, refused = await stored()
    moved = update(Event).where(Event.id == refused.id)
    async with writing(engine) as connection:
        await allow_changes(connection)
        await connection.execute(moved.values(received_at=first.received_at + timedelta(minutes=minutes)))
    assert (await released(refused.id)).duplicate == bool(copies)
    await client.post(WEBHOOK, content=NAMELESS, headers=basic_header())
    assert sum(event.duplicates for event in await stored()) == copies + 1


async def test_an_event_whose_coding_is_no_coding_is_read_as_it_is(client, stored, released):
    await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), "Content-Encoding": "utf-8"})
    (refused,) = await stored()
    assert await released(refused.id) == Released(refused.id, duplicate=False)


@pytest.mark.parametrize(
    "case",
    [
        ({}, payload("11-error-body"), "an error object"),
        ({}, b"[]", "not an object"),
        ({}, b"{", "not JSON"),
        ({"Content-Encoding": "gzip"}, b"not gzip", "not gzip"),
        ({"Content-Encoding": "gzip", **PLAIN_TEXT}, gzip.compress(bytes(100_001)), "over the limit"),
    ],
)
async def test_an_event_that_still_cannot_be_read_stays_in_quarantine(client, stored, released, case):
    came, body, why = case
    await client.post(WEBHOOK, content=body, headers={**basic_header(), **came})
    before = await stored()
    with pytest.raises(NotReleased, match=f"is still refused: .*{why}"):
        await released(before[0].id)
    assert await stored() == before


async def test_a_body_that_was_cut_is_not_released(start, stored, released, database_url):
    async with start(database_url, max_body_bytes=100_000, max_quarantined_bytes=100_000) as client:
        await client.post(WEBHOOK, content=b"x" * 100_001, headers=basic_header())
    (refused,) = await stored()
    with pytest.raises(NotReleased, match="Only the first 65536 of 100001 bytes were kept"):
        await released(refused.id)


async def test_a_body_over_the_limit_that_was_kept_whole_is_released(start, stored, database_url):
    order = payload("08-order-payload-confirmed").ljust(100_001)
    async with start(database_url, max_body_bytes=100_000, max_quarantined_bytes=100_001) as client:
        await client.post(WEBHOOK, content=order, headers=basic_header())
        (refused,) = await stored()
        reply = await client.post(f"/api/events/{refused.id}/release", headers=bearer_header("operator", Scope.REPLAY))
    assert reply.json() == {"event_id": str(refused.id), "duplicate": False}
    (event,) = await stored()
    assert (event.status, event.type, event.shape, event.body) == ("accepted", "ORDER_CONFIRMED", "object", order)


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


async def test_a_released_event_is_a_copy_of_one_that_was_deleted_for_its_age(client, engine, stored, released):
    await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header())
    (first,) = await stored()
    async with writing(engine) as connection:
        key = {"dedup_key": first.dedup_key, "event_id": first.id, "deleted_at": NOW}
        await connection.execute(insert(DeletedEvent), key)
        await connection.execute(delete(Event))
    await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), **PLAIN_TEXT})
    (refused,) = await stored()
    assert await released(refused.id) == Released(first.id, duplicate=True)
    (event,) = await stored()
    assert (event.status, event.reason.partition(".")[0]) == ("quarantined", f"It is a copy of event {first.id}")
    async with engine.connect() as connection:
        assert await connection.scalar(select(DeletedEvent.duplicates)) == 1


async def test_what_a_release_would_make_of_an_event_is_told_and_nothing_changes(client, stored, engine):
    await client.post(WEBHOOK, content=ORDER, headers={**basic_header(), **PLAIN_TEXT})
    before = await stored()
    async with engine.connect() as connection:
        foreseen = await foresee(connection, before[0].id, usernames={}, limit=100_000)
    assert (foreseen.payload.type, foreseen.payload.reference) == ("ORDER_CANCELLED", "PRI26081200417")
    assert foreseen.copy_of is None
    assert await stored() == before


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_release_foresees_a_copy(client, stored, engine, deleted):
    await client.post(WEBHOOK, content=ORDER, headers=basic_header())
    await client.post(WEBHOOK, content=ORDER, headers={**basic_header(), **PLAIN_TEXT})
    first, refused = await stored()
    if deleted:
        async with writing(engine) as connection:
            await connection.execute(delete(Event).where(Event.id == first.id))
            gone = {"dedup_key": first.dedup_key, "event_id": first.id, "deleted_at": NOW}
            await connection.execute(insert(DeletedEvent).values(gone))
    async with engine.connect() as connection:
        foreseen = await foresee(connection, refused.id, usernames={}, limit=100_000)
    assert foreseen.copy_of == first.id


async def test_a_release_foresees_a_refusal(client, stored, engine):
    await client.post(WEBHOOK, content=b"{", headers=basic_header())
    (refused,) = await stored()
    async with engine.connect() as connection:
        with pytest.raises(NotReleased, match="still refused: The body is not JSON"):
            await foresee(connection, refused.id, usernames={}, limit=100_000)

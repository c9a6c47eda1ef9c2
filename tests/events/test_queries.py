from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events.ids import EPOCH, MICROSECOND, id_floor, made_at, new_id
from app.events.queries import EventFilter, get_event, get_summary, list_events
from app.events.tables import Event, Status
from app.telemetry.traces import begun_by
from tests.events.stores import new_event, running

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis

EVENTS = [
    {"key": "create", "type": "ORDER_CREATE", "reference": "PRI1", "client": "north"},
    {"key": "cancel", "type": "ORDER_CANCEL", "reference": "PRI1", "client": "north"},
    {"key": "other", "type": "ORDER_CANCEL", "event_name": "ORDER_CREATE", "reference": "PRI2", "client": "south"},
    {"key": "refused", "status": Status.QUARANTINED.value, "reason": "400: no JSON", "client": "south"},
]


@pytest.fixture
async def filled(database_url: str) -> dict[str, UUID]:
    """The ids of four events by key. The first arrives at noon, each next one a second later."""
    async with running(database_url) as store:
        return {
            each["key"]: (await store.append(new_event(**each, received_at=NOON + place * SECOND))).id
            for place, each in enumerate(EVENTS)
        }


@pytest.fixture
def keys(engine, filled) -> Callable[..., Any]:
    """`await keys(type=…)` gives the keys of the events that match, in the order of the list."""
    names = {event_id: key for key, event_id in filled.items()}

    async def keys(*, limit: int = 100, before: UUID | None = None, **narrowing: Any) -> list[str]:
        async with engine.connect() as connection:
            rows = await list_events(connection, EventFilter(**narrowing), limit=limit, before=before)
        return [names[row.id] for row in rows]

    return keys


async def test_events_are_listed_newest_first(keys):
    assert await keys() == ["refused", "other", "cancel", "create"]


@pytest.mark.parametrize(
    ("narrowing", "found"),
    [
        ({"type": "ORDER_CREATE"}, ["other", "create"]),
        ({"type": "ORDER_CANCEL"}, ["other", "cancel"]),
        ({"type": "ORDER_CREATE", "reference": "PRI2"}, ["other"]),
        ({"type": "ORDER_CREATE", "status": "quarantined"}, []),
        ({"type": "ORDER_CREATE", "limit": 1}, ["other"]),
        ({"type": "ORDER_CREATE", "since": NOON + SECOND}, ["other"]),
        ({"reference": "PRI1"}, ["cancel", "create"]),
        ({"status": "quarantined"}, ["refused"]),
        ({"status": "accepted"}, ["other", "cancel", "create"]),
        ({"client": "south"}, ["refused", "other"]),
        ({"client": "south", "type": "ORDER_CREATE"}, ["other"]),
        ({"reference": "PRI1", "type": "ORDER_UPDATE"}, []),
        ({"since": NOON + SECOND}, ["refused", "other", "cancel"]),
        ({"until": NOON + SECOND}, ["create"]),
        ({"since": NOON + SECOND, "until": NOON + 2 * SECOND}, ["cancel"]),
        ({"since": NOON + 4 * SECOND}, []),
        ({"since": datetime(1, 1, 1, tzinfo=UTC), "until": datetime(1969, 1, 1, tzinfo=UTC)}, []),
        ({"until": datetime(9999, 12, 31, tzinfo=UTC)}, ["refused", "other", "cancel", "create"]),
    ],
)
async def test_a_filter_narrows_to_what_it_says(keys, narrowing, found):
    assert await keys(**narrowing) == found


async def test_a_text_is_compared_and_never_a_pattern(keys):
    assert await keys(type="ORDER_%") == []


async def test_pages_continue_behind_the_last_event_of_the_one_before(keys, filled):
    first = await keys(limit=3)
    rest = await keys(limit=3, before=filled[first[-1]])
    assert first + rest == ["refused", "other", "cancel", "create"]


async def test_a_list_loads_no_body_and_no_headers(engine, filled):
    async with engine.connect() as connection:
        row = (await list_events(connection, EventFilter(), limit=1))[0]
    assert set(asdict(row)) == set(Event.__table__.columns.keys()) - {
        "body",
        "body_sha256",
        "headers",
        "dedup_key",
        "address",
        "request_id",
        "trace",
        "position",
    }


async def test_one_event_comes_whole(engine, filled):
    async with engine.connect() as connection:
        event = await get_event(connection, filled["cancel"])
    assert event is not None
    assert (event.id, event.body, event.headers) == (filled["cancel"], b'{"key": "cancel"}', [["accept", "*/*"]])
    assert event.received_at == NOON + SECOND
    assert event.received_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("sent", [None, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
async def test_a_trace_that_follows_from_the_requests_id_need_not_be_stored(engine, database_url, sent):
    request_id = "0123456789ab0000000001"
    async with running(database_url) as store:
        stored = await store.append(new_event("traced", request_id=request_id, trace=sent))
        without = await store.append(new_event("of an earlier release"))
    async with engine.connect() as connection:
        traced, untraced = await get_summary(connection, stored.id), await get_summary(connection, without.id)
    assert traced is not None
    assert untraced is not None
    assert traced.trace == (sent or begun_by(request_id))
    assert untraced.trace is None


async def test_an_id_that_nobody_has_gives_nothing(engine, filled):
    async with engine.connect() as connection:
        assert await get_event(connection, new_id()) is None


@given(at=TIMES)
def test_the_floor_of_a_time_separates_the_ids_before_it_from_the_others(at):
    microsecond = timedelta(microseconds=1)
    assert id_floor(at - microsecond) < id_floor(at) < id_floor(at + microsecond)


@given(at=TIMES, apart=st.integers(-10_000, 10_000))
def test_since_and_until_judge_an_id_as_the_time_that_is_shown_of_it(at, apart):
    ticks = ((at - EPOCH) // MICROSECOND << 12) // 1000 + apart
    each = UUID(int=ticks >> 12 << 80 | 7 << 76 | (ticks & 0xFFF) << 64 | 2 << 62)
    assert (each >= id_floor(at)) is (made_at(each) >= at)


def test_an_id_made_now_is_above_the_floor_of_now():
    before = datetime.now(UTC)
    assert id_floor(before) <= new_id()

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import pytest
from sqlalchemy import delete, insert, text

from app.api import stream
from app.api.turns import Turns
from app.auth.tokens import issue
from app.database.engines import engine_for
from app.database.writing import writing
from app.events import feed, positions
from app.events.tables import Event
from app.settings.clients import Scope
from tests.api.streams import PATIENCE, following, read_on
from tests.conftest import TOKEN_KEY, WEBHOOK, basic_header, bearer_header, payload
from tests.events.stores import new_event

READER = bearer_header()
HOUR = timedelta(hours=1)


@pytest.fixture
async def app(database_url, serve):
    async with serve(database_url) as app:
        yield app


@pytest.fixture
def store(engine):
    """`await store("a", "b")` commits events in one transaction; their ids."""

    async def store(*keys: str, **columns: Any) -> list[str]:
        rows = [new_event(key, **columns) for key in keys]
        async with writing(engine) as connection:
            await connection.execute(insert(Event), [row._asdict() for row in rows])
        return [str(row.id) for row in rows]

    return store


async def test_an_event_comes_as_the_api_shows_it_when_it_is_committed(database_url, serve):
    async with serve(database_url) as app, following(app, READER) as followed:
        assert (followed.status, followed.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert (followed.headers["cache-control"], followed.headers["x-accel-buffering"]) == ("no-store", "no")
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://priohook") as client:
            posted = await client.post(WEBHOOK, content=payload("01-notification-order-create"), headers=basic_header())
            (event,) = await followed.events(1)
            listed = await client.get("/api/events", headers=READER)
        assert event["id"] == posted.headers["event-id"]
        assert event == listed.json()["events"][0]


async def test_a_client_that_comes_back_gets_what_it_missed_and_nothing_twice(app, store):
    async with following(app, READER) as followed:
        first = await store("first")
        assert await followed.ids(1) == first
    missed = await store("second", "third")
    async with following(app, {**READER, "Last-Event-ID": followed.last}) as followed:
        assert await followed.ids(2) == missed
        later = await store("fourth")
        assert await followed.ids(1) == later


async def test_a_client_that_saw_no_event_can_resume_too(app, store):
    async with following(app, READER) as followed:
        pass
    missed = await store("first")
    async with following(app, {**READER, "Last-Event-ID": followed.last}) as followed:
        assert await followed.ids(1) == missed


async def test_events_come_in_the_order_of_commits_whatever_the_clocks_say(app, store):
    now = datetime.now(UTC)
    async with following(app, READER) as followed:
        ids = []
        for number, skew in enumerate((HOUR, -HOUR, timedelta(0), -100 * HOUR)):  # the last came from a spool
            ids += await store(f"event {number}", received_at=now + skew)
            assert await followed.ids(1) == ids[-1:]
            if number == 0:
                place = followed.last
    async with following(app, {**READER, "Last-Event-ID": place}) as followed:
        assert await followed.ids(3) == ids[1:]


async def test_a_late_commit_is_waited_for_and_comes_in_its_place(postgres_url, serve):
    early, late = new_event("early"), new_event("late")
    plain = postgres_url.replace("postgresql+asyncpg", "postgresql")
    async with serve(postgres_url) as app:
        first, second = await asyncpg.connect(plain), await asyncpg.connect(plain)
        transaction = first.transaction()
        await transaction.start()
        async with following(app, READER) as before:
            await _insert(first, late)  # takes its position first
            await _insert(second, early)
            place = before.last
            await asyncio.sleep(0.5)  # several looks
            assert b"data:" not in before.body
            await transaction.commit()
            assert await before.ids(2) == [str(late.id), str(early.id)]
        async with following(app, {**READER, "Last-Event-ID": place}) as after:
            assert await after.ids(2) == [str(late.id), str(early.id)]
        await first.close()
        await second.close()


async def test_a_position_that_was_rolled_back_holds_nothing_up_nor_does_a_transaction_of_another_table(
    postgres_url, serve
):
    lost, kept = new_event("lost"), new_event("kept")
    plain = postgres_url.replace("postgresql+asyncpg", "postgresql")
    async with serve(postgres_url) as app:
        first, second = await asyncpg.connect(plain), await asyncpg.connect(plain)
        other = second.transaction()
        await other.start()
        await second.execute("DELETE FROM undispatched WHERE false")
        await second.execute("SELECT pg_current_xact_id()")
        transaction = first.transaction()
        await transaction.start()
        await _insert(first, lost)
        async with asyncio.timeout(PATIENCE):
            entering = asyncio.create_task(_enter(app))
            await asyncio.sleep(0.2)  # it waits for the transaction that may store an earlier event
            await transaction.rollback()
            manager, followed = await entering
        await _insert(first, kept)
        assert await followed.ids(1) == [str(kept.id)]
        await manager.__aexit__(None, None, None)
        await other.rollback()
        await first.close()
        await second.close()


async def _enter(app):
    manager = following(app, READER)
    return manager, await manager.__aenter__()


async def _insert(connection: asyncpg.Connection, event) -> None:
    fields = event._asdict()
    marks = ", ".join(f"${place + 1}" for place in range(len(fields)))
    statement = f"INSERT INTO events ({', '.join(fields)}) VALUES ({marks})"  # noqa: S608 - names of columns
    await connection.execute(statement, *fields.values())


async def test_since_begins_with_what_is_stored_and_goes_on_with_what_comes(app, store, monkeypatch):
    monkeypatch.setattr(stream, "PAGE", 2)
    now = datetime.now(UTC)
    await store("old", received_at=now - 2 * HOUR)
    ids = []
    for number in range(5):
        ids += await store(f"event {number}", received_at=now - timedelta(minutes=30 - number))
    async with following(app, READER, since=(now - HOUR).isoformat()) as followed:
        assert await followed.ids(5) == ids
        ids += await store("new")
        assert await followed.ids(1) == ids[5:]


async def test_a_reader_of_stored_events_resumes_where_it_was(app, store, monkeypatch):
    monkeypatch.setattr(stream, "PAGE", 1)
    now = datetime.now(UTC)
    ids = []
    for number in range(3):
        ids += await store(f"event {number}", received_at=now - timedelta(minutes=30 - number))
    since = (now - HOUR).isoformat()
    async with following(app, READER, since=since) as followed:
        assert await followed.ids(3) == ids
    blocks = followed.body.decode().split("\n\n")
    first = next(block.split("id: ")[1].split("\n")[0] for block in blocks if "data:" in block)
    ids += await store("late", received_at=now - timedelta(minutes=59))
    async with following(app, {**READER, "Last-Event-ID": first}, since=since) as followed:
        assert await followed.ids(3) == ids[1:]


async def test_a_page_does_not_wait_behind_the_requests_of_its_client(database_url, serve, store, monkeypatch):
    turns, begins, goes_on = Turns(receiving=lambda: False), asyncio.Event(), asyncio.Event()
    monkeypatch.setattr("app.application.Turns", lambda **_: turns)
    monkeypatch.setattr("app.api.turns.LONGEST_TURN", HOUR)
    now = datetime.now(UTC)
    ids = await store("event", received_at=now - timedelta(minutes=30))
    async with serve(database_url) as app:

        async def held(scope, receive, send):
            async def sent(message):
                if message["type"] == "http.response.start":
                    begins.set()
                    await goes_on.wait()
                await send(message)

            await app(scope, receive, sent)

        manager = following(held, READER, since=(now - HOUR).isoformat())
        entering = asyncio.create_task(manager.__aenter__())
        await begins.wait()
        end = await turns.begin("reader")
        waiting = [asyncio.create_task(turns.begin("reader")) for _ in range(3)]
        await asyncio.sleep(0)
        goes_on.set()
        followed = await entering
        end()
        (await waiting[0])()
        assert await followed.ids(1) == ids
        for each in waiting[1:]:
            (await each)()
        await manager.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ({"type": "ORDER_CREATE"}, [0]),
        ({"reference": "PRI2"}, [1]),
        ({"status": "quarantined"}, [2]),
        ({"client": "other"}, [0]),
        ({"q": "cancel"}, [1]),
        ({"q": "pri"}, [0, 1]),
    ],
)
async def test_the_filters_of_the_list_hold_for_what_comes_and_for_what_is_resumed(app, store, query, places):
    async with following(app, READER) as everything, following(app, READER, **query) as some:
        start = everything.last
        ids = await store("a", type="ORDER_CREATE", reference="PRI1", client="other")
        ids += await store("b", type="ORDER_CANCEL", reference="PRI2")
        ids += await store("c", status="quarantined", reason="400: not JSON")
        assert await everything.ids(3) == ids
        assert await some.ids(len(places)) == [ids[place] for place in places]
    async with following(app, {**READER, "Last-Event-ID": start}, **query) as some:
        assert await some.ids(len(places)) == [ids[place] for place in places]


async def test_a_place_of_another_history_goes_on_after_its_event(app, store, engine):
    """A backup was restored, or the table was emptied: positions are used again."""
    ids = await store("first", "second")
    async with following(app, {**READER, "Last-Event-ID": f"p999999999-{UUID(ids[0]).hex}"}) as followed:
        assert await followed.ids(1) == ids[1:]
    async with writing(engine) as connection:
        await connection.execute(delete(Event))
    ids = await store("third")
    async with following(app, {**READER, "Last-Event-ID": f"p999999999-{UUID(int=1).hex}"}) as followed:
        assert await followed.ids(1) == ids


@pytest.mark.parametrize("later", [1, 3, 5])
async def test_a_reader_gets_all_that_is_stored_after_the_table_was_emptied(app, store, engine, later):
    """SQLite uses positions again: the head's own position, or those before it and after it too."""
    async with following(app, READER) as followed:
        await store("first", "second", "third")
        await followed.ids(3)
        async with writing(engine) as connection:
            await connection.execute(delete(Event))
        ids = await store(*map(str, range(later)))
        assert await read_on(app, READER, followed, count=later) == ids


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("later", [1, 2, 3, 4])
async def test_a_reader_gets_all_that_a_standby_without_the_last_commits_stores(app, store, postgres_url, later):
    """It may give positions again that were given before."""
    async with following(app, READER) as followed:
        ids = await store("first")
        await followed.ids(1)
        lost = await store("second", "third")
        await followed.ids(2)
        plain = await asyncpg.connect(postgres_url.replace("postgresql+asyncpg", "postgresql"))
        async with plain.transaction():
            await plain.execute("DELETE FROM events WHERE id = ANY($1::uuid[])", lost)
            await plain.execute("SELECT setval('events_position', position) FROM events WHERE id = $1", UUID(ids[0]))
        await plain.close()
        ids = await store(*map(str, range(later)))
        assert await read_on(app, READER, followed, count=later) == ids


async def test_the_stream_does_not_begin_on_a_host_that_takes_no_writes(postgres_url, serve, monkeypatch):
    """A standby may lag, and does not know which transactions may still store events."""
    monkeypatch.setattr(feed, "READY_WITHIN", 0.5)
    admin = await asyncpg.connect(postgres_url.replace("postgresql+asyncpg", "postgresql"))
    async with serve(postgres_url) as app:
        await admin.execute("ALTER DATABASE priohook_test SET default_transaction_read_only = on")
        try:
            async with following(app, READER) as followed:
                assert followed.status == 503
        finally:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute("ALTER DATABASE priohook_test RESET default_transaction_read_only")
            await admin.close()


async def test_a_deleted_event_before_the_last_one_changes_nothing_for_readers(app, store, engine):
    async with following(app, READER) as followed:
        ids = await store("first", "second")
        assert await followed.ids(2) == ids
        async with writing(engine) as connection:
            await connection.execute(delete(Event).where(Event.id == UUID(ids[0])))
        ids = await store("third")
        assert await followed.ids(1) == ids
        assert not followed.ended.is_set()


async def test_readers_stay_where_they_are_when_the_file_is_written_anew(sqlite_url, serve):
    """SQLite promises no rowids across a VACUUM."""
    async with serve(sqlite_url) as app, engine_for(sqlite_url) as engine:
        async with following(app, READER) as followed:
            rows = [new_event(str(number)) for number in range(5)]
            async with writing(engine) as connection:
                await connection.execute(insert(Event), [row._asdict() for row in rows])
            await followed.ids(5)
            async with writing(engine) as connection:
                await connection.execute(delete(Event).where(Event.id.in_([row.id for row in rows[:2]])))
            async with engine.connect() as connection:
                await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM"))
            later = [new_event(f"later {number}") for number in range(4)]
            async with writing(engine) as connection:
                await connection.execute(insert(Event), [row._asdict() for row in later])
            ids = await read_on(app, READER, followed, count=4)
        assert ids == [str(row.id) for row in later]


async def test_a_slow_reader_is_cut_off_and_resumes_without_a_gap(app, store, monkeypatch):
    monkeypatch.setattr(feed, "MOST_WAITING", 2)
    async with following(app, READER) as slow, following(app, READER) as quick:
        slow.reads.clear()
        ids = []
        for number in range(6):
            ids += await store(f"event {number}")
            await quick.ids(1)
        slow.reads.set()
        async with asyncio.timeout(PATIENCE):
            await slow.ended.wait()
        events = [block for block in await slow.blocks() if "data" in block]
        assert len(events) < 6
    async with following(app, {**READER, "Last-Event-ID": slow.last}) as followed:
        assert await followed.ids(6 - len(events)) == ids[len(events) :]


async def test_a_heartbeat_says_how_far_the_stream_has_come(app, store, monkeypatch):
    monkeypatch.setattr(stream, "HEARTBEAT", timedelta(seconds=0.2))
    async with following(app, READER, type="NOTHING") as followed, following(app, READER) as everything:
        await store("first")
        await everything.ids(1)
        async with asyncio.timeout(PATIENCE):
            while followed.last != everything.last:
                await followed.blocks()
    assert b"\n\n:\nid: " in followed.body


async def test_more_clients_than_there_is_room_for_get_503(app, monkeypatch):
    monkeypatch.setattr(feed, "MOST_LISTENERS", 1)
    async with following(app, READER), following(app, READER) as second:
        assert second.status == 503
    async with following(app, READER) as third:
        assert third.status == 200


async def test_one_client_cannot_take_all_places(app, monkeypatch):
    monkeypatch.setattr(feed, "MOST_OF_CLIENT", 1)
    async with following(app, READER), following(app, READER) as second:
        assert second.status == 503
        async with following(app, bearer_header("operator")) as other:
            assert other.status == 200


async def test_the_stream_ends_when_its_token_does(app):
    token = issue(
        "reader",
        frozenset([Scope.READ]),
        keys=[TOKEN_KEY.encode()],
        lifetime=timedelta(seconds=1),
        token_id="1",
        now=datetime.now(UTC),
    )
    async with following(app, {"Authorization": f"Bearer {token}"}) as followed:
        async with asyncio.timeout(PATIENCE):
            await followed.ended.wait()


@pytest.mark.parametrize("place", ["1", "p1", "x1-" + "0" * 32, "p-1-" + "0" * 32, "p" + "9" * 19 + "-" + "0" * 32])
async def test_an_invalid_last_event_id_is_400(app, place):
    async with following(app, {**READER, "Last-Event-ID": place}) as followed:
        assert followed.status == 400
        assert b"Last-Event-ID" in followed.body


async def test_head_is_answered_at_once(client):
    reply = await client.head("/api/events/stream", headers=READER)
    assert (reply.status_code, reply.headers["cache-control"]) == (200, "no-store")


async def test_ten_clients_cost_as_many_looks_as_one(app, store, monkeypatch):
    found = 0
    before = positions.stored_after

    async def counted(connection: Any, position: int, **named: Any) -> Any:
        nonlocal found
        rows = await before(connection, position, **named)
        found += any((row.position or 0) > position + 1 for row in rows)
        return rows

    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(following(app, READER)) for _ in range(10)]
        # The first position after an empty table is looked at twice: earlier ones may still come.
        for key in ("first", "second"):
            ids = await store(key)
            for reader in readers:
                assert await reader.ids(1) == ids
            monkeypatch.setattr(feed, "stored_after", counted)
    assert found == 1

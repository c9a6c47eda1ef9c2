"""A receiver on SQLite whose file is moved to PostgreSQL; here the next database is another SQLite file."""

import asyncio
import io
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.application import create_app
from app.database.columns import Base
from app.database.engines import engine_for, sqlite_path
from app.database.health import Health
from app.database.leaving import FRESH, Move, Phase
from app.events.handover import Handover
from app.events.store import EventStore, StoreFull, StoreUnavailable
from app.receiver.following import following
from app.settings.clients import Scope
from app.settings.model import Settings
from app.telemetry.logs import LogWriter
from app.transfer.columns import moving_tables
from app.transfer.source import Source
from tests.conftest import CLIENTS, TOKEN_KEY, WEBHOOK, basic_header, bearer_header, payload
from tests.events.stores import TIMEOUT, new_event, running, writer_for

MOST, MOST_BYTES = 5, 100_000


@pytest.fixture
def handover() -> Handover:
    return Handover(most=MOST, most_bytes=MOST_BYTES, timeout=TIMEOUT)


@pytest.fixture
def next_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    shutil.copy(migrated_sqlite, tmp_path / "next.db")
    return f"sqlite+aiosqlite:///{tmp_path / 'next.db'}"


@asynccontextmanager
async def leaving(url: str, handover: Handover | None, health: Health | None = None) -> AsyncIterator[EventStore]:
    store = EventStore(
        writer_for(url),
        max_batch=2,
        max_waiting=100,
        max_waiting_bytes=1_000_000,
        timeout=TIMEOUT,
        successor=handover,
        health=health,
    )
    async with store.running():
        yield store


@pytest.fixture
def source(sqlite_url: str) -> Any:
    with closing(Source(sqlite_url, moving_tables(Base.metadata))) as source:
        source.begin("a-move", target="postgresql://host/db", url="postgresql://nobody@127.0.0.1:1/db")
        yield source


@pytest.fixture
def moved(source: Source) -> Callable[[], None]:
    return lambda: mark_moved(source)


def mark_moved(source: Source) -> None:
    """Waits for the file's lock: in a thread of its own where a receiver of this process may hold it."""
    with source.writing():
        source.mark_moved()


@asynccontextmanager
async def receiving(url: str, handover: Handover, health: Health) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a receiver on this file."""
    settings = Settings.model_validate(
        {
            "database_url": url,
            "clients": CLIENTS,
            "token_keys": [TOKEN_KEY],
            "destinations": {"erp": {"url": "http://127.0.0.1:1/"}},
        }
    )
    app = create_app(settings, log=LogWriter(io.StringIO(), style="json"), known=health, handover=handover)
    async with app.lifespan_context(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        transport = httpx2.ASGITransport(with_state)
        async with httpx2.AsyncClient(transport=transport, base_url="http://priohook") as client:
            yield client


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.01)


async def test_events_that_come_after_the_switch_wait_and_go_to_the_next_database(
    sqlite_url, next_url, handover, moved
):
    health = Health()
    async with leaving(sqlite_url, handover, health) as store:
        await store.append(new_event("before"))
        moved()
        events = [new_event(f"after-{number}") for number in range(4)]
        waiting = [asyncio.create_task(store.append(event)) for event in events]
        await until(lambda: handover.active)
        last = new_event("last")
        waiting.append(asyncio.create_task(store.append(last)))
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
        async with running(next_url) as next_store:
            handover.follow(next_store, next_url)
            stored = await asyncio.gather(*waiting)
            later = await store.append(new_event("later"))
    assert [each.id for each in stored] == [event.id for event in (*events, last)]
    assert health.problem is None
    with closing(sqlite3.connect(sqlite_path(next_url))) as connection:
        assert len(connection.execute("SELECT id FROM events").fetchall()) == len(stored) + 1
        assert connection.execute("SELECT count(*) FROM events WHERE id = ?", (later.id.bytes,)).fetchone() == (1,)


async def test_a_copy_that_comes_after_the_switch_goes_to_the_next_database_too(sqlite_url, next_url, handover, moved):
    async with leaving(sqlite_url, handover) as store:
        await store.append(new_event("again"))
        moved()
        waiting = asyncio.create_task(store.append(new_event("again")))
        await until(lambda: handover.active)
        async with running(next_url) as next_store:
            handover.follow(next_store, next_url)
            assert not (await waiting).duplicate  # here nothing was copied


async def test_a_receiver_without_events_notices_the_switch_too(sqlite_url, handover, moved):
    async with leaving(sqlite_url, handover, Health()):
        moved()
        await until(lambda: handover.active)


async def test_a_store_that_closes_still_hands_on_what_comes_late(sqlite_url, next_url, handover, moved):
    async with running(next_url) as next_store:
        async with leaving(sqlite_url, handover) as store:
            moved()
            handover.follow(next_store, next_url)
        event = new_event("late")
        assert (await store.append(event)).id == event.id


async def test_what_the_store_of_the_file_finds_out_late_goes_to_the_next_database(
    sqlite_url, next_url, handover, moved
):
    async with running(next_url) as next_store, leaving(sqlite_url, handover) as store:
        store.hold()
        event = new_event("late")
        waiting = asyncio.create_task(store.append(event))
        await asyncio.sleep(0)
        moved()
        handover.follow(next_store, next_url)
        store.resume()
        assert (await waiting).id == event.id


async def test_too_many_do_not_wait(handover):
    handover.take([])
    waiting = [asyncio.create_task(handover.append(new_event(str(number)))) for number in range(MOST)]
    await asyncio.sleep(0)
    with pytest.raises(StoreFull):
        await handover.append(new_event("one more"))
    for each in waiting:
        each.cancel()


async def test_too_many_bytes_do_not_wait(handover):
    handover.take([])
    large = new_event("large")._replace(body=b"x" * MOST_BYTES)
    waiting = asyncio.create_task(handover.append(large))
    await asyncio.sleep(0)
    with pytest.raises(StoreFull):
        await handover.append(new_event("one more"))
    waiting.cancel()


async def test_an_event_that_has_waited_too_long_makes_room_for_others():
    handover = Handover(most=MOST, most_bytes=MOST_BYTES, timeout=timedelta(0))
    handover.take([])
    for number in range(3):
        large = [new_event(f"{number}-{half}")._replace(body=b"x" * (MOST_BYTES // 2)) for half in range(2)]
        replies = await asyncio.gather(*map(handover.append, large), return_exceptions=True)
        assert list(map(type, replies)) == [StoreUnavailable] * 2


async def test_a_receiver_that_cannot_open_the_next_database_is_not_ready(sqlite_url, handover, moved):
    health = Health()
    async with receiving(sqlite_url, handover, health) as client:
        assert health.is_ready
        await asyncio.to_thread(moved)
        await until(lambda: not health.is_ready)
        assert "cannot be opened" in str(health.problem)
        token = bearer_header("operator", Scope.READ, Scope.REPLAY)
        refused = await client.post("/api/destinations/erp/pause", headers=token, json={})
        assert (refused.status_code, "moved to PostgreSQL" in refused.text) == (503, True)


async def test_a_receiver_goes_on_with_the_new_database(sqlite_url, postgres_url, handover):
    with closing(Source(sqlite_url, moving_tables(Base.metadata))) as source:
        source.begin("a-move", target="postgresql://host/db", url=postgres_url)
        async with asyncio.timeout(60), receiving(sqlite_url, handover, Health()) as client:
            await asyncio.to_thread(source.rest, resting=True)
            await until(lambda: handover.resting)
            await asyncio.to_thread(mark_moved, source)
            reply = await client.post(WEBHOOK, content=payload("01-notification-order-create"), headers=basic_header())
            assert reply.status_code == 200
            assert (handover.url, handover.resting) == (postgres_url, False)
            listed = await client.get("/api/events", headers=bearer_header())
            assert [event["id"] for event in listed.json()["events"]] == [reply.headers["Event-Id"]]


async def test_a_file_that_cannot_be_closed_well_does_not_close_the_new_database(sqlite_url, next_url, handover):
    before = AsyncExitStack()

    @before.callback
    def fails() -> None:
        raise RuntimeError

    @asynccontextmanager
    async def opened(settings: Settings) -> AsyncIterator[Any]:
        async with running(settings.database_url) as store:
            yield {"events": store}

    settings = Settings.model_validate({"database_url": sqlite_url})
    with closing(Source(sqlite_url, moving_tables(Base.metadata))) as source:
        source.begin("a-move", target="another file", url=next_url)
        with source.writing():
            source.mark_moved()
    async with following(handover, settings, opened, Health(), before=before, told=()):
        await until(lambda: handover.url is not None)
        for _ in range(10):
            await asyncio.sleep(0)
        event = new_event("late")
        assert (await handover.append(event)).id == event.id


async def test_a_receiver_that_comes_too_late_for_the_url_of_the_new_database_is_not_ready(
    sqlite_url, handover, source
):
    health = Health()
    async with receiving(sqlite_url, handover, health) as client:

        def end() -> None:
            with source.writing():
                source.mark_moved()
                source._connection.execute("UPDATE priohook_move SET url = NULL")  # noqa: SLF001 - at the same moment

        await asyncio.to_thread(end)
        await until(lambda: not health.is_ready)
        reply = await client.get("/readyz")
        assert "Restart it" in reply.text
        assert "host" not in reply.text


async def test_who_waits_too_long_is_told():
    handover = Handover(most=MOST, most_bytes=MOST_BYTES, timeout=timedelta(0))
    handover.take([])
    with pytest.raises(StoreUnavailable):
        await handover.append(new_event("late"))


async def test_without_a_next_database_events_are_refused_and_readiness_says_why(sqlite_url, moved):
    health = Health()
    async with leaving(sqlite_url, None, health) as store:
        moved()
        with pytest.raises(StoreUnavailable):
            await store.append(new_event("after"))
        assert health.problem == "All that was in this SQLite file was moved to PostgreSQL."


async def test_a_receiver_that_cannot_use_the_next_database_says_so_while_deliveries_rest(sqlite_url, handover, source):
    handover.name = "a-receiver"
    async with engine_for(sqlite_url) as engine:
        looking = asyncio.create_task(handover.until_moved(engine))
        source.rest(resting=True)
        with closing(sqlite3.connect(sqlite_path(sqlite_url))) as connection:

            def said() -> list[Any]:
                return connection.execute("SELECT * FROM priohook_move_receivers").fetchall()

            await until(lambda: bool(said()))
            ((name, problem),) = said()
        assert name == "a-receiver"
        assert "CannotConnect" in problem
        assert handover.resting
        source.rest(resting=False)
        await until(lambda: not handover.resting)
        looking.cancel()
        await asyncio.wait([looking])


async def test_a_receiver_tries_each_url_though_it_could_use_the_one_before(sqlite_url, postgres_url, handover, source):
    async with engine_for(sqlite_url) as engine:
        looking = asyncio.create_task(handover.until_moved(engine))

        def said() -> set[str | None]:
            with closing(sqlite3.connect(sqlite_path(sqlite_url))) as connection:
                return {problem for (problem,) in connection.execute("SELECT problem FROM priohook_move_receivers")}

        source.begin("a-move", target="postgresql://host/db", url=postgres_url)
        source.rest(resting=True)
        await until(lambda: said() == {None})
        source.begin("a-move", target="postgresql://host/db", url=postgres_url)
        assert said() == {None}
        source.begin("a-move", target="postgresql://host/db", url="postgresql://nobody@127.0.0.1:1/db")
        source.rest(resting=True)
        await until(lambda: bool(said() - {None}))
        looking.cancel()
        await asyncio.wait([looking])


def test_deliveries_rest_no_longer_than_the_command_lives():
    move = Move("a-move", "postgresql://host/db", None, Phase.RESTING, beat_at=1000.0)
    assert move.rests(now=lambda: 1000.0 + FRESH / 2)
    assert not move.rests(now=lambda: 1000.0 + FRESH)
    assert not move.rests(now=lambda: 1000.0 - FRESH)

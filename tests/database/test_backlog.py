import asyncio
import os
from pathlib import Path
from signal import SIGKILL

import pytest

from app.database.backlog import Backlog
from app.database.engines import engine_for, sqlite_path
from app.database.writing import Courtesy, writing
from tests.events.stores import locked, new_event, running

HELD = 10.0  # seconds


async def rests(courtesy: Courtesy) -> bool:
    """Whether the next turn is put off."""
    try:
        async with asyncio.timeout(0.2), courtesy.turn():
            return False
    except TimeoutError:
        return True


@pytest.mark.parametrize("waiting", [True, False])
async def test_a_writer_rests_after_its_turn_while_events_wait_and_only_then(sqlite_url, waiting):
    backlog, courtesy = Backlog(sqlite_path(sqlite_url)), Courtesy(sqlite_url)
    backlog.tell(1)
    backlog.tell(int(waiting))
    courtesy.held(HELD)
    assert await rests(courtesy) is waiting
    backlog.close()


async def test_a_writer_that_waited_long_for_its_turn_does_not_rest_when_no_events_wait(sqlite_url):
    courtesy = Courtesy(sqlite_url)

    async def write() -> None:
        async with engine_for(sqlite_url) as engine, writing(engine, courtesy=courtesy):
            pass

    async with locked(sqlite_url):
        writes = asyncio.create_task(write())
        await asyncio.sleep(0.1)  # it waits for the lock now
    await writes
    assert not await rests(courtesy)


async def test_a_store_says_that_events_wait_while_they_do(sqlite_url):
    seen = Backlog(sqlite_path(sqlite_url))
    async with running(sqlite_url, max_batch=1) as store:
        await store.append(new_event("alone"))
        assert not seen.is_told()
        async with locked(sqlite_url):
            events = [asyncio.create_task(store.append(new_event(str(number)))) for number in range(20)]
            await asyncio.sleep(0)
        await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        assert seen.is_told()
        await asyncio.gather(*events)
        await store.append(new_event("last"))
        assert not seen.is_told()


def test_events_of_a_receiver_that_was_killed_wait_no_more(tmp_path: Path):
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        Backlog(tmp_path / "priohook.db").tell(1)
        os.write(told, b"1")
        os.read(ready, 1)  # nothing more comes
        os._exit(0)
    os.read(ready, 1)
    backlog = Backlog(tmp_path / "priohook.db")
    assert backlog.is_told()
    os.kill(child, SIGKILL)
    os.waitpid(child, 0)
    assert not backlog.is_told()
    os.close(ready)
    os.close(told)

import asyncio
from signal import SIGKILL

import pytest

from tests import postgres
from tests.e2e.conftest import configured, dial, migrate, new_event, request
from tests.e2e.load import Load, allow_open_files, post_until_it_ends, stored

CONNECTIONS = 1000
KILL_AFTER = 2500  # answers


def assert_nothing_acknowledged_is_lost(load: Load, rows: list[tuple[str, bytes]]) -> None:
    """Each body that got its 200 is there once, byte for byte, under the id that it was told."""
    bodies = [body for _, body in rows]
    assert len(load.accepted) >= KILL_AFTER
    assert load.accepted.items() <= dict(rows).items()
    assert len(set(bodies)) == len(bodies)
    assert set(bodies) <= load.sent


async def killed_under_load(server) -> Load:
    allow_open_files()
    load = await post_until_it_ends(
        server.address, connections=CONNECTIONS, after=KILL_AFTER, then=lambda: server.signal(SIGKILL)
    )
    assert await asyncio.to_thread(server.wait) == -SIGKILL
    return load


async def test_kill_9_loses_no_event_that_got_its_200_on_sqlite(serve, tmp_path):
    settings = configured(f"sqlite+aiosqlite:///{tmp_path / 'priohook.db'}")
    load = await killed_under_load(serve(**settings))
    serve(**settings).end()  # what the log of the killed process holds is taken over by the next
    assert_nothing_acknowledged_is_lost(load, await stored(settings["database_url"]))


@pytest.fixture
def durable():
    with postgres.server(durable=True) as running:
        yield running


async def test_kill_9_of_both_loses_no_event_that_got_its_200_on_postgresql(serve, durable):
    await asyncio.to_thread(migrate, durable.url())
    load = await killed_under_load(serve(**configured(durable.url())))
    durable.kill()
    durable.start()
    assert_nothing_acknowledged_is_lost(load, await stored(durable.url()))


def test_after_kill_9_the_next_start_serves_from_the_same_file(serve):
    first = serve()
    first.signal(SIGKILL)
    first.wait()
    settings = configured("sqlite+aiosqlite:///priohook.db")
    with dial(serve(**settings)) as wire:
        assert wire.send(request(new_event())).reply().status == 200

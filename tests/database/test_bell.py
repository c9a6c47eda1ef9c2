import asyncio
from socket import AF_UNIX, SOCK_DGRAM, socket

import pytest

from app.database.bell import listening, ring

PATIENCE = 60  # seconds; a busy machine may need some of them


@pytest.mark.parametrize("folder", [".", "long" * 40])
async def test_a_ring_is_heard_with_what_it_says(tmp_path, folder):
    database = tmp_path / folder / "priohook.db"
    database.parent.mkdir(exist_ok=True)
    heard: asyncio.Queue[int | None] = asyncio.Queue()
    with listening(database, heard.put_nowait):
        ring(database, 37)
        ring(database)
        async with asyncio.timeout(PATIENCE):
            assert [await heard.get(), await heard.get()] == [37, None]


async def test_a_ring_through_a_link_to_the_file_is_heard(tmp_path):
    database, link = tmp_path / "priohook.db", tmp_path / "link.db"
    database.touch()
    link.symlink_to(database)
    heard = asyncio.Event()
    with listening(link, lambda _: heard.set()):
        ring(database)
        async with asyncio.timeout(PATIENCE):
            await heard.wait()


async def test_to_ring_is_nothing_while_nobody_listens(tmp_path):
    database = tmp_path / "priohook.db"
    ring(database)
    with listening(database, print):
        pass
    ring(database)
    assert not list(tmp_path.iterdir())


async def test_to_ring_never_waits_for_a_listener_that_hangs(tmp_path):
    database = tmp_path / "priohook.db"
    with listening(database, print):
        for _ in range(10_000):  # more than the system keeps
            ring(database)


async def test_the_bell_of_a_worker_that_was_killed_is_replaced(tmp_path):
    database = tmp_path / "priohook.db"
    with socket(AF_UNIX, SOCK_DGRAM) as left:
        left.bind(f"{database}-bell")
    heard = asyncio.Event()
    with listening(database, lambda _: heard.set()):
        ring(database)
        async with asyncio.timeout(PATIENCE):
            await heard.wait()


def mode(path):
    return path.stat().st_mode & 0o777


async def test_nobody_but_the_owner_can_ring(tmp_path):
    database = tmp_path / "priohook.db"
    with listening(database, print):
        assert mode(tmp_path / "priohook.db-bell") == 0o600

import asyncio
import os
from pathlib import Path
from signal import SIGKILL, SIGTERM
from time import monotonic, sleep

import pytest

from tests.e2e.conftest import ENDS_WITHIN, configured, dial, migrate, request
from tests.e2e.load import post_until_it_ends, stored
from tests.e2e.test_shutdown import children, wait_until_closed
from tests.e2e.test_streams import started, until

LONG_ENOUGH = 2.5  # seconds; a process that ends sooner is taken for one that cannot start


@pytest.fixture
def migrated_url(empty_postgres_url) -> str:
    migrate(empty_postgres_url)
    url: str = empty_postgres_url
    return url


def both_answer(server) -> None:
    """Waits until each of two processes has answered; the first part of a request's id names the process."""
    names: set[str] = set()
    limit = monotonic() + 20
    while len(names) < 2:
        assert monotonic() < limit
        with dial(server) as wire:
            reply = wire.send(request(method="GET", target="/healthz")).reply(to="GET")
        names.add(reply.headers["x-request-id"][:12])


async def test_two_processes_share_a_port_and_end_together_with_all_they_answered_stored(serve, migrated_url):
    server = serve("--processes", "2", **configured(migrated_url))
    both_answer(server)
    load = await post_until_it_ends(server.address, connections=100, after=500, then=lambda: server.signal(SIGTERM))
    assert await asyncio.to_thread(server.wait) == 0
    rows = await stored(migrated_url)
    assert load.accepted.items() <= dict(rows).items()


def test_a_process_that_is_killed_is_replaced(serve, migrated_url):
    server = serve("--processes", "2", **configured(migrated_url))
    first = children(server.pid)
    sleep(LONG_ENOUGH)
    os.kill(min(first), SIGKILL)
    limit = monotonic() + 10
    while children(server.pid) <= first and monotonic() < limit:
        sleep(0.05)
    assert len(children(server.pid) - first) == 1
    with dial(server) as wire:
        assert wire.send(request(method="GET", target="/healthz")).reply(to="GET").status == 200
    server.signal(SIGTERM)
    assert server.wait() == 0


def test_an_orphan_is_taken_in_and_ends_nothing(serve, migrated_url):
    server = serve("--processes", "2", with_worker=True, inherits_orphans=True, **configured(migrated_url))
    both_answer(server)
    (first,) = [child for child in children(server.pid) if children(child)]
    (worker,) = children(first)
    sleep(LONG_ENOUGH)
    os.kill(first, SIGKILL)
    until(lambda: not Path(f"/proc/{worker}").exists())
    both_answer(server)
    assert server.end() == 0


def test_a_replacement_that_dies_young_is_replaced_later(serve, migrated_url):
    server = serve("--processes", "2", **configured(migrated_url))
    sleep(LONG_ENOUGH)
    first = children(server.pid)
    os.kill(min(first), SIGKILL)
    until(lambda: len(children(server.pid) - first) == 1)
    (young,) = children(server.pid) - first
    os.kill(young, SIGKILL)
    until(lambda: len(children(server.pid) - first - {young}) == 1)
    both_answer(server)
    assert server.end() == 0


def test_a_signal_that_comes_before_a_process_handles_it_ends_all_with_0(tmp_path, migrated_url):
    arguments = ("serve", "--no-worker", "--port", "0", "--processes", "4")
    with started(tmp_path, "", *arguments, **configured(migrated_url)) as process:
        until(lambda: children(process.pid) or process.poll() is not None)
        process.send_signal(SIGTERM)
        assert process.wait(ENDS_WITHIN) == 0


def test_the_processes_end_when_the_one_that_forked_them_is_killed(serve, migrated_url):
    server = serve("--processes", "2", **configured(migrated_url))
    server.signal(SIGKILL)
    server.wait()
    wait_until_closed(server)


def test_sqlite_takes_one_process(priohook):
    done = priohook("serve", "--processes", "2")
    assert done.returncode == 2
    assert "PostgreSQL" in done.stderr

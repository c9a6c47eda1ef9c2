import asyncio
from signal import SIGINT, SIGTERM
from time import monotonic, sleep

import pytest

from tests.e2e.conftest import configured, dial, new_event, request
from tests.e2e.load import post_until_it_ends, stored


async def test_sigterm_under_load_exits_0_and_every_200_is_stored(serve, database_url):
    server = serve(**configured(database_url))
    load = await post_until_it_ends(server.address, connections=200, after=1000, then=lambda: server.signal(SIGTERM))
    assert await asyncio.to_thread(server.wait) == 0
    rows = await stored(database_url)
    assert load.accepted.items() <= dict(rows).items()
    assert len(rows) == len({body for _, body in rows})
    assert "commit_failed" not in server.stderr
    assert "Traceback" not in server.stderr


async def test_a_request_half_read_at_sigterm_is_finished(serve, database_url):
    server = serve(**configured(database_url))
    event = new_event()
    sent = request(event)
    with dial(server) as wire:
        wire.send(sent[:-20])
        wait_until_read(server)
        server.signal(SIGTERM)
        wait_until_closed(server)
        reply = wire.send(sent[-20:]).reply()
        assert reply.status == 200
        assert wire.ended()
    assert await asyncio.to_thread(server.wait) == 0
    assert await stored(database_url) == [(reply.headers["event-id"], event)]


@pytest.mark.parametrize("signal", [SIGTERM, SIGINT])
def test_an_idle_server_ends_at_once_with_open_connections(serve, signal):
    server = serve()
    with dial(server) as idle, dial(server) as begun:
        begun.send(b"POST /webhooks/prioticket HTTP/1.1\r\n")
        wait_until_read(server)
        started = monotonic()
        server.signal(signal)
        assert idle.ended()
        assert begun.ended()
        assert server.wait() == 0
    assert monotonic() - started < 15  # `timeout_graceful_shutdown` is 16 s
    assert "Traceback" not in server.stderr


def wait_until_read(server) -> None:
    """Waits until the server has read all that was sent so far: it answers requests one by one in one thread."""
    with dial(server) as wire:
        wire.send(request(method="GET", target="/healthz")).reply()


def wait_until_closed(server) -> None:
    """Waits until the server accepts no new connection."""
    limit = monotonic() + 10
    while monotonic() < limit:
        try:
            with dial(server):
                sleep(0.01)
        except ConnectionRefusedError:
            return
    raise AssertionError("it still accepts connections")

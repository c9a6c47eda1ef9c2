import asyncio
import os
from pathlib import Path
from signal import SIGINT, SIGTERM
from time import monotonic, sleep

import pytest

from app.server.server import SAME_SIGNAL
from tests.e2e.conftest import Reply, Served, configured, dial, new_event, request
from tests.e2e.load import post_until_it_ends, stored
from tests.e2e.test_deliveries import consumer, delivering, everything_arrived  # noqa: F401
from tests.e2e.test_durability import readiness, state
from tests.e2e.test_worker_beside import lines, until


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


# With a delay


DELAY = "600"  # seconds, which no test waits for


@pytest.fixture
def delayed(serve, consumer, database_url):  # noqa: F811
    """`delayed(…)` is a receiver with a worker beside it, which was told to end by SIGTERM and accepts events still."""

    def start(*arguments: str, delay: str = DELAY) -> Served:
        settings = delivering(database_url, consumer, timeout=30) | {"shutdown_delay": delay}
        server: Served = serve(*arguments, with_worker=True, **settings)
        until(lambda: lines(server, "worker_started"))
        assert state(server) == "ready"
        server.signal(SIGTERM)
        return server

    return start


def post(server) -> Reply:
    with dial(server) as wire:
        return wire.send(request(new_event())).reply()


def ended_well(server) -> None:
    """Checks that the receivers and their worker have ended in good order."""
    assert server.wait() == 0
    assert [line["status"] for line in lines(server, "worker_ended")] == [0]
    assert "Traceback" not in server.stderr


@pytest.mark.parametrize(
    ("database_url", "processes", "signal"),
    [("sqlite", 1, SIGTERM), ("postgresql", 2, SIGINT)],
    indirect=["database_url"],
)
def test_after_sigterm_events_are_accepted_and_delivered_until_a_second_signal(
    delayed,
    consumer,  # noqa: F811
    processes,
    signal,
):
    server = delayed("--processes", str(processes))
    until(lambda: readiness(server) == 503)
    sleep(2 * SAME_SIGNAL)
    reply = post(server)
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    consumer.until(everything_arrived(consumer, [reply.headers["event-id"]]))
    server.signal(signal)
    ended_well(server)
    assert [line["seconds"] for line in lines(server, "receiver_leaves")] == [float(DELAY)] * processes


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_after_sigterm_a_receiver_ends_when_the_delay_is_over(delayed):
    began = monotonic()
    ended_well(delayed(delay="2"))
    assert monotonic() - began >= 2


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_one_signal_for_each_process_of_a_group_does_not_end_the_delay(delayed):
    server = delayed("--processes", "2")
    for child in children(server.pid):
        os.kill(child, SIGTERM)
    until(lambda: readiness(server) == 503)
    sleep(2 * SAME_SIGNAL)
    assert post(server).status == 200
    server.signal(SIGTERM)
    ended_well(server)


def wait_until_read(server) -> None:
    """Waits until the server has read all that was sent so far: it answers requests one by one in one thread."""
    with dial(server) as wire:
        wire.send(request(method="GET", target="/healthz")).reply()


def children(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


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

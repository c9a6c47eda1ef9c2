import asyncio
import io
import resource
import socket
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from signal import SIGTERM
from time import monotonic, sleep

import pytest
import uvicorn
from starlette.responses import Response
from uvicorn.server import ServerState

from app.server.connection import Protocol
from app.telemetry.logs import LogWriter
from tests.e2e.conftest import configured, dial, new_event, request

LARGE = b"x" * 12 * 1024 * 1024  # more than the systems' buffers take
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
GIVES_UP_WITHIN = 20.0  # seconds; a bound for a slow machine, never waited for


@asynccontextmanager
async def connected(patience: float):
    """A socket connected to a server with a large answer, and an event that is set when the server closes it."""
    config = uvicorn.Config(Response(LARGE), ws="none", lifespan="off", log_config=None, timeout_keep_alive=60)
    state = ServerState()
    let_go = asyncio.Event()

    class Bound(Protocol):
        paths = ()
        log = LogWriter(io.StringIO(), style="json")
        most_bytes = 10_000
        write_timeout = timedelta(seconds=patience)

        def connection_lost(self, exc):
            super().connection_lost(exc)
            let_go.set()

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Bound(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        peer.setblocking(False)
        await loop.sock_connect(peer, server.sockets[0].getsockname())
        yield peer, let_go
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("sent", [GET + b"\r\n", GET + b"Connection: close\r\n\r\n", (GET + b"\r\n") * 40])
async def test_a_peer_that_takes_no_answer_is_dropped(sent):
    async with connected(0.1) as (peer, let_go), asyncio.timeout(GIVES_UP_WITHIN):
        await asyncio.get_running_loop().sock_sendall(peer, sent)
        await let_go.wait()


async def test_a_peer_that_takes_its_answer_slowly_gets_all_of_it():
    async with connected(0.5) as (peer, _):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, GET + b"\r\n")
        taken = 0
        while taken < len(LARGE):
            taken += len(await loop.sock_recv(peer, 128 * 1024))
            await asyncio.sleep(0.01)


def test_strangers_who_take_nothing_do_not_delay_the_end(serve):
    server = serve()
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(dial(server)).send(
                request(method="GET", target="/openapi.json", authorization=None) * 200
            )
        with dial(server) as wire:
            wire.send(request(method="GET", target="/healthz")).reply()
        started = monotonic()
        server.signal(SIGTERM)
        assert server.wait() == 0
    assert monotonic() - started < 15  # `timeout_graceful_shutdown` is 16 s
    assert "Traceback" not in server.stderr


def test_a_waiting_connection_makes_room_for_a_new_one(serve, sqlite_url):
    server = serve(**configured(sqlite_url, max_connections="4"))
    with dial(server) as first, dial(server) as second:
        assert second.send(request(new_event())).reply().status == 200
        with dial(server) as third:
            assert third.send(request(new_event())).reply().status == 200
            with suppress(ConnectionResetError):
                assert first.ended()
            assert second.send(request(new_event())).reply().status == 200


def test_one_connection_too_many_gets_503_while_all_others_have_a_request_under_way(serve, sqlite_url):
    server = serve(**configured(sqlite_url, max_connections="4"))
    body = new_event()
    with dial(server) as first, dial(server) as second:
        for wire in (first, second):
            wire.send(request(b"", "Expect: 100-continue", length=len(body)))
            assert wire.reply().status == 100
        with dial(server) as third:
            reply = third.reply()
            assert (reply.status, reply.headers["retry-after"]) == (503, "10")
            assert third.ended()
        assert first.send(body).reply().status == 200


def test_it_accepts_again_after_it_had_no_open_file_left(serve):
    server = serve()
    files = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
    soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (files + 5, hard))
    with ExitStack() as stack:
        for _ in range(20):
            with suppress(OSError):
                stack.enter_context(dial(server)).send(b"GET")
        sleep(0.2)  # so that it fails to accept
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
    limit = monotonic() + GIVES_UP_WITHIN
    while True:
        try:
            with dial(server, timeout=2) as wire:
                assert wire.send(request(method="GET", target="/healthz")).reply().status == 200
                return
        except (OSError, ValueError):
            assert monotonic() < limit
            sleep(0.1)

import asyncio
import io
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import uvicorn
from starlette.responses import Response
from uvicorn.server import ServerState

from app.server.connection import HEAD_TIMEOUT, Protocol
from app.telemetry.logs import LogWriter

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Impatient(Protocol):
    paths = ()
    log = LogWriter(io.StringIO(), style="json")
    most_bytes = 10_000
    head_timeout = timedelta(seconds=0.2)


@asynccontextmanager
async def connected():
    """A connection to a server that waits for a head for a much shorter time than `HEAD_TIMEOUT`."""
    config = uvicorn.Config(Response(), ws="none", lifespan="off", log_config=None, timeout_keep_alive=1)

    def protocol() -> Impatient:
        return Impatient(config=config, server_state=ServerState(), app_state={})

    async with asyncio.timeout(HEAD_TIMEOUT.total_seconds() / 2):
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        writer.close()
        with suppress(ConnectionResetError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()


async def test_a_head_that_does_not_arrive_in_time_gets_408():
    async with connected() as (reader, writer):
        writer.write(GET[:-1])
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer
    assert b'"error":"REQUEST_TIMEOUT"' in answer


async def test_drops_of_a_head_do_not_prolong_its_time():
    async with connected() as (reader, writer):
        ended = asyncio.create_task(reader.read())
        writer.write(b"GET / HTTP/1.1\r\nA: ")
        while not ended.done():
            writer.write(b"b")
            await asyncio.sleep(0.04)
        with suppress(ConnectionResetError):  # where a drop came after the answer
            assert ended.result().startswith(b"HTTP/1.1 408 ")


async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word():
    async with connected() as (reader, _):
        assert await reader.read() == b""


async def test_the_head_of_a_second_request_has_the_same_time():
    async with connected() as (reader, writer):
        writer.write(GET)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(GET[:5])
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")


async def test_a_connection_may_be_idle_longer_between_two_requests():
    async with connected() as (reader, writer):
        for _ in range(2):
            writer.write(GET)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.3)


async def test_a_request_larger_than_any_that_can_be_accepted_ends_its_connection():
    async with connected() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" + b"x" * 15_000)
        with suppress(ConnectionResetError):
            await reader.read()
        assert reader.at_eof() or reader.exception()


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"


async def test_a_body_that_was_answered_early_does_not_keep_its_connection():
    async with connected() as (reader, writer):
        writer.write(POST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert ended.result() == b""


async def test_a_connection_whose_body_came_after_its_answer_is_closed_once_it_is_idle():
    async with connected() as (reader, writer):
        writer.write(POST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"x" * 100)
        await asyncio.sleep(0.3)
        writer.write(GET)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(POST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"x" * 100)
        assert await reader.read() == b""

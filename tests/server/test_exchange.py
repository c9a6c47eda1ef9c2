import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from app.server.exchange import Exchange

LENGTH = (b"content-length", b"2")


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, written: bytes) -> None:
        self.written.append(written)

    def close(self) -> None:
        self.closed = True


def exchange(transport: Transport, method: str = "POST") -> Exchange:
    connection: Any = SimpleNamespace(
        transport=transport,
        flow=FlowControl(transport),  # type: ignore[arg-type]
        logger=logging.getLogger(__name__),
        server_state=SimpleNamespace(default_headers=[(b"date", b"today")]),
        on_response_complete=lambda: None,
        loop=asyncio.get_running_loop(),
    )
    return Exchange(connection, {"method": method}, expects_continue=False, keep_alive=True)


async def answer(
    transport: Transport, *headers: tuple[bytes, bytes], bodies: list[bytes], method: str = "POST"
) -> None:
    opened = exchange(transport, method)
    await opened.send({"type": "http.response.start", "status": 200, "headers": headers})
    for number, body in enumerate(bodies, 1):
        await opened.send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})


async def test_an_answer_whose_length_is_known_is_one_write():
    transport = Transport()
    await answer(transport, LENGTH, bodies=[b"ok"])
    assert transport.written == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\n\r\nok"]


async def test_the_head_of_an_answer_of_unknown_length_waits_for_nothing():
    transport = Transport()
    await answer(transport, bodies=[])
    assert transport.written == [b"HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\n\r\n"]


async def test_a_body_of_unknown_length_is_chunked():
    transport = Transport()
    await answer(transport, bodies=[b"first", b"", b"second"])
    assert b"".join(transport.written[1:]) == b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n"


async def test_an_answer_to_head_has_no_body():
    transport = Transport()
    await answer(transport, LENGTH, bodies=[b"ok"], method="HEAD")
    assert b"".join(transport.written).endswith(b"content-length: 2\r\n\r\n")


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b", b"a\x7fb"])
async def test_a_header_that_could_be_read_as_two_is_not_sent(value):
    transport = Transport()
    with pytest.raises(RuntimeError, match="control character"):
        await answer(transport, (b"event-id", value), LENGTH, bodies=[b"ok"])
    assert transport.written == []


@pytest.mark.parametrize("body", [b"", b"o", b"okay"])
async def test_a_body_of_another_length_than_was_said_is_an_error(body):
    with pytest.raises(RuntimeError, match="Content-Length"):
        await answer(Transport(), LENGTH, bodies=[body])


async def test_an_answer_that_says_close_is_the_last_one():
    transport = Transport()
    await answer(transport, (b"connection", b"close"), LENGTH, bodies=[b"ok"])
    assert transport.closed

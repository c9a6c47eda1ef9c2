import asyncio
import socket
from contextlib import closing

import pytest

from app.deliveries.destinations.lookups import Lookup

SENT = 64 * 1024 * 1024  # bytes; more than the buffers of both ends hold


async def test_what_is_still_to_be_sent_when_a_connection_is_closed_never_arrives():
    loop = asyncio.get_running_loop()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        with closing(await Lookup(*listener.getsockname()).connected()) as connection:
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            sent = 0
            try:
                while sent < SENT:
                    sent += connection.send(b"x" * 65536)
            except BlockingIOError:
                pass  # all buffers are full
        received = 0
        with closing(accepted):
            try:
                async with asyncio.timeout(60):
                    while some := await loop.sock_recv(accepted, 1 << 20):
                        received += len(some)
            except ConnectionResetError:
                pass
    assert received < sent


async def test_a_name_that_cannot_be_looked_up_is_an_error_of_the_look_up():
    with pytest.raises(OSError, match="is not the name of a host"):
        await Lookup(f"{'a' * 64}.example", 9092).addresses()

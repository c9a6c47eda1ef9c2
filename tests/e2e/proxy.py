"""A TCP proxy that makes faults, such as those between a receiver and PostgreSQL."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

CHUNK = 64 * 1024
PARSE = re.compile(rb"P.{4}([^\0]*)\0\s*INSERT INTO events ", re.DOTALL)
"""The message that names the statement of a batch (PostgreSQL's protocol 3, "Message Formats")."""

BIND = re.compile(rb"B.{4}[^\0]*\0([^\0]*)\0", re.DOTALL)
"""The message with the values for a named statement. The command to execute it is sent along."""


GARBAGE = b"Z\x00\x00\x00\x05I" * 3
"""Messages that say that a server is ready, where none was asked."""


@asynccontextmanager
async def through_proxy(url: str) -> AsyncIterator[tuple[str, "Proxy"]]:
    """A PostgreSQL URL through a proxy."""
    port = url.rpartition("/")[0].rpartition(":")[2]
    async with Proxy(int(port)).running() as proxy:
        yield url.replace(f":{port}/", f":{proxy.port}/"), proxy


class Proxy:
    """Passes bytes on; use as `async with Proxy(port).running()`.

    Attributes:
        port: Where it listens.
        delay: Seconds that every answer is held back.
        refusing: Whether new connections are reset at once.
        losing_answers: Whether the answer to a batch is dropped and its connection reset. The server has committed, but
            the client cannot know.
        garbling: Bytes that are put before every answer, as a network or pooler does that mixes up answers.
        cutting_batches: Whether only half of a batch is passed on before its connection is reset.
        lost: How many answers were dropped so far.
        cut: How many batches were cut so far.
    """

    def __init__(self, target_port: int, *, target: str = "127.0.0.1", address: str = "127.0.0.1") -> None:
        self._target = (target, target_port)
        self.address = address
        self._open: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self.port = 0
        self.delay = 0.0
        self.refusing = False
        self.losing_answers = False
        self.garbling = b""
        self.cutting_batches = False
        self.lost = 0
        self.cut = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._connected, self.address, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.resume()
            self.refusing = True
            server.close()
            while self._open:
                self.reset()
                await asyncio.sleep(0.01)

    async def until_unused(self) -> None:
        """Waits until no connection is open any more."""
        while self._open:  # noqa: ASYNC110 - of tasks, of which none says when it was the last one
            await asyncio.sleep(0.01)

    def reset(self) -> None:
        """Resets every connection."""
        for writer in self._open:
            writer.transport.abort()

    def stall(self) -> None:
        """Passes nothing on until `resume`, but keeps connections open."""
        self._passing.clear()

    def resume(self) -> None:
        self._passing.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            await self._join(reader, writer)
        finally:
            writer.transport.abort()
            self._open.discard(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except ConnectionError:
            return
        self._open.add(to_server)
        batch = asyncio.Event()  # set while the client waits for the answer to a batch
        ways = (
            asyncio.create_task(self._requests(reader, to_server, batch)),
            asyncio.create_task(self._answers(from_server, writer, batch)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_server.transport.abort()
            self._open.discard(to_server)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, batch: asyncio.Event) -> None:
        statement = None
        with suppress(ConnectionError):
            while part := await reader.read(CHUNK):
                await self._passing.wait()
                if parsed := PARSE.match(part):
                    statement = parsed[1]
                if (bound := BIND.match(part)) and bound[1] == statement:
                    batch.set()
                    if self.cutting_batches:
                        writer.write(part[: len(part) // 2])
                        await writer.drain()
                        self.cut += 1
                        return
                writer.write(part)
                await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, batch: asyncio.Event) -> None:
        with suppress(ConnectionError):
            while part := await reader.read(CHUNK):
                if self.losing_answers and batch.is_set():
                    self.lost += 1
                    return
                batch.clear()
                await asyncio.sleep(self.delay)
                await self._passing.wait()
                writer.write(self.garbling + part)
                await writer.drain()

"""A consumer that answers 200 as fast as it can and notes when each event came; a thread of this process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic, sleep

import httptools

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Consumer:
    """What arrived.

    Attributes:
        url: Where it listens.
        arrivals: By event id, `monotonic()` of the first arrival, in the order of arrival.
    """

    def __init__(self) -> None:
        self.url = ""
        self.arrivals: dict[str, float] = {}

    def wait_for(self, count: int, *, within: float) -> bool:
        """Whether so many events have arrived in time."""
        ends = monotonic() + within
        while len(self.arrivals) < count and monotonic() < ends:
            sleep(0.01)
        return len(self.arrivals) >= count


@contextmanager
def consuming() -> Iterator[Consumer]:
    """A consumer that listens."""
    consumer = Consumer()
    listens, ended = Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        server = await loop.create_server(lambda: _Connection(consumer), "127.0.0.1", 0)
        consumer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        listens.set()
        await ended.wait()
        server.close()

    thread = Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    listens.wait()
    try:
        yield consumer
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


class _Connection(asyncio.Protocol):
    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server's
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"webhook-id":
            self._consumer.arrivals.setdefault(value.decode(), monotonic())

    def on_message_complete(self) -> None:
        self._transport.write(ANSWER)

"""A consumer that answers 200 as fast as it can and notes when each event came; a thread of this process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from time import monotonic, sleep

import httptools

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Consumer:
    """What arrived.

    Attributes:
        arrivals: By event id, `monotonic()` of the first arrival, in the order of arrival.
    """

    url: str

    def __init__(self) -> None:
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
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: _Connection(consumer.arrivals), "127.0.0.1", 0))
    consumer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield consumer
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


class _Connection(asyncio.Protocol):
    def __init__(self, arrivals: dict[str, float]) -> None:
        self._arrivals = arrivals
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # a TCP server's

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"webhook-id":
            self._arrivals.setdefault(value.decode(), monotonic())

    def on_message_complete(self) -> None:
        self._transport.write(ANSWER)

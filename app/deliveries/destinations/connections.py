"""Connections to one URL: each carries one request at a time, and is kept for a moment after its answer.

(made) ──▶ busy ──whole answer──▶ idle ──next request──▶ busy …
            │                      └──KEEP_ALIVE passed, unexpected bytes, closed by the other end──▶ (closed)
            └──anything else──▶ (closed)
"""

import asyncio
import socket
import ssl
import struct
from asyncio import TimerHandle, Transport
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple, cast

from app.deliveries.destinations.answers import AnswerError, AnswerReader
from app.deliveries.destinations.lookups import Lookup
from app.settings.urls import HTTPTarget

CONNECT_TIMEOUT = timedelta(seconds=5)
"""For the look-up of the name, the connection and TLS together."""

KEEP_ALIVE = timedelta(seconds=2)
"""Shorter than that of common servers. Otherwise they would close a connection just when the next attempt uses it."""

FINISHING = struct.pack("ii", 0, 0)
"""The usual value of SO_LINGER: what is still to be sent is sent, also after the connection was closed."""


class Answer(NamedTuple):
    """An answer: the status, the beginning of the body, and the value of `Retry-After`."""

    status: int
    body: bytes
    retry_after: str | None


class NoAnswer(Exception):
    """No status arrived; the request may have been processed or not. The text says why."""


class Broken(NoAnswer):
    """The connection ended."""


class TimedOut(NoAnswer):
    """Connecting or answering took too long."""


class Connections:
    """All connections to one URL."""

    def __init__(self, target: HTTPTarget) -> None:
        self._target = target
        self._idle: dict[_Connection, TimerHandle] = {}
        self._lookup = Lookup(target.host, target.port)
        self.certificate_until: datetime | None = None
        """The end of the certificate that the last connection met; None without TLS."""

    async def post(self, head: bytes, body: bytes, *, timeout: float) -> Answer:
        """Sends one request, and returns what arrived of the answer within `timeout` seconds.

        The other end may close a kept connection at any moment. If it breaks before a status arrives, the request is
        sent once more on a new connection.

        Raises:
            NoAnswer: no status arrived.
            OSError: no connection could be opened.
        """
        until = asyncio.get_running_loop().time() + timeout
        kept = self._kept()
        if kept is not None:
            with suppress(Broken):
                return await self._exchange(kept, head, body, until=until, timeout=timeout)
        return await self._exchange(await self._open(until, timeout), head, body, until=until, timeout=timeout)

    async def close(self) -> None:
        """Closes the idle connections."""
        while self._idle:
            connection, timer = self._idle.popitem()
            timer.cancel()
            connection.close()
        await asyncio.sleep(0)  # gives the loop a turn, in which it closes the sockets

    def _kept(self) -> "_Connection | None":
        while self._idle:
            connection, timer = self._idle.popitem()
            timer.cancel()
            if connection.usable:
                return connection
        return None

    async def _exchange(
        self, connection: "_Connection", head: bytes, body: bytes, *, until: float, timeout: float
    ) -> Answer:
        if asyncio.get_running_loop().time() > until:  # the process was held up: its claim may have run out
            connection.close()
            raise TimedOut(f"It could not be asked within {timeout:g} seconds.")
        try:
            async with asyncio.timeout_at(until):
                reader = await connection.exchange(head, body)
        except TimeoutError:
            reader = connection.reader
            if reader.status is None:
                raise TimedOut(f"It did not answer within {timeout:g} seconds.") from None
        finally:
            self._keep(connection)
        return Answer(cast("int", reader.status), bytes(reader.body), reader.retry_after)

    def _keep(self, connection: "_Connection") -> None:
        if not connection.usable:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.call_later(KEEP_ALIVE.total_seconds(), self._end, connection)

    def _end(self, connection: "_Connection") -> None:
        self._idle.pop(connection, None)
        connection.close()

    async def _open(self, until: float, timeout: float) -> "_Connection":
        loop = asyncio.get_running_loop()
        limit = CONNECT_TIMEOUT.total_seconds()
        connect_until = min(until, loop.time() + limit)
        try:
            async with asyncio.timeout_at(connect_until):
                opened = await self._lookup.connected()
                name = self._target.host if self._tls else None
                transport, connection = await loop.create_connection(
                    _Connection, sock=opened, ssl=self._tls, server_hostname=name
                )
                self.certificate_until = _end_of(transport.get_extra_info("peercert"))
                return connection
        except TimeoutError:
            within = min(limit, timeout)
            raise TimedOut(f"It could not be connected to within {within:g} seconds.") from None

    @cached_property
    def _tls(self) -> ssl.SSLContext | None:
        if not self._target.tls:
            return None
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


class _Connection(asyncio.Protocol):
    """One connection; busy from a request to the end of its answer."""

    def __init__(self) -> None:
        self.reader = AnswerReader()
        self._transport: Transport | None = None
        self._answered: asyncio.Future[AnswerReader] | None = None

    @property
    def usable(self) -> bool:
        """Whether another request can be sent on it."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and self.reader.reusable

    async def exchange(self, head: bytes, body: bytes) -> AnswerReader:
        """Sends a request and waits for its answer.

        Raises:
            Broken: the connection ended before a status arrived.
            NoAnswer: what arrived is not an HTTP answer.
        """
        self.reader = AnswerReader()
        if self._transport is None or self._transport.is_closing():
            raise Broken("It closed the connection before the request was sent.")
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.writelines((head, body))
        try:
            return await self._answered
        finally:
            self._answered = None

    def close(self) -> None:
        """Closes the connection at once, even if something is still to be sent."""
        if self._transport is None:
            return
        if self.reader.status is not None:  # the other end has the request, and gets an end instead of a reset
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, FINISHING)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast("Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Reads the answer; bytes that no request asked for end the connection."""
        if self._answered is None or self._answered.done():
            self.close()
            return
        try:
            if self.reader.feed(data):
                self._answered.set_result(self.reader)
        except AnswerError as error:
            self._answered.set_exception(NoAnswer(str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Takes what has arrived as the answer."""
        self._transport = None
        if self._answered is None or self._answered.done():
            return
        if self.reader.status is None:
            why = f": {exc}" if exc else ""
            self._answered.set_exception(Broken(f"It closed the connection before it answered{why}."))
        else:
            self._answered.set_result(self.reader)


def _end_of(certificate: dict[str, Any] | None) -> datetime | None:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC) if certificate else None

"""Destinations at `nats://` and `tls://`: events are published to a stream of JetStream. Needs the extra `nats`."""

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import ParseResult

from nats import errors
from nats.aio.client import Client
from nats.aio.transport import Transport
from nats.js.api import PubAck
from nats.js.errors import APIError, NoStreamResponseError

from app.deliveries.claims import Claim
from app.deliveries.destinations.brokers import Refused
from app.deliveries.destinations.connections import Broken
from app.deliveries.destinations.lookups import Lookup
from app.deliveries.destinations.names import name
from app.settings.brokers import BrokerTarget
from app.settings.model import DestinationSettings

LONG = 3600  # seconds; deadlines of the library's own, as ours are nearer
PING_EVERY = 20  # seconds; a connection is given up after two pings without an answer


class Link:
    """A connection to a NATS server with JetStream."""

    def __init__(self, settings: DestinationSettings, target: BrokerTarget, host: Lookup) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._subject = settings.subject or ""
        self._target = target
        self._host = host
        self._stream = _Stream(host, wants_tls=target.tls)
        self._client = Client()
        self._client._transport = self._stream  # noqa: SLF001 - it has no argument for this
        self._connected = False

    async def connect(self) -> None:
        host, target = self._host, self._target
        named = f"[{host.host}]" if ":" in host.host else host.host
        token = target.username if target.password is None else None
        try:
            await self._client.connect(
                f"nats://{named}:{host.port}",
                name="priohook",
                error_cb=self._noted,
                closed_cb=self._ended,
                allow_reconnect=False,
                connect_timeout=LONG,
                ping_interval=PING_EVERY,
                user=None if token else target.username,
                password=target.password,
                token=token,
            )
        except errors.Error as error:
            raise Refused(_told(error)) from None
        self._connected = True

    async def publish(self, claim: Claim, sent: Mapping[str, str], *, within: float) -> str:
        """Publishes the event, and returns its place in the stream.

        `Nats-Msg-Id` is the delivery's id: the same on every attempt, so that the stream keeps one of them, but another
        one of a replay and of another destination, which would be taken for repetitions otherwise.
        """
        subject = name(self._subject, event_type=claim.type, reference=claim.reference)
        marked = {"Nats-Msg-Id": str(claim.delivery_id), **sent}
        size = len("NATS/1.0\r\n\r\n") + sum(len(f"{key}: {value}\r\n".encode()) for key, value in marked.items())
        if size + len(claim.body) > self._client.max_payload:
            raise Refused(
                f"The message has {size + len(claim.body)} bytes with its headers, and the server takes "
                f"{self._client.max_payload}: raise max_payload there."
            )
        try:
            ack = await self._client.jetstream().publish(subject, claim.body, timeout=within, headers=marked)
        except NoStreamResponseError:
            raise Refused(f"No stream takes the subject {subject}: add it to the subjects of one.") from None
        except APIError as error:
            raise Refused(f"The stream does not take it: {error.description} ({error.err_code}).") from None
        except errors.TimeoutError:
            raise TimeoutError from None
        except errors.Error as error:
            raise Broken(_told(error)) from None
        except (ValueError, TypeError, AttributeError, KeyError):  # whatever its text does to the library
            raise Refused(f"Something other than JetStream answers at the subject {subject}.") from None
        return _place(ack)

    async def close(self) -> None:
        await self._client.close()

    def abort(self) -> None:
        self._stream.abort()

    async def _noted(self, error: Exception) -> None:
        """Ends what is under way: a server that complains, for example of a missing permission, confirms nothing.

        While it connects, the error that is raised here keeps the library from trying it for ever.
        """
        if not self._connected:
            raise error
        self._lose(error)

    async def _ended(self) -> None:
        self._lose(self._client.last_error)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost.done():
            said = None if isinstance(error, errors.UnexpectedEOF | OSError) else error
            self.lost.set_result(f"it said {_said(said)}." if said else "it closed the connection.")


class _Stream(Transport):
    """The bytes to and from a server: connects to the first address that answers, and keeps TLS from being left out."""

    def __init__(self, host: Lookup, *, wants_tls: bool) -> None:
        self._host = host
        self._wants_tls = wants_tls
        self._reader = asyncio.StreamReader()
        self._writer: asyncio.StreamWriter | None = None
        self._encrypted = False

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002
        opened = await self._host.connected()
        self._reader, self._writer = await asyncio.open_connection(sock=opened, limit=buffer_size)

    async def connect_tls(
        self,
        uri: str | ParseResult,  # noqa: ARG002
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002
        connect_timeout: int,  # noqa: ARG002
    ) -> None:
        await self._open.start_tls(ssl_context, server_hostname=self._host.host)
        self._encrypted = True

    def write(self, payload: bytes) -> None:
        if self._wants_tls and not self._encrypted:
            raise Refused("It offers no TLS, and nothing was sent to it: switch TLS on there, or use nats:// here.")
        self._open.write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        self._open.writelines(payload)

    async def read(self, buffer_size: int) -> bytes:
        return await self._reader.read(buffer_size)

    async def readline(self) -> bytes:
        """A line, while the client connects: it would take the end of the connection for an answer."""
        if line := await self._reader.readline():
            return line
        raise Broken("It closed the connection.")

    async def drain(self) -> None:
        await self._open.drain()

    async def wait_closed(self) -> None:
        """Does nothing: `abort` follows."""

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()

    def at_eof(self) -> bool:
        return self._reader.at_eof()

    def __bool__(self) -> bool:
        return True  # otherwise the client takes a transport of its own

    @property
    def _open(self) -> asyncio.StreamWriter:
        if self._writer is None:
            raise ConnectionError("It is not connected.")
        return self._writer


def _told(error: Exception) -> str:
    said = _said(error)
    if "authorization" in said.lower():
        return f"It does not accept the user and password, or the token, of the URL: {said}."
    return f"It said {said}."


def _said(error: Exception) -> str:
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__


def _place(ack: PubAck) -> str:
    return f"stream {ack.stream}, sequence {ack.seq}" + (", which it already had" if ack.duplicate else "")

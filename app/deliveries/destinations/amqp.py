"""Destinations at `amqp://` and `amqps://`: AMQP 0-9-1, as RabbitMQ speaks it. Needs the extra `amqp`."""

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import aiormq.abc
from aiormq import Connection
from aiormq.connection import TransportFactory
from aiormq.exceptions import (
    AMQPChannelError,
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    ConnectionClosed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.commands import Basic
from yarl import URL

from app.deliveries.claims import Claim
from app.deliveries.destinations.brokers import Refused
from app.deliveries.destinations.connections import Broken, TimedOut
from app.deliveries.destinations.lookups import Lookup
from app.deliveries.destinations.names import name
from app.settings.brokers import BrokerTarget
from app.settings.model import DestinationSettings

HEARTBEAT = 20  # seconds; a connection is given up after three of them without a sign of life
MOST_SHORT = 255  # bytes of a property
PERSISTENT = 2


class Link:
    """A connection to a broker, with one channel on which it confirms what it has taken."""

    def __init__(self, settings: DestinationSettings, target: BrokerTarget, host: Lookup) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._exchange = settings.exchange or ""
        self._routing_key = settings.routing_key or ""
        self._socket = _Socket(host, tls=target.tls)
        url = URL.build(
            scheme="amqp",
            user=target.username,
            password=target.password,
            host=host.host,
            port=host.port,
            query={"heartbeat": HEARTBEAT, "name": "priohook"},
        )
        self._connection = Connection(url, transport_factory=self._socket)
        self._connection.vhost = target.path or "/"
        self._channel: aiormq.abc.AbstractChannel

    async def connect(self) -> None:
        try:
            await self._connection.connect()
            self._channel = await self._connection.channel()
        except (AuthenticationError, ProbableAuthenticationError) as error:
            raise Refused(f"It does not accept the user and password of the URL: {_said(error)}.") from None
        except InvalidFrameError:
            raise Refused(f"It does not let us into its virtual host {self._connection.vhost}.") from None
        except (AMQPChannelError, ConnectionClosed) as error:
            raise Refused(f"It said {_said(error)}.") from None
        except AMQPError as error:
            raise Broken(f"It could not be connected to: {_said(error)}.") from None
        for closing in (self._connection.closing, self._channel.closing):
            closing.add_done_callback(self._lose)

    async def publish(self, claim: Claim, sent: Mapping[str, str], *, within: float) -> str:
        """Publishes the event; the broker must put it into a queue.

        `message_id` is the delivery's id. The library finds the message by it that the broker returns, so it must not
        be that of another message under way, as an event's would be while it is also replayed.
        """
        routing_key = name(self._routing_key, event_type=claim.type, reference=claim.reference)
        properties = Basic.Properties(
            delivery_mode=PERSISTENT,
            message_id=str(claim.delivery_id),
            content_type=_short(sent.get("Content-Type")),
            content_encoding=_short(sent.get("Content-Encoding")),
            timestamp=datetime.fromtimestamp(int(sent["webhook-timestamp"]), UTC),
            app_id="priohook",
            headers=dict(sent),
        )
        where = f"the exchange {self._exchange}" if self._exchange else "the default exchange"
        try:
            await self._channel.basic_publish(
                claim.body,
                exchange=self._exchange,
                routing_key=routing_key,
                properties=properties,
                mandatory=True,
                timeout=within,
            )
        except PublishError:
            bind = "bind one" if self._exchange else "declare the queue"
            raise Refused(f"No queue takes the routing key {routing_key} of {where}: {bind}.") from None
        except DeliveryError:
            raise Refused("A queue does not take it: it is full or not available. Consume its messages.") from None
        except AMQPChannelError as error:
            raise Refused(f"It said {_said(error)}.") from None
        except (AMQPError, ChannelInvalidStateError) as error:
            raise Broken(f"It did not confirm the message: {_said(error)}.") from None
        except TimeoutError:
            if await self._blocked():
                raise TimedOut("It takes nothing from anybody: free memory or disk space there.") from None
            raise
        return f"{where}, routing key {routing_key}"

    async def close(self) -> None:
        await self._connection.close()

    def abort(self) -> None:
        self._socket.abort()

    async def _blocked(self) -> bool:
        """Whether the broker has told us not to publish."""
        ready = asyncio.ensure_future(self._connection.ready())
        await asyncio.sleep(0)
        blocked = not ready.done()
        ready.cancel()
        return blocked

    def _lose(self, closing: "asyncio.Future[Any]") -> None:
        error = None if closing.cancelled() else closing.exception()
        if not self.lost.done():
            said = error if isinstance(error, AMQPError) and "unexpectedly closed" not in str(error) else None
            self.lost.set_result(f"it said {_said(said)}." if said else "it closed the connection.")


class _Socket(TransportFactory):
    """Connects to the first address that answers."""

    def __init__(self, host: Lookup, *, tls: bool) -> None:
        self._host = host
        self._tls = tls
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:  # noqa: ARG002
        reader, self._writer = await asyncio.open_connection(
            sock=await self._host.connected(),
            ssl=ssl.create_default_context() if self._tls else None,
            server_hostname=self._host.host if self._tls else None,
        )
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _short(text: str | None) -> str | None:
    """A header as a property too, if that may be as long."""
    return text if text is not None and len(text.encode()) <= MOST_SHORT else None


def _said(error: BaseException) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__

"""Destinations at `kafka://` and `kafka+ssl://`: each event is a record of a topic. Needs the extra `kafka`."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

import aiokafka.conn
from aiokafka import AIOKafkaProducer
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    BrokerResponseError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RequestTimedOutError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)

from app.deliveries.claims import Claim
from app.deliveries.destinations.brokers import Refused
from app.deliveries.destinations.connections import Broken, TimedOut
from app.deliveries.destinations.lookups import Lookup
from app.deliveries.destinations.names import name
from app.settings.brokers import BrokerTarget
from app.settings.model import DestinationSettings

OF_TIMEOUT = 0.8
"""The part of a destination's timeout that one request may take, so that the library's reason comes before our own."""

MOST_RECORD = 128 * 1024 * 1024
"""Bytes: more than any event has. The broker decides what is too much."""

STOPPING: set[asyncio.Task[None]] = set()
"""Keeps these tasks, which may go on for a while, from being forgotten."""

NOT_ACCEPTED = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)


class Link:
    """The connections to a cluster. Each record is confirmed by all replicas that are in sync."""

    def __init__(self, settings: DestinationSettings, target: BrokerTarget, host: Lookup) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # the library looks for another
        self._given_up = False
        self._stopping: asyncio.Task[None] | None = None
        self._topic = settings.topic or ""
        self._host = host
        signs_in = target.password is not None
        self._options: dict[str, Any] = {
            "client_id": "priohook",
            "request_timeout_ms": int(settings.timeout.total_seconds() * OF_TIMEOUT * 1000),
            "security_protocol": ("SASL_" if signs_in else "") + ("SSL" if target.tls else "PLAINTEXT"),
            "ssl_context": ssl.create_default_context() if target.tls else None,
            "sasl_mechanism": target.sasl if signs_in else "PLAIN",
            "sasl_plain_username": target.username,
            "sasl_plain_password": target.password,
        }
        named = f"[{host.host}]" if ":" in host.host else host.host
        aiokafka.conn.AIOKafkaConnection = _Connection  # it has no argument for this, nor for the next ones
        self._producer = AIOKafkaProducer(
            bootstrap_servers=f"{named}:{host.port}",
            acks="all",
            enable_idempotence=True,
            max_request_size=MOST_RECORD,
            **self._options,
        )
        self._connection_to = self._producer.client._get_conn  # noqa: SLF001
        self._producer.client._get_conn = self._connection  # noqa: SLF001

    async def connect(self) -> None:
        await self._host.addresses()  # at most one look-up at a time, however many attempts follow each other
        try:
            # The producer would say only that it cannot be started.
            trial = await create_conn(self._host.host, self._host.port, **self._options)
            trial.close()
            await self._producer.start()
        except NOT_ACCEPTED as error:
            raise Refused(f"It does not accept the user and password of the URL: {_said(error)}.") from None
        except (TimeoutError, KafkaTimeoutError, RequestTimedOutError):
            raise TimedOut(
                f"It did not answer within {self._options['request_timeout_ms'] / 1000:g} seconds."
            ) from None
        except KafkaError as error:
            raise Broken(f"It could not be connected to: {_said(error)}.") from None

    async def publish(self, claim: Claim, sent: Mapping[str, str], *, within: float) -> str:
        """Writes the record, and returns its place. Its key is the reference, so that an order has one partition.

        After a failure the library may have left a gap in the numbers that the broker checks, so it is not used again.
        """
        topic = name(self._topic, event_type=claim.type, reference=None, mark=".")
        try:
            async with asyncio.timeout(within):
                place = await self._producer.send_and_wait(
                    topic,
                    claim.body,
                    key=claim.reference.encode("utf-8", "replace") if claim.reference else None,
                    headers=[(header, value.encode()) for header, value in sent.items()],
                )
        except UnknownTopicOrPartitionError:
            raise Refused(f"It has no topic {topic}: create it.", spent=True) from None
        except TopicAuthorizationFailedError:
            raise Refused(f"The user may not write to the topic {topic}: allow it there.", spent=True) from None
        except MessageSizeTooLargeError:
            why = f"The topic {topic} takes no record of this size: raise max.message.bytes of it."
            raise Refused(why, spent=True) from None
        except (KafkaTimeoutError, RequestTimedOutError):
            raise TimeoutError from None
        except BrokerResponseError as error:
            raise Refused(f"It said {_said(error)}.", spent=True) from None
        except KafkaError as error:
            raise Broken(f"It did not confirm the message: {_said(error)}.") from None
        return f"topic {place.topic}, partition {place.partition}, offset {place.offset}"

    async def close(self) -> None:
        await asyncio.shield(self._stop())

    def abort(self) -> None:
        """Closes the connections. What the library still waits for, such as a back-off, ends without them."""
        self._given_up = True
        self._stop()
        for connection in [*self._producer.client._conns.values()]:  # noqa: SLF001 - it has no method for this
            connection.close()

    async def _connection(self, *which: Any, **more: Any) -> AIOKafkaConnection | None:
        """What the library's method gives, but None once this was given up.

        The library sends a record again until it is confirmed, also while it stops, and on new connections.
        """
        connection = None if self._given_up else await self._connection_to(*which, **more)
        return None if self._given_up else connection

    def _stop(self) -> asyncio.Task[None]:
        if self._stopping is None:
            self._stopping = asyncio.create_task(_stopped(self._producer))
            STOPPING.add(self._stopping)
            self._stopping.add_done_callback(STOPPING.discard)
        return self._stopping


class _Connection(AIOKafkaConnection):  # type: ignore[misc]  # the library ships no types
    """A connection to a broker, made to the first address that answers, that sends nothing after it was closed."""

    async def connect(self) -> Any:
        self._loop = _Loop()
        return await super().connect()

    def close(self, *why: Any, **more: Any) -> Any:
        """Closes it. The library alone would still send all that was written, also after it has given that up."""
        if self._writer is not None:
            self._writer.transport.abort()
        return super().close(*why, **more)


class _Loop:
    """The running event loop, but with connections as `Lookup` makes them, whose look-ups take no shared thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def create_connection(self, protocol: Any, host: str, port: int, *, ssl: Any) -> Any:
        opened = await Lookup(host, port).connected()
        return await self._loop.create_connection(protocol, sock=opened, ssl=ssl, server_hostname=host if ssl else None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def _stopped(producer: AIOKafkaProducer) -> None:
    """Does what `producer.stop` does, but first ends its sender: that would repeat for ever what nobody waits for."""
    producer._closed = True  # noqa: SLF001 - it has no method for this
    await producer._sender.close()  # noqa: SLF001
    await producer.client.close()


def _said(error: KafkaError) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__

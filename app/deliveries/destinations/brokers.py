"""Destinations at message brokers: what NATS, AMQP and Kafka have in common.

All attempts share one connection. Nothing waits in a library for a connection: without one, an attempt fails and the
queue tries it again.

(none) ──attempt──▶ connecting ──▶ open ──attempts, many at once──▶ open …
                        │            ├──an attempt had no answer──▶ (closed at once, for all attempts on it)
                        │            └──spent, or lost──▶ retired: closed after its last attempt
                        └──failed──▶ (none), and the next attempt begins with another host
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Protocol

from app.deliveries.claims import Claim
from app.deliveries.destinations.connections import Broken, NoAnswer, TimedOut
from app.deliveries.destinations.http import MOST_KEPT, headers
from app.deliveries.destinations.lookups import Lookup
from app.deliveries.results import Outcome
from app.deliveries.tables import AttemptResult
from app.settings.brokers import broker_target
from app.settings.keys import signing_key
from app.settings.model import DestinationSettings

CONNECT_TIMEOUT = timedelta(seconds=5)
"""For the look-up of the name, the connection, TLS and signing in together."""

GRACE = 0.25  # seconds that a library may take to give up in time; less than a claim's margin
CLOSES_WITHIN = 1.0  # seconds

ODD = (ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What the libraries raise while they connect to something that does not answer as their kind of broker does."""


class Refused(Exception):
    """The broker answered, but does not take the message or the connection; the text says why and what to do.

    Attributes:
        spent: Whether the connection takes no other message after this one.
    """

    def __init__(self, why: str, *, spent: bool = False) -> None:
        super().__init__(why)
        self.spent = spent


class Link(Protocol):
    """A connection to a broker that takes messages.

    Attributes:
        lost: Done when nothing more is confirmed on it; says why, as the end of a sentence.
    """

    lost: asyncio.Future[str]

    async def connect(self) -> None:
        """Connects and signs in. After a failure `abort` follows.

        Raises:
            Refused: the broker does not accept us.
            NoAnswer: it does not answer as its kind does, or not in time.
            OSError: it cannot be reached.
        """

    async def publish(self, claim: Claim, sent: Mapping[str, str], *, within: float) -> str:
        """Sends one message and waits until the broker has it for good, at most `within` seconds.

        Returns:
            What the broker said.

        Raises:
            Refused: the broker does not take it.
            NoAnswer: nobody knows whether the broker has it.
            OSError: likewise; a `TimeoutError` if it was not confirmed in time.
        """

    async def close(self) -> None:
        """Says good-bye. It may take long, and `abort` follows in any case."""

    def abort(self) -> None:
        """Closes the connection at once, and sends nothing more of what is unconfirmed."""


class BrokerDestination:
    """A broker that takes events. `link` makes what its kind has of its own: a connection to a host, not yet opened."""

    def __init__(self, settings: DestinationSettings, link: Callable[[Lookup], Link]) -> None:
        self._link = link
        self._headers = settings.headers
        self._keys = [signing_key(secret) for secret in settings.secret]
        self._timeout = settings.timeout.total_seconds()
        self._hosts = deque(Lookup(*each) for each in broker_target(settings.url).hosts)
        self._opening: asyncio.Task[_Line] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Does nothing: a connection is opened when it is needed."""

    async def send(self, claim: Claim, *, now: datetime) -> Outcome:
        """Publishes the event. If the broker confirms it, the outcome is a 200 with what the broker said."""
        sent = self._headers | headers(claim, self._keys, now=now)
        until = asyncio.get_running_loop().time() + self._timeout
        try:
            line = await self._open_line(until)
            said = await self._publish(line, claim, sent, until)
        except Refused as error:
            return Outcome(AttemptResult.REFUSED, error=str(error)[:MOST_KEPT])
        except TimedOut as error:
            return Outcome(AttemptResult.TIMED_OUT, error=str(error)[:MOST_KEPT])
        except NoAnswer as error:
            return Outcome(AttemptResult.UNREACHABLE, error=str(error)[:MOST_KEPT])
        except OSError as error:
            return Outcome(AttemptResult.UNREACHABLE, error=f"{type(error).__name__}: {error}"[:MOST_KEPT])
        return Outcome(AttemptResult.DELIVERED, HTTPStatus.OK, answer=said.encode()[:MOST_KEPT])

    async def close(self) -> None:
        """Closes the connection."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
            if (line := _opened(self._opening)) is not None:
                self._retire(line)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _open_line(self, until: float) -> "_Line":
        """The connection that can be used, or else a new one."""
        if self._opening is not None and (line := _opened(self._opening)) is not None and line.link.lost.done():
            self._retire(line)
        if self._opening is None or (
            self._opening.done() and ((line := _opened(self._opening)) is None or line.retired)
        ):
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(_retrieve)
        opening = self._opening
        await asyncio.wait({opening}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
        if not opening.done():
            raise TimedOut(f"It could not be connected to within {self._timeout:g} seconds.")
        return opening.result()

    async def _open(self) -> "_Line":
        """Connects to the first host that can be connected to."""
        trouble: NoAnswer | OSError = Broken("It has no host.")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT.total_seconds()):
                for _ in range(len(self._hosts)):
                    try:
                        return await self._connected()
                    except (NoAnswer, OSError) as error:
                        trouble = error
                    except ODD as error:
                        trouble = Broken(f"It does not answer as such a broker does ({type(error).__name__}: {error}).")
        except TimeoutError:
            raise TimedOut(
                f"It could not be connected to within {CONNECT_TIMEOUT.total_seconds():g} seconds."
            ) from None
        raise trouble

    async def _connected(self) -> "_Line":
        """A connection to the host whose turn it is; after a failure it is the turn of another one."""
        link = self._link(self._hosts[0])
        connecting = asyncio.create_task(link.connect())
        connecting.add_done_callback(_retrieve)
        try:
            await asyncio.shield(connecting)
        except BaseException:
            link.abort()  # first: a library that is cancelled may wait for the broker's part of the end
            connecting.cancel()
            self._hosts.rotate(-1)
            raise
        return _Line(link)

    async def _publish(self, line: "_Line", claim: Claim, sent: Mapping[str, str], until: float) -> str:
        left = until - asyncio.get_running_loop().time()
        if left <= 0:  # the process was held up: its claim may have run out
            raise TimedOut(f"It could not be asked within {self._timeout:g} seconds.")
        publishing = asyncio.create_task(line.link.publish(claim, sent, within=left))
        publishing.add_done_callback(_retrieve)
        line.attempts += 1
        try:
            return await self._confirmed(line.link, publishing, left)
        except Refused as refusal:
            line.retired = line.retired or refusal.spent
            raise
        except BaseException:
            _give_up(line)
            raise
        finally:
            publishing.cancel()
            line.attempts -= 1
            if line.retired:
                self._retire(line)

    async def _confirmed(self, link: Link, publishing: asyncio.Task[str], within: float) -> str:
        await asyncio.wait({publishing, link.lost}, timeout=within + GRACE, return_when=asyncio.FIRST_COMPLETED)
        if not publishing.done() and link.lost.done():
            raise Broken(f"It did not confirm the message: {link.lost.result()}")
        try:
            if publishing.done():
                return publishing.result()
        except TimeoutError:
            pass
        raise TimedOut(f"It did not confirm the message within {self._timeout:g} seconds.")

    def _retire(self, line: "_Line") -> None:
        """Takes no more attempts on this connection, and closes it once none is under way."""
        line.retired = True
        if not line.attempts and not line.closed:
            line.closed = True
            closing = asyncio.create_task(_close(line.link))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


class _Line:
    """A connection, and how many attempts use it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.attempts = 0
        self.retired = False
        self.closed = False


def _give_up(line: _Line) -> None:
    """Closes the connection at once, and so ends all attempts on it.

    What was given up could be sent later otherwise, when the broker or the network is back, and would arrive behind
    later events of its order.
    """
    line.retired = True
    if not line.link.lost.done():
        line.link.lost.set_result("the connection was closed, since another message was not confirmed on it.")
    line.link.abort()


def _opened(opening: asyncio.Task[_Line]) -> _Line | None:
    if not opening.done() or opening.cancelled() or opening.exception() is not None:
        return None
    return opening.result()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Takes note of an exception: asyncio logs it otherwise if nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


async def _close(link: Link) -> None:
    closing = asyncio.create_task(link.close())
    closing.add_done_callback(_retrieve)  # whatever a library raises when it says good-bye to a broker that has gone
    try:
        await asyncio.wait({closing}, timeout=CLOSES_WITHIN)
    finally:
        link.abort()  # first, as above
        closing.cancel()

"""A busy sender that behaves as Prioticket does, and what became of its events."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from secrets import token_hex
from time import monotonic
from typing import Self

from sqlalchemy import select

from app.database import engines
from app.events.tables import Event
from tests.e2e.conftest import new_event, request

CONNECTIONS = 64
LARGEST_BODY_BYTES = 8192
PAUSE = 0.1  # seconds before an event is sent again
ANSWER_WITHIN = 15.0  # seconds
PATIENCE = 600.0  # seconds; a bound for a slow machine, never waited for


class Sender:
    """Sends new events on all connections, each with the same bytes until it gets a 200.

    Each connection sends events of one order, one after another.

    Attributes:
        addresses: Where receivers listen; may change while it runs. After a failure, a connection takes the next one.
        accepted: The `Event-Id` that came with the 200 of each body, in the order of the answers.
        accepted_at: When each 200 came, by `monotonic`.
        sent: Every body that was sent.
        answers: How often each status was seen.
        broken: How many requests got no answer.
        recoveries: Seconds from the end of each fault to the next 200.
    """

    def __init__(
        self,
        *addresses: tuple[str, int],
        connections: int = CONNECTIONS,
        rest: float = 0.0,
        stays: bool = False,
        inside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`stays` keeps each connection with its receiver; sockets are made in `inside`, on a host of their own."""
        self.addresses = addresses
        self.accepted: dict[bytes, str] = {}
        self.accepted_at: list[float] = []
        self.sent: set[bytes] = set()
        self.answers: Counter[int] = Counter()
        self.broken = 0
        self.recoveries: list[float] = []
        self._connections = connections
        self._rest = rest  # seconds between a 200 and the next event
        self._stays = stays
        self._inside = inside
        self._ending = False
        self._changed = asyncio.Event()

    @property
    def requests(self) -> int:
        return self.answers.total() + self.broken

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Sends. At the end, sends no new events and waits until each event has got its 200."""
        self._ending = False
        self._changed = asyncio.Event()  # of this event loop
        connections = [asyncio.create_task(self._send(place)) for place in range(self._connections)]
        try:
            yield self
            self._ending = True
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*connections)
        finally:
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def until(self, seen: Callable[[], bool]) -> None:
        """Waits until `seen` is true; looks after each answer."""
        async with asyncio.timeout(PATIENCE):
            while not seen():
                self._changed.clear()
                await self._changed.wait()

    async def more(self, status: int, count: int = 1) -> None:
        """Waits for `count` more answers with this status."""
        wanted = self.answers[status] + count
        await self.until(lambda: self.answers[status] >= wanted)

    async def recovers(self, *, since: float | None = None) -> None:
        """Waits for the next 200, and notes how long it took since the fault ended (by default, since now)."""
        ended = monotonic() if since is None else since
        await self.more(200)
        self.recoveries.append(monotonic() - ended)

    async def _send(self, place: int) -> None:
        connection = Connection(self._inside)
        failures = place
        try:
            while not self._ending:
                body = _event(len(self.sent), f"P{place}")
                self.sent.add(body)
                while not await self._accepted(connection, body, failures):
                    if len(self.addresses) > 1 and not self._stays:
                        failures += 1
                        connection.close()
                    await asyncio.sleep(PAUSE)
                await asyncio.sleep(self._rest)
        finally:
            connection.close()

    async def _accepted(self, connection: "Connection", body: bytes, failures: int) -> bool:
        address = self.addresses[failures % len(self.addresses)]
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                status, event_id = await connection.post(address, body)
        except (OSError, asyncio.IncompleteReadError):
            connection.close()
            self.broken += 1
            return False
        if status == 200:
            self.accepted[body] = event_id
            self.accepted_at.append(monotonic())
        self.answers[status] += 1
        self._changed.set()
        return status == 200


class Connection:
    """A connection to the receiver, which is opened again after an error."""

    def __init__(self, inside: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._inside = inside
        self._opened: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, address: tuple[str, int], body: bytes) -> tuple[int, str]:
        """The status of the answer, and the event's id if there is one."""
        if self._opened is None:
            with self._inside():
                made = socket.socket()
            made.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(made, address)
            except BaseException:
                made.close()
                raise
            self._opened = await asyncio.open_connection(sock=made)
        reader, writer = self._opened
        writer.write(request(body))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            self.close()
        return int(head.split()[1]), fields.get("event-id", "")

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].transport.abort()
            self._opened = None


@dataclass(frozen=True)
class Outcome:
    """What a fault did to the events of a sender.

    Attributes:
        requests: How many requests were sent, including retries.
        acknowledged: How many events got a 200.
        lost: How many of those are not stored, byte for byte, under the id that came with the 200.
        duplicated: How many rows hold a body that another row holds too.
        strangers: How many rows hold a body that was never sent.
        copies: How many retries found their event already stored, since the answer to its commit was lost.
        recovery: The longest time from the end of a fault to the next 200, in seconds.
    """

    requests: int
    acknowledged: int
    lost: int
    duplicated: int
    strangers: int
    copies: int
    recovery: float


async def outcome_of(sender: Sender, url: str, *, by_id: bool = True) -> Outcome:
    """Compares what the sender was told with what the database holds.

    Args:
        sender: It has ended.
        url: The database's.
        by_id: False if a 200 may name an id that turned out to be a copy's: a killed receiver kept the event without an
            answer, and the next one cannot see that while the database is away.
    """
    async with engines.engine_for(url) as engine, engine.connect() as connection:
        rows = (await connection.execute(select(Event.id, Event.body, Event.duplicates))).all()
    bodies = Counter(row.body for row in rows)
    kept = {(str(row.id), row.body) for row in rows}
    return Outcome(
        requests=sender.requests,
        acknowledged=len(sender.accepted),
        lost=sum(
            (event_id, body) not in kept and (by_id or body not in bodies) for body, event_id in sender.accepted.items()
        ),
        duplicated=len(rows) - len(bodies),
        strangers=sum(body not in sender.sent for body in bodies),
        copies=sum(row.duplicates for row in rows),
        recovery=max(sender.recoveries, default=0.0),
    )


def reference_of(body: bytes) -> str:
    """The reference of an event that a sender sent."""
    return str(json.loads(body)["data"]["notification"]["notification_item_id"])


def _event(number: int, reference: str) -> bytes:
    """A new event, between the size of a notification and that of a large order."""
    size = number * 997 % LARGEST_BODY_BYTES
    return new_event(reference)[:-1] + b', "extra": "\xc3\xa9' + token_hex(size // 2).encode() + b'"}\n'

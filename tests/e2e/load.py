"""Many connections that post at once, and the answers they got."""

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import func, select

from app.database import engines
from app.events.tables import Event
from tests.e2e.conftest import new_event, request

OPEN_FILES = 4096


@dataclass
class Load:
    """What was sent and answered so far.

    Attributes:
        accepted: Every body that got a 200, by the event's id.
        sent: Every body that was sent, answered or not.
    """

    accepted: dict[str, bytes] = field(default_factory=dict)
    sent: set[bytes] = field(default_factory=set)


async def post_until_it_ends(
    address: tuple[str, int], *, connections: int, after: int, then: Callable[[], None]
) -> Load:
    """Posts on all connections at once until the server ends them; calls `then` after the 200 number `after`."""
    load = Load()
    opened = await asyncio.gather(*(asyncio.open_connection(*address) for _ in range(connections)))

    async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = new_event()
            load.sent.add(body)
            writer.write(request(body))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            load.accepted[head.partition(b"event-id: ")[2].split()[0].decode()] = body
            if len(load.accepted) == after:
                then()

    async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await post(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.transport.abort()

    async with asyncio.timeout(60):
        await asyncio.gather(*(until_closed(*connection) for connection in opened))
    return load


def allow_open_files() -> None:
    """Raises the limit of open files: many systems allow a process fewer than a thousand connections at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def stored(url: str) -> list[tuple[str, bytes]]:
    """The id and bytes of every event."""
    async with engines.engine_for(url) as engine, engine.connect() as connection:
        rows = await connection.execute(select(Event.id, Event.body))
        return [(str(event_id), body) for event_id, body in rows]


async def statuses(url: str) -> dict[str, int]:
    """How many events have each status."""
    async with engines.engine_for(url) as engine, engine.connect() as connection:
        counted = select(Event.status, func.count()).group_by(Event.status)
        return dict((await connection.execute(counted)).all())

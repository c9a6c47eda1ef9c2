"""Searches the stored bodies for an e-mail address. No index has it, so all bodies are read, some at a time."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.events.queries import EventBody, get_bodies
from app.events.tables import Event
from app.prioticket.contents import MOST_BYTES, undone
from app.web.body import InflatesTooFar, UndecodableBody

IDS_AT_ONCE = 1000
BYTES_AT_ONCE = 4 * 1024 * 1024
"""The most bytes of bodies that are held at once; a single body may have more."""

ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
NOT_PRINTED = "nrtbf"


class Searched(NamedTuple):
    """The events that name an address, and how many bodies could not be decoded to look into them."""

    found: list[UUID]
    unreadable: int


async def search(engine: AsyncEngine, contact: str, *, advance: Callable[[int], None]) -> Searched:
    """Looks into the bodies of all events that are stored when it begins, the oldest first.

    Args:
        engine: The database's.
        contact: An e-mail address; case does not matter.
        advance: Is called with the number of events that were searched.
    """
    pattern = pattern_of(contact)
    found: list[UUID] = []
    unreadable = 0
    async with engine.connect() as connection:
        newest = await connection.scalar(select(Event.id).order_by(Event.id.desc()).limit(1))
    last: UUID | None = None
    while newest is not None:
        sizes = select(Event.id, func.length(Event.body)).where(Event.id <= newest, Event.erased_at.is_(None))
        if last is not None:
            sizes = sizes.where(Event.id > last)
        async with engine.connect() as connection:  # short transactions: a vacuum must not wait for the search
            some = [
                (event_id, size)
                for event_id, size in await connection.execute(sizes.order_by(Event.id).limit(IDS_AT_ONCE))
            ]
            for ids in groups(some):
                for event in await get_bodies(connection, ids):
                    named = names(pattern, event)
                    unreadable += named is None
                    if named:
                        found.append(event.id)
                advance(len(ids))
        if len(some) < IDS_AT_ONCE:
            break
        last = some[-1][0]
    return Searched(found, unreadable)


def pattern_of(contact: str) -> re.Pattern[str]:
    """Finds the address in text, but no longer address that ends or begins with it."""
    return re.compile(rf"(?<![\w.+-]){re.escape(contact.strip().casefold())}(?![\w-]|\.\w)")


def names(pattern: re.Pattern[str], event: EventBody) -> bool | None:
    """Whether a body names the address; None if it cannot be decoded, and its bytes do not name it as they are."""
    try:
        content, decoded = undone(event.headers, event.body, limit=MOST_BYTES), True
    except (UndecodableBody, InflatesTooFar):
        content, decoded = event.body, False
    text = ESCAPE.sub(_unescaped, content.decode("utf-8", "replace")).casefold()
    return True if pattern.search(text) else (False if decoded else None)


def _unescaped(escape: re.Match[str]) -> str:
    """The character of an escape in JSON; a blank for one that is not printed."""
    if escape[1]:
        return chr(int(escape[1], 16))
    return " " if escape[2] in NOT_PRINTED else escape[2]


def groups(sizes: Sequence[tuple[UUID, int]]) -> Iterator[list[UUID]]:
    """The ids, in groups whose bodies can be held at once."""
    group: list[UUID] = []
    room = BYTES_AT_ONCE
    for event_id, size in sizes:
        if group and size > room:
            yield group
            group, room = [], BYTES_AT_ONCE
        group.append(event_id)
        room -= size
    if group:
        yield group

"""The body of an event as people can look at it: as text, indented, as bytes, and beside the version before."""

import asyncio
import re
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from starlette.requests import Request

from app.api.acting import acting
from app.api.events import EventDetail
from app.api.orders import Compared, compare
from app.api.state import State
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.events.indenting import indented
from app.events.queries import EventBody, get_bodies, kept_bytes
from app.prioticket.contents import read_object, undone
from app.web.body import InflatesTooFar, UndecodableBody, claimed_coding, coding_of, without_mark

MOST_BYTES = 4 * 1024 * 1024
"""A larger body is not read; its beginning is shown."""

MOST_SHOWN = 128 * 1024  # characters
HEX_BYTES = 1024
AROUND = 200  # characters
ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffd]")
ODD_SHARE = 0.1
"""A body is shown as text only if at most this share of its characters is not readable."""

CHARACTER = re.compile(r"line \d+ column \d+ \(char (\d+)\)")
BYTE = re.compile(r"at byte (\d+)")


class Place(NamedTuple):
    """Where a body is wrong, with what is around it."""

    before: str
    at: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A body.

    Attributes:
        kept: How many bytes are stored.
        coding: The content coding that the bytes are in; empty if none.
        undecodable: Why it could not be undone.
        text: The decoded body; None if it is not text.
        cut: Whether there is more text than is shown.
        lines: The same with a line for each value, if it is like JSON.
        hexadecimal: The first `HEX_BYTES` as they are stored.
        place: Where it is wrong, as the reason of its quarantine says.
        previous: The event with the version before.
        compared: What changed since then; None if there is nothing to compare.
    """

    kept: int
    coding: str
    undecodable: str | None
    text: str | None
    cut: bool
    lines: str | None
    hexadecimal: str
    place: Place | None
    previous: UUID | None
    compared: Compared | None


async def contents_of(
    request: Request[State], event: EventDetail, *, previous: UUID | None, reason: str | None = None
) -> Contents | None:
    """The body of an event; None if it was erased. That it was read is committed before anything of it goes out.

    Args:
        request: The request that asks for it.
        event: The event.
        previous: The event with the version before, if there is one.
        reason: Why it is read.

    Raises:
        DatabaseAway: 503.
    """
    act = Act(action=Action.READ, kind=Kind.EVENT, target=str(event.id), event_id=event.id, reason=reason)
    act.reference = event.reference
    async with acting(request, act) as connection:
        kept = await kept_bytes(connection, event.id)
        if kept is None or kept.erased_at is not None:
            return None
        this, before = EventBody(event.id, kept.headers, kept.beginning), None
        if kept.kept <= MOST_BYTES:
            of_previous = await kept_bytes(connection, previous) if previous else None
            wanted = [event.id, previous] if previous and of_previous and of_previous.kept <= MOST_BYTES else [event.id]
            found = {row.id: row for row in await get_bodies(connection, [each for each in wanted if each])}
            this, before = found.get(event.id, this), found.get(previous) if previous else None
            if before is not None:
                act.details = {"bodies": 2, "compared_with": str(before.id)}
    return await asyncio.to_thread(_contents, this, before, kept=kept.kept, why=event.reason)


def _contents(this: EventBody, before: EventBody | None, *, kept: int, why: str | None) -> Contents:
    coding, undecodable, content = coding_of(this.body, claimed_coding(this.headers)), None, this.body
    try:
        content = undone(this.headers, this.body, limit=MOST_BYTES)
    except InflatesTooFar:
        undecodable = f"it is larger than {MOST_BYTES} bytes"
    except UndecodableBody as error:
        undecodable = str(error)
    text = None if undecodable else text_in(content)
    lines = indented(text, most=MOST_SHOWN) if text is not None and text.lstrip()[:1] in ("{", "[") else None
    return Contents(
        kept=kept,
        coding=coding.decode(),
        undecodable=undecodable,
        text=None if text is None else text[:MOST_SHOWN],
        cut=max(len(text or "") - 1, len(lines or "")) >= MOST_SHOWN or len(this.body) < kept,
        lines=lines,
        hexadecimal=dump(this.body[:HEX_BYTES]),
        place=None if text is None or why is None else place_in(content, text, why),
        previous=before.id if before else None,
        compared=_compared(this, before) if before and not undecodable else None,
    )


def _compared(this: EventBody, before: EventBody) -> Compared | None:
    older, _ = read_object(before.headers, before.body, limit=MOST_BYTES)
    newer, _ = read_object(this.headers, this.body, limit=MOST_BYTES)
    if older is None or newer is None or older.name != newer.name:
        return None
    return compare(newer.name, older.values, newer.values)


def text_in(content: bytes) -> str | None:
    """The bytes as text, with replacement characters if they are UTF-8 for the most part; None if they are not text."""
    text = without_mark(content).decode("utf-8", "replace")
    shown = text[:MOST_SHOWN]
    return text if len(ODD.findall(shown)) <= ODD_SHARE * len(shown) else None


def place_in(content: bytes, text: str, why: str) -> Place | None:
    """The place that the reason of a refusal names."""
    if (byte := BYTE.search(why)) and len(byte[1]) < len(str(MOST_BYTES)) + 1:
        position = len(without_mark(content)[: int(byte[1])].decode("utf-8", "replace"))
    elif (character := CHARACTER.search(why)) and len(character[1]) < len(str(MOST_BYTES)) + 1:
        position = int(character[1])
    else:
        return None
    position = min(position, len(text))
    return Place(
        text[max(0, position - AROUND) : position],
        text[position : position + 1],
        text[position + 1 : position + 1 + AROUND],
    )


def dump(content: bytes) -> str:
    """Lines of 16 bytes: where, in hexadecimal digits, and as ASCII."""
    rows = (content[start : start + 16] for start in range(0, len(content), 16))
    return "\n".join(
        f"{number * 16:06x}  {row.hex(' '):<47}  {''.join(chr(byte) if 32 <= byte < 127 else '.' for byte in row)}"  # noqa: PLR2004 - what ASCII prints
        for number, row in enumerate(rows)
    )

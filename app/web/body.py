"""Reads a request's body within bounds, and undoes its content coding within bounds."""

import asyncio
import zlib
from collections.abc import Awaitable, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from types import CoroutineType
from typing import Any

from starlette.types import Message, Receive

KEPT_BYTES = 64 * 1024
"""How much is kept of a body over the limit: enough to see what it was."""

CODINGS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""By name (RFC 9110, section 8.4.1) zlib's window bits."""

RAW_DEFLATE = -15
SLICE_BYTES = 16 * 1024
"""How much is inflated at once: zlib copies all that is left of a slice for each of thousands of tiny members."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


LONGEST_LENGTH = 18
"""Digits of a Content-Length that is believed: what is longer fits no column, and is counted instead."""


class ClientGone(Exception):
    """The sender hung up before its body was complete: there is nobody to answer, and it will try again."""


class Ending(Enum):
    """How a body ended."""

    COMPLETE = auto()
    TOO_LARGE = auto()
    TOO_SLOW = auto()


@dataclass(frozen=True, slots=True)
class Body:
    """What arrived.

    Attributes:
        content: The bytes; of a body that is too large the first `KEPT_BYTES` at most.
        size: How many arrived, or were declared where that is more.
        unread: Whether more may be on its way.
    """

    content: bytes
    size: int
    ending: Ending
    unread: bool = False


class UndecodableBody(ValueError):
    """The bytes are not what their content coding says."""


class InflatesTooFar(ValueError):
    """The body is over the limit once its coding is undone."""


def declared_length(field: bytes | None) -> int | None:
    """The length that a Content-Length field declares; None if it declares none that can be believed."""
    return int(field) if field and field.isdigit() and len(field) <= LONGEST_LENGTH else None


async def read_body(receive: Receive, *, declared: int | None, limit: int, timeout: timedelta) -> Body:
    """The body, or how far it came.

    A declared length over the limit ends the reading at `KEPT_BYTES`, before the rest is taken.

    Raises:
        ClientGone: the connection ended first.
    """
    too_large = declared is not None and declared > limit
    first = _begin(receive)
    if isinstance(first, MutableMapping) and not first.get("more_body", False) and first["type"] == "http.request":
        content: bytes = first.get("body", b"")
        if not too_large and len(content) <= limit:
            return Body(content, len(content), Ending.COMPLETE)
    chunks: list[bytes] = []
    size = 0
    more = True
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            while more and not (too_large and size >= KEPT_BYTES):
                message = first if isinstance(first, MutableMapping) else await (first or receive())
                first = None
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                chunks.append(chunk)
                size += len(chunk)
                too_large = too_large or size > limit
    except TimeoutError:
        if not too_large:
            return Body(b"".join(chunks), size, Ending.TOO_SLOW, unread=True)
    content = b"".join(chunks)
    if too_large:
        return Body(content[:KEPT_BYTES], max(size, declared or 0), Ending.TOO_LARGE, unread=more)
    return Body(content, size, Ending.COMPLETE)


def _begin(receive: Receive) -> MutableMapping[str, Any] | Awaitable[Message] | None:
    """What `receive` gives without waiting, as it does for most bodies: a deadline for each would cost 5 us.

    Else what is to be awaited, or None: then `receive` is to be called again. ASGI promises an awaitable; only a
    coroutine can be tried, and one that begins to wait can be left, as it has taken nothing yet.
    """
    receiving: Any = receive()
    if not isinstance(receiving, CoroutineType):
        awaitable: Awaitable[Message] = receiving
        return awaitable
    try:
        receiving.send(None)
    except StopIteration as message:
        arrived: Message = message.value
        return arrived
    receiving.close()
    return None


def without_mark(content: bytes) -> bytes:
    """The bytes without the byte order mark that .NET likes to send; RFC 8259, section 8.1, lets a parser ignore it."""
    return content.removeprefix(BYTE_ORDER_MARK)


def content_coding(field: bytes) -> bytes:
    """The name that a Content-Encoding field gives, empty for none; of several codings all, joined by commas."""
    if not field:
        return field
    names = (each.strip() for each in field.lower().split(b","))
    return b",".join(each for each in names if each not in (b"", b"identity"))


def claimed_coding(headers: Sequence[Sequence[str]]) -> bytes:
    """As `content_coding`, of stored headers."""
    return content_coding(",".join(value for name, value in headers if name == "content-encoding").encode("latin-1"))


def coding_of(content: bytes, claimed: bytes) -> bytes:
    """The coding that bytes are really in: a proxy may have undone one and kept the header, or lost the header.

    Args:
        content: The bytes, or their beginning.
        claimed: What their Content-Encoding says, as `content_coding` gives it. It is asked only about deflate without
            its wrapping, which nothing else tells from other bytes.
    """
    if without_mark(content[:SLICE_BYTES]).lstrip()[:1] in (b"{", b"["):
        return b""  # as no coding of JSON begins
    codings = [(b"gzip", CODINGS[b"gzip"]), (b"deflate", CODINGS[b"deflate"])]
    if claimed == b"deflate":
        codings.append((claimed, RAW_DEFLATE))
    for coding, window_bits in codings:
        try:
            if zlib.decompressobj(window_bits).decompress(content[:SLICE_BYTES], SLICE_BYTES):
                return coding
        except zlib.error:
            pass
    return b""


def decode(content: bytes, coding: bytes, *, limit: int, padded: bool = False) -> bytes:
    """The bytes with their content coding undone; never makes more than `limit` of them, whatever a bomb holds.

    Args:
        content: The bytes.
        coding: A key of `CODINGS`, or empty for none.
        limit: The most bytes that are made.
        padded: Whether zeros may stand behind, as `gzip` too overlooks them.

    Raises:
        UndecodableBody: it is not of that coding, or ends too early.
        InflatesTooFar: it is larger than the limit.
    """
    if not coding:
        return content
    try:
        return _inflate(content, CODINGS[coding], limit, padded=padded)
    except zlib.error as error:
        if coding == b"deflate":
            # Half the world sends raw deflate under this name; RFC 9110, section 8.4.1.2, says so in a note.
            try:
                return _inflate(content, RAW_DEFLATE, limit, padded=padded)
            except zlib.error:
                pass
        raise UndecodableBody(f"not {coding.decode()}: {error}") from None


def _inflate(content: bytes, window_bits: int, limit: int, *, padded: bool) -> bytes:
    decoded = bytearray()
    member = zlib.decompressobj(window_bits)
    for start in range(0, len(content), SLICE_BYTES):
        piece = content[start : start + SLICE_BYTES]
        while piece:
            if member.eof and padded and not piece.strip(b"\0"):
                break
            if member.eof:  # gzip may have several members, RFC 1952, section 2.2
                member = zlib.decompressobj(window_bits)
            decoded += member.decompress(piece, limit - len(decoded) + 1)
            if len(decoded) > limit:
                raise InflatesTooFar
            piece = member.unused_data
    if content and not member.eof:
        raise UndecodableBody("the compressed body ends too early")
    return bytes(decoded)

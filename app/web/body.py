"""Reads a request's body within bounds, and undoes its content coding within bounds."""

import asyncio
import zlib
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from types import CoroutineType
from typing import Any, Literal, NamedTuple

from starlette.types import Message, Receive

KEPT_BYTES = 64 * 1024
"""How much is kept of a body that is too large to be kept whole: enough to see what it was."""

CODINGS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""Names of content codings (RFC 9110, section 8.4.1), each with zlib's window bits for it."""

RAW_DEFLATE = -15
SLICE_BYTES = 16 * 1024
"""How much is inflated at once: for each gzip member zlib copies the rest of the slice, and members can be tiny."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

LONGEST_LENGTH = 18
"""The most digits of a Content-Length that is believed. No column holds more; such a body is counted instead."""


class ClientGone(Exception):
    """The sender hung up before its body was complete: nobody waits for an answer, and the sender will try again."""


Ending = Literal["complete", "too_large", "too_slow"]
"""How a body ended; no enumeration, since Python 3.11 takes as long to find one of its members as to parse a number."""


class Body(NamedTuple):
    """What arrived of a body.

    Attributes:
        content: The bytes; of a body that is too large to be kept whole, only the first `KEPT_BYTES`.
        size: How many bytes arrived or were declared, whichever is more.
        unread: Whether more of the body may still arrive.
    """

    content: bytes
    size: int
    ending: Ending
    unread: bool = False


class UndecodableBody(ValueError):
    """The bytes are not in the content coding that was declared."""


class InflatesTooFar(ValueError):
    """The body is over the limit once it is decompressed."""


def declared_length(field: bytes | None) -> int | None:
    """The length that a Content-Length field declares; None if there is none that can be believed."""
    return int(field) if field and field.isdigit() and len(field) <= LONGEST_LENGTH else None


async def read_body(receive: Receive, *, declared: int | None, limit: int, timeout: timedelta, keep: int = 0) -> Body:
    """The body, or the part of it that arrived.

    Args:
        receive: ASGI's.
        declared: The declared length.
        limit: The most bytes of a body that is not too large.
        timeout: How long the whole body may take.
        keep: The most bytes of a body over the limit that is kept whole. Of a larger one, reading stops after
            `KEPT_BYTES`, or as soon as it is known to be larger.

    Raises:
        ClientGone: the connection ended before the body was complete.
    """
    too_large = declared is not None and declared > limit
    first = _begin(receive)
    if isinstance(first, dict) and not first.get("more_body", False) and first["type"] == "http.request":
        content: bytes = first.get("body", b"")
        if not too_large and len(content) <= limit:
            return Body(content, len(content), "complete")
    enough = KEPT_BYTES if declared is not None and declared > keep else max(KEPT_BYTES, keep + 1)
    chunks: list[bytes] = []
    size = 0
    more = True
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            while more and not (too_large and size >= enough):
                message = first if isinstance(first, dict) else await (first or receive())
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
            return Body(b"".join(chunks), size, "too_slow", unread=True)
    content = b"".join(chunks)
    if too_large:
        whole = not more and size <= keep
        return Body(content if whole else content[:KEPT_BYTES], max(size, declared or 0), "too_large", unread=more)
    return Body(content, size, "complete")


def _begin(receive: Receive) -> dict[str, Any] | Awaitable[Message] | None:
    """The first message, if `receive` has it ready, as it has for most bodies: a deadline for each would cost 5 us.

    Otherwise an awaitable for that message, or None if `receive` must be called again. ASGI promises an awaitable, but
    only a coroutine can be tried without waiting. One that begins to wait is closed: it has taken nothing yet.
    """
    receiving: Any = receive()
    if not isinstance(receiving, CoroutineType):
        awaitable: Awaitable[Message] = receiving
        return awaitable
    try:
        receiving.send(None)
    except StopIteration as message:
        arrived: dict[str, Any] = message.value
        return arrived
    receiving.close()
    return None


def without_mark(content: bytes) -> bytes:
    """The bytes without the byte order mark that .NET likes to send; RFC 8259, section 8.1, lets a parser ignore it."""
    return content.removeprefix(BYTE_ORDER_MARK)


def content_coding(field: bytes) -> bytes:
    """The coding that a Content-Encoding field names: empty if none, joined by commas if several."""
    if not field:
        return field
    names = (each.strip() for each in field.lower().split(b","))
    return b",".join(each for each in names if each not in (b"", b"identity"))


def claimed_coding(headers: Sequence[Sequence[str]]) -> bytes:
    """The coding that stored headers name, as `content_coding` gives it."""
    return content_coding(",".join(value for name, value in headers if name == "content-encoding").encode("latin-1"))


def coding_of(content: bytes, claimed: bytes) -> bytes:
    """The coding that the bytes are really in: a proxy may have decoded them but kept the header, or lost the header.

    Args:
        claimed: What their Content-Encoding says, as `content_coding` gives it. It matters only for raw deflate, which
            cannot be recognised by its bytes.
    """
    if without_mark(content[:SLICE_BYTES]).lstrip()[:1] in (b"{", b"["):
        return b""  # no compressed JSON begins like this
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
    """The decoded bytes. Decoding stops soon after `limit`, so a decompression bomb cannot fill the memory.

    Args:
        coding: A key of `CODINGS`, or empty for none.
        padded: Whether zeros may follow the compressed bytes; `gzip` ignores them too.

    Raises:
        UndecodableBody: the bytes are not in that coding, or end too early.
        InflatesTooFar: more than `limit` bytes would come out.
    """
    if not coding:
        return content
    try:
        return _inflate(content, CODINGS[coding], limit, padded=padded)
    except zlib.error as error:
        if coding == b"deflate":
            # Many senders send raw deflate under this name; RFC 9110, section 8.4.1.2, has a note on it.
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

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Iterable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive

from app.web.body import (
    KEPT_BYTES,
    Body,
    ClientGone,
    InflatesTooFar,
    UndecodableBody,
    declared_length,
    decode,
    read_body,
)

MIB = 1024 * 1024
SOON = timedelta(seconds=0.05)
TEXT = b'{"data": {}}' * 100


def arriving(*chunks: bytes, then: str = "end") -> Receive:
    """A sender of these chunks, which then ends the body, hangs up or says nothing more."""
    left = list(chunks)

    async def receive() -> Message:
        if left:
            chunk = left.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(left) or then != "end"}
        if then == "hang up":
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def futures(*chunks: bytes, then: str = "end") -> Receive:
    """The same from a server whose `receive` gives an awaitable that is no coroutine, as ASGI lets it."""
    receive = arriving(*chunks, then=then)
    return lambda: asyncio.ensure_future(receive())


async def read(receive: Receive, *, declared: int | None = None, limit: int = 100, keep: int = 0) -> Body:
    return await read_body(receive, declared=declared, limit=limit, timeout=SOON, keep=keep)


def raw_deflate(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(content) + compressor.flush()


# Reading


@pytest.mark.parametrize("chunks", [[b""], [b"abc"], [b"a", b"b", b"c"]])
async def test_a_body_is_whole_from_a_server_that_gives_futures(chunks):
    content = b"".join(chunks)
    assert await read(futures(*chunks)) == Body(content, len(content), "complete")


async def test_nothing_that_such_a_server_gives_is_passed_over():
    body = await read(futures(b"a", b"b", then="stall"))
    assert (body.content, body.ending) == (b"ab", "too_slow")
    with pytest.raises(ClientGone):
        await read(futures(b"a", then="hang up"))


@pytest.mark.parametrize("chunks", [[b""], [b"abc"], [b"a", b"b", b"c"], [b"", b"abc", b""], [b"x" * 99, b"y"]])
async def test_a_body_within_the_limit_is_whole(chunks):
    content = b"".join(chunks)
    assert await read(arriving(*chunks)) == Body(content, len(content), "complete")


async def test_a_message_without_a_body_is_an_empty_end():
    async def receive() -> Message:
        return {"type": "http.request"}

    assert await read(receive) == Body(b"", 0, "complete")


async def test_a_body_that_is_shorter_than_declared_is_what_arrived():
    assert await read(arriving(b"abc"), declared=50) == Body(b"abc", 3, "complete")


@pytest.mark.parametrize("declared", [None, 1, 100])
async def test_a_body_is_over_the_limit_by_what_is_counted_whatever_was_declared(declared):
    assert await read(arriving(b"x" * 60, b"y" * 41), declared=declared) == Body(
        b"x" * 60 + b"y" * 41, 101, "too_large"
    )


async def test_a_declared_length_over_the_limit_is_enough():
    assert await read(arriving(b"abc"), declared=101) == Body(b"abc", 101, "too_large")


@pytest.mark.parametrize("declared", [None, 10 * MIB])
async def test_reading_ends_once_enough_of_a_body_over_the_limit_is_there(declared):
    asked = 0

    async def endless() -> Message:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"x" * 1024, "more_body": True}

    body = await read(endless, declared=declared, limit=KEPT_BYTES // 2)
    assert (body.content, body.ending) == (b"x" * KEPT_BYTES, "too_large")
    assert body.size == (declared or KEPT_BYTES)
    assert asked == KEPT_BYTES // 1024


async def test_of_a_body_over_the_limit_the_first_64_kib_are_kept():
    body = await read(arriving(b"x" * MIB, b"y"), limit=MIB)
    assert (len(body.content), body.size, body.ending) == (64 * 1024, MIB + 1, "too_large")


@pytest.mark.parametrize("declared", [None, 120])
async def test_a_body_over_the_limit_is_read_to_its_end_if_it_may_be_kept_whole(declared):
    whole = b"x" * MIB, b"y" * 10
    body = await read(arriving(*whole), limit=MIB, declared=declared, keep=MIB + 10)
    assert body == Body(b"".join(whole), MIB + 10, "too_large")


async def test_what_is_too_large_to_be_kept_whole_is_cut():
    body = await read(arriving(b"x" * MIB, b"y" * 11), limit=MIB, keep=MIB + 10)
    assert (len(body.content), body.size, body.ending) == (KEPT_BYTES, MIB + 11, "too_large")


async def test_a_body_that_stalls_is_too_slow_and_what_came_is_there():
    assert await read(arriving(b"abc", then="silence")) == Body(b"abc", 3, "too_slow", unread=True)


async def test_the_deadline_is_one_for_the_whole_body_however_steadily_it_trickles():
    async def trickle() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async with asyncio.timeout(30):
        body = await read(trickle)
    assert body.ending == "too_slow"
    assert body.size < 10


@pytest.mark.parametrize("declared", [None, 1000])
async def test_a_body_over_the_limit_that_stalls_is_too_large(declared):
    body = await read(arriving(b"x" * 101, then="silence"), declared=declared)
    assert body == Body(b"x" * 101, declared or 101, "too_large", unread=True)


@pytest.mark.parametrize("chunks", [[], [b"abc"], [b"x" * 101]])
async def test_a_client_that_hangs_up_before_the_end_is_gone(chunks):
    with pytest.raises(ClientGone):
        await read(arriving(*chunks, then="hang up"))


# Content codings


@pytest.mark.parametrize(
    ("coding", "encoded"),
    [
        (b"", TEXT),
        (b"gzip", gzip.compress(TEXT)),
        (b"x-gzip", gzip.compress(TEXT)),
        (b"gzip", gzip.compress(TEXT[:500]) + gzip.compress(TEXT[500:])),
        (b"gzip", gzip.compress(TEXT) + gzip.compress(b"")),
        (b"deflate", zlib.compress(TEXT)),
        (b"deflate", raw_deflate(TEXT)),
    ],
    ids=["none", "gzip", "x-gzip", "two members", "an empty member", "deflate", "raw deflate"],
)
def test_a_coding_is_undone(coding, encoded):
    assert decode(encoded, coding, limit=len(TEXT)) == TEXT


@pytest.mark.parametrize("coding", [b"", b"gzip", b"deflate"])
def test_an_empty_body_is_empty_in_every_coding(coding):
    assert decode(b"", coding, limit=10) == b""


@pytest.mark.parametrize("kept", [1, 5, 10, 30, -1, -8])
def test_a_truncated_gzip_is_refused(kept):
    with pytest.raises(UndecodableBody):
        decode(gzip.compress(TEXT)[:kept], b"gzip", limit=MIB)


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
@pytest.mark.parametrize("content", [TEXT, b"\0", b"\x1f\x8b", zlib.compress(TEXT)[:-1], b"\xff" * 50])
def test_bytes_that_are_not_of_their_coding_are_refused(coding, content):
    with pytest.raises(UndecodableBody):
        decode(content, coding, limit=MIB)


def test_a_second_member_that_is_cut_is_refused():
    with pytest.raises(UndecodableBody):
        decode(gzip.compress(b"a") + gzip.compress(b"b")[:-3], b"gzip", limit=MIB)


def test_bytes_behind_the_end_of_a_gzip_are_refused():
    with pytest.raises(UndecodableBody):
        decode(gzip.compress(b"a") + b"and more", b"gzip", limit=MIB)


def test_a_damaged_checksum_is_refused():
    encoded = bytearray(gzip.compress(TEXT))
    encoded[-6] ^= 1
    with pytest.raises(UndecodableBody):
        decode(bytes(encoded), b"gzip", limit=MIB)


@pytest.mark.parametrize("coding", [gzip.compress, zlib.compress, raw_deflate])
def test_the_limit_counts_decompressed_bytes_exactly(coding):
    name = b"gzip" if coding is gzip.compress else b"deflate"
    assert decode(coding(b"x" * 1000), name, limit=1000) == b"x" * 1000
    with pytest.raises(InflatesTooFar):
        decode(coding(b"x" * 1001), name, limit=1000)


def test_the_limit_counts_all_members_together():
    with pytest.raises(InflatesTooFar):
        decode(gzip.compress(b"x" * 600) * 2, b"gzip", limit=1000)


@pytest.mark.parametrize(
    ("coding", "bomb"),
    [
        (b"gzip", gzip.compress(bytes(100 * MIB), 9)),
        (b"gzip", gzip.compress(bytes(MIB), 9) * 100),
        (b"deflate", raw_deflate(bytes(100 * MIB))),
    ],
    ids=["gzip", "many members", "raw deflate"],
)
def test_a_bomb_costs_no_more_memory_than_the_limit_allows(coding, bomb):
    tracemalloc.start()
    try:
        with pytest.raises(InflatesTooFar):
            decode(bomb, coding, limit=MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * MIB


@given(st.binary(), st.sampled_from([b"gzip", b"deflate"]))
def test_any_bytes_are_decoded_or_refused(content, coding):
    try:
        decoded = decode(content, coding, limit=1000)
    except (UndecodableBody, InflatesTooFar):
        return
    assert len(decoded) <= 1000


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_what_was_compressed_comes_back(parts: Iterable[bytes]):
    members = b"".join(map(gzip.compress, parts))
    assert decode(members, b"gzip", limit=2000) == b"".join(parts)


@pytest.mark.parametrize(
    ("field", "length"),
    [
        (b"0", 0),
        (b"9" * 18, 10**18 - 1),
        (b"9" * 19, None),
        (b"9" * 10_000, None),
        (b"", None),
        (None, None),
        (b"-1", None),
        (b"1,1", None),
        ("²".encode("latin-1"), None),
    ],
)
def test_a_length_that_fits_no_column_is_not_believed(field, length):
    assert declared_length(field) == length

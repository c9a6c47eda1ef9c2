"""The rows of the table of answers that depend on the body."""

import gzip
import zlib
from functools import cache
from uuid import uuid4

from app.checker.rows import MARK, Request, Row, event

MEGABYTE = 1024 * 1024
OVER_ANY_LIMIT = 66
"""Megabytes; no receiver can be configured to take more than 64."""

ENOUGH_TO_REFUSE = 64 * 1024
"""After so many bytes of a body that is declared too large, priohook answers without waiting for the rest."""

CAP = "A proxy with a limit of its own answers before priohook does, so nothing is kept. Raise its limit."


def refused() -> tuple[Row, ...]:
    """The rows of bodies that are refused, and kept in quarantine."""
    mark = MARK.encode()
    return (
        Row(
            request="a body over `max_body_bytes`, declared, counted or decompressed",
            status=413,
            error="CONTENT_TOO_LARGE",
            closes=True,
            kept="quarantined",
            asked=(
                Request(
                    name="over the limit, declared",
                    content=mark.ljust(ENOUGH_TO_REFUSE),
                    missing=2**40,
                    advice=f"{CAP} If no answer comes, the proxy waits for the whole body first.",
                ),
                Request(
                    name="over the limit, counted",
                    content=(f"{MARK} in chunks".encode().ljust(MEGABYTE),) * OVER_ANY_LIMIT,
                    advice=CAP,
                ),
                Request(
                    name="over the limit, unpacked",
                    headers=(("Content-Encoding", "gzip"),),
                    content=_bomb(),
                    advice=CAP,
                ),
            ),
        ),
        Row(
            request="a content type that is not JSON, or a coding other than gzip, deflate and identity",
            status=415,
            error="UNSUPPORTED_MEDIA_TYPE",
            kept="quarantined",
            tolerable=True,
            asked=(
                Request(name="no JSON type", headers=(("Content-Type", "text/xml"),)),
                Request(name="an unknown coding", headers=(("Content-Encoding", "br"),)),
            ),
        ),
        Row(
            request="a body that takes longer than `body_timeout`",
            status=408,
            error="REQUEST_TIMEOUT",
            closes=True,
            kept="quarantined",
            asked=(
                Request(
                    name="a body that stops",
                    content=mark,
                    missing=10,
                    advice="A proxy that buffers bodies gives up before priohook does, and nothing is kept. Let it "
                    "pass bodies on unbuffered. If no answer comes, the proxy or body_timeout waits longer than "
                    "--timeout.",
                ),
            ),
        ),
        Row(
            request="not JSON, not UTF-8, empty",
            status=400,
            error="INVALID_REQUEST",
            kept="quarantined",
            tolerable=True,
            asked=(
                Request(name="an empty body", content=b""),
                Request(name="no JSON", content=b'{"check": ' + mark),
                Request(name="not UTF-8", content=b'{"check": "\xff' + mark + b'"}'),
                Request(name="not of its coding", headers=(("Content-Encoding", "gzip"),)),
            ),
        ),
        Row(
            request="JSON without an envelope that has `data`",
            status=422,
            error="UNPROCESSABLE_ENTITY",
            kept="quarantined",
            tolerable=True,
            asked=(
                Request(name="no envelope", content=b'{"check": "' + mark + b'"}'),
                Request(name="no object", content=b'["' + mark + b'"]'),
                Request(name="an ErrorModel", content=b'{"error": "' + mark + b'", "error_reference": "1"}'),
            ),
        ),
    )


def answered() -> tuple[Row, ...]:
    """The rows of what is left: stored, or not now."""
    body = event(str(uuid4()))
    return (
        Row(
            request="too many events wait, or the database is away",
            status=503,
            error="SERVICE_UNAVAILABLE",
            headers=(("Retry-After", "*"),),
        ),
        Row(
            request="everything else: known, unknown, duplicate",
            status=200,
            headers=(("Event-Id", "*"),),
            kept="accepted",
            asked=(
                Request(
                    name="an event",
                    content=body,
                    group="copies",
                    advice="503 means that the database is away. A proxy must pass Event-Id on and add no body.",
                ),
                Request(
                    name="the same again",
                    content=body,
                    group="copies",
                    advice="If the Event-Id differs, not all receivers use the same database.",
                ),
                Request(
                    name="the same without a User-Agent",
                    content=body,
                    group="copies",
                    plain=True,
                    advice="If only this request differs, a firewall refuses requests without a User-Agent. "
                    "Prioticket may send such requests: let them pass.",
                ),
                Request(
                    name="an event in gzip",
                    content=gzip.compress(event(str(uuid4())), mtime=0),
                    headers=(("Content-Encoding", "gzip"),),
                    advice="A proxy refuses or decompresses the body. Let it pass bodies on unchanged.",
                ),
                Request(
                    name="an event of 900 KiB",
                    content=event(str(uuid4()), padding=900 * 1024),
                    advice=f"{CAP} In nginx it is client_max_body_size.",
                ),
            ),
        ),
    )


@cache
def _bomb() -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # + 16: gzip
    return b"".join([*(packer.compress(bytes(MEGABYTE)) for _ in range(OVER_ANY_LIMIT)), packer.flush()])

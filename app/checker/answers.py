"""The table of answers to a webhook, as data: each row has requests that get its answer.

`priohook check` sends them to a deployed endpoint, the tests send them in their own process and over a socket, and
docs/receiving.md shows the table.
"""

import gzip
import json
import zlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal
from uuid import uuid4

Headers = tuple[tuple[str, str], ...]

SENDER, STRANGER = "<a client that may send>", "<a client that may not>"
"""Placeholders for the Authorization of such a client, which only the caller knows."""

CHALLENGE = 'Basic realm="priohook", charset="UTF-8"'
MARK = "PRIOHOOK_CHECK"
"""The type of the events that a check leaves behind; their reference is the same with a dash. What it leaves in
quarantine holds this mark too. It has the same bytes each time, so that a later check leaves only copies."""

MEGABYTE = 1024 * 1024
OVER_ANY_LIMIT = 66
"""Megabytes; no receiver can be configured to take more than 64."""

ENOUGH_TO_REFUSE = 64 * 1024
"""After so many bytes of a body that is declared too large, priohook answers without waiting for the rest."""

TOO_MANY_FAILURES = 61
NOT_KEPT = ("Accept", "text/html")
"""Sent with what must be refused for its credentials. If a proxy adds good credentials of its own, the answer is 406
and nothing is stored."""

CAP = "A proxy with a limit of its own answers before priohook does, so nothing is kept. Raise its limit."
PROXY_BODY = "Something before priohook answers with its own page. Let it pass priohook's answers through unchanged."
PROXY_METHOD = "A proxy refuses the method before priohook does. That is harmless for this method only."
PROXY_AUTHORIZATION = "If a proxy authenticates by itself, let it pass Authorization on unchanged."


def event(event_id: str = MARK, *, padding: int = 0) -> bytes:
    """The body of an event whose type no business logic knows."""
    notification = {"notification_id": event_id, "notification_event": MARK, "notification_item_id": "PRIOHOOK-CHECK"}
    content = {"kind": "notification", "notification": notification, "padding": "x" * padding}
    return json.dumps({"api_version": "3.8.0", "data": content}).encode()


ALWAYS_THE_SAME = event()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that gets the answer of its row.

    Attributes:
        name: Its name in the output.
        advice: The likely cause of another answer, and what to do.
        method: The request's method.
        path: A path of its own instead of the webhook's.
        authorization: The values of all Authorization headers.
        headers: Other headers.
        content: The request's body; a tuple is sent in chunks.
        missing: How many more bytes are declared and never sent.
        times: How often it must be sent until it gets this answer; if more than once, only the tests send it.
        group: All requests of a group must get the same Event-Id.
    """

    name: str
    advice: str = PROXY_BODY
    method: str = "POST"
    path: str | None = None
    authorization: tuple[str, ...] = (SENDER,)
    headers: Headers = ()
    content: bytes | tuple[bytes, ...] = ALWAYS_THE_SAME
    missing: int = 0
    times: int = 1
    group: str | None = None

    @property
    def asked(self) -> str:
        """The request in words, without the secret."""
        words = [f"{self.method} {self.path}" if self.path else self.method]
        schemes = ("Basic" if each == SENDER else each.partition(" ")[0] for each in self.authorization)
        words += [f"Authorization: {scheme} …" for scheme in schemes]
        words += [f"{name}: {value}" for name, value in self.headers]
        if isinstance(self.content, tuple):
            words.append(f"{sum(map(len, self.content))} bytes in chunks")
        elif self.content:
            words.append(f"{len(self.content)} bytes")
        return ", ".join([*words, *([f"{self.missing} more declared"] if self.missing else [])])

    def fields(self, credentials: Mapping[str, str]) -> Headers:
        """All headers that say something about the request, with credentials in place of `SENDER` and `STRANGER`."""
        authorization = (("Authorization", credentials.get(each, each)) for each in self.authorization)
        typed = not self.content or "Content-Type" in dict(self.headers)
        content_type = () if typed else (("Content-Type", "application/json"),)
        length = ("Content-Length", str(len(self.content) + self.missing))
        if isinstance(self.content, tuple):
            length = ("Transfer-Encoding", "chunked")
        return (*authorization, *content_type, *self.headers, length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table: some requests, and the answer that they get.

    Attributes:
        request: The requests in words, for the page.
        status: The right status.
        error: `error` of the ErrorModel in the body; empty if there must be no body, `*` if any body will do.
        headers: The headers that the answer must have; `*` allows any value.
        closes: Whether the connection ends after the answer.
        kept: The status of the event that is stored, if one is; `--read-only` leaves these requests out.
        tolerable: Whether 200 is right too, because the receiver may accept what it cannot read.
        note: What else the page says of the answer.
        asked: The requests; empty if only a fault of the receiver leads to this answer.
    """

    request: str
    status: int
    error: str = ""
    headers: Headers = ()
    closes: bool = False
    kept: Literal["accepted", "quarantined"] | None = None
    tolerable: bool = False
    note: str = ""
    asked: tuple[Request, ...] = ()

    @property
    def answer(self) -> str:
        """The answer in words, for the page."""
        named = " and ".join(f"`{name}`" for name, _ in self.headers)
        no_body = "" if self.error or self.kept else ", no body"
        ends = ", and the connection ends" if self.closes else ""
        return f"{self.status}{f' with {named}' if named else ''}{no_body}{ends}{self.note}"


def table() -> tuple[Row, ...]:
    """The rows in the order in which a request is judged. Each call makes new events for the rows that store them."""
    return (*_before_the_door(), *_at_the_door(), *_refused(), *_answered())


def _before_the_door() -> tuple[Row, ...]:
    return (
        Row(
            request="an unknown path",
            status=404,
            error="NOT_FOUND",
            asked=(Request(name="unknown path", path="/priohook-check-nothing-is-here", authorization=()),),
        ),
        Row(
            request="a method that the path does not have",
            status=405,
            error="METHOD_NOT_ALLOWED",
            headers=(("Allow", "POST"),),
            asked=(
                Request(
                    name="GET",
                    method="GET",
                    authorization=(),
                    content=b"",
                    advice="A proxy that allows only some methods answers 405 itself. Let all methods through.",
                ),
            ),
        ),
        Row(
            request="a method that HTTP does not define",
            status=501,
            error="NOT_IMPLEMENTED",
            asked=tuple(
                Request(name=f"{method}, no method of HTTP", method=method, authorization=(), advice=PROXY_METHOD)
                for method in ("PROPFIND", "BREW")
            ),
        ),
    )


def _at_the_door() -> tuple[Row, ...]:
    wrong = (basic(f"priohook-check:{uuid4()}"),)
    refused = partial(Request, headers=(NOT_KEPT,), advice=PROXY_AUTHORIZATION)
    return (
        Row(
            request="no Authorization",
            status=401,
            headers=(("WWW-Authenticate", CHALLENGE),),
            asked=(
                Request(
                    name="no credentials",
                    authorization=(),
                    headers=(NOT_KEPT,),
                    advice="A proxy hides the challenge: it removes WWW-Authenticate or adds a page. Let both pass "
                    "unchanged.",
                ),
            ),
        ),
        Row(
            request="anything else that is not one valid Basic credential",
            status=401,
            error="AUTHENTICATION_FAILED",
            headers=(("WWW-Authenticate", CHALLENGE),),
            asked=(
                refused(name="wrong password", authorization=wrong),
                refused(name="another scheme", authorization=(f"Bearer {uuid4()}",)),
                refused(name="base64 of no colon", authorization=(basic("priohook-check"),)),
                Request(
                    name="two Authorization headers",
                    authorization=(SENDER, SENDER),
                    headers=(NOT_KEPT,),
                    advice="A proxy drops one of them, and may have checked the other one. Let it refuse both or "
                    "pass both on.",
                ),
            ),
        ),
        Row(
            request="the same, after 60 failures within a minute from one address",
            status=429,
            error="LIMIT_REACHED",
            headers=(("Retry-After", "*"),),
            note="; a right credential still passes",
            asked=(Request(name="the 61st wrong password", authorization=wrong, times=TOO_MANY_FAILURES),),
        ),
        Row(
            request="a client without the scope",
            status=403,
            error="FORBIDDEN",
            asked=(Request(name="a client without the scope", authorization=(STRANGER,)),),
        ),
        Row(
            request="an `Accept` that excludes JSON",
            status=406,
            error="NOT_ACCEPTABLE",
            asked=(
                Request(
                    name="Accept without JSON",
                    headers=(NOT_KEPT,),
                    advice="A proxy changes Accept. Let it pass the header on unchanged.",
                ),
            ),
        ),
    )


def _refused() -> tuple[Row, ...]:
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


def _answered() -> tuple[Row, ...]:
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


def basic(credential: str) -> str:
    """The value of Authorization for a `username:secret`."""
    return "Basic " + b64encode(credential.encode()).decode()


@cache
def _bomb() -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # + 16: gzip
    return b"".join([*(packer.compress(bytes(MEGABYTE)) for _ in range(OVER_ANY_LIMIT)), packer.flush()])

"""The requests of a check: what to send, what the endpoint promised to answer, and what to do if it differs."""

import gzip
import json
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal
from uuid import uuid4

CHALLENGE = 'Basic realm="priohook", charset="UTF-8"'
MARK = "PRIOHOOK_CHECK"
"""The type of the events that a check leaves behind; their reference is the same with a dash. What it leaves in
quarantine holds this mark too. It has the same bytes each time, so that a later check leaves only copies."""

MEGABYTE = 1024 * 1024
OVER_ANY_LIMIT = 66
"""Megabytes; no receiver can be configured to take more than 64."""

ENOUGH_TO_REFUSE = 64 * 1024
"""After so many bytes of a body that is declared too large, priohook answers without waiting for the rest."""

Headers = tuple[tuple[str, str], ...]

NOT_KEPT = ("Accept", "text/html")
"""Sent with what must be refused for its credentials. If a proxy adds good credentials of its own, the answer is 406
and nothing is stored."""

CAP = "A proxy with a limit of its own answers before priohook does, so nothing is kept. Raise its limit."
PROXY_BODY = "Something before priohook answers with its own page. Let it pass priohook's answers through unchanged."


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One request.

    Attributes:
        name: Its name in the output.
        advice: The likely cause of another answer, and what to do.
        status: The right status.
        body: What kind of body the answer must have.
        headers: The headers that the answer must have; `*` allows any value.
        method: The request's method.
        path: A path of its own instead of the webhook's.
        sent: The request's headers.
        content: The request's body.
        kept: Whether the receiver stores something; `--read-only` leaves the probe out.
        tolerable: Whether 200 is right too, because the receiver may accept what it cannot read.
        credentials: Whether the probe sends the client's credentials.
        group: All probes of a group must get the same Event-Id.
    """

    name: str
    advice: str
    status: int
    body: Literal["empty", "error", "any"] = "error"
    headers: Headers = ()
    method: str = "POST"
    path: str | None = None
    sent: Headers = ()
    content: "bytes | Iterable[bytes]" = b""
    kept: bool = False
    tolerable: bool = False
    credentials: bool = False
    group: str | None = None

    @property
    def asked(self) -> str:
        """The request in words, without the secret."""
        words = [f"{self.method} {self.path}" if self.path else self.method]
        for name, value in self.sent:
            words.append(f"{name}: {value.partition(' ')[0]} …" if name == "Authorization" else f"{name}: {value}")
        if isinstance(self.content, bytes) and self.content:
            words.append(f"{len(self.content)} bytes")
        return ", ".join(words)


def probes(username: str | None, password: str | None) -> Iterator[Probe]:
    """All probes, the harmless ones first. Without a username, only those that need no credentials."""
    yield from _open_doors()
    yield from _refusals()
    if username is not None and password is not None:
        authorization = ("Authorization", _basic(f"{username}:{password}"))
        yield from _with_credentials(authorization)


def event(kind: str = MARK, *, padding: int = 0) -> bytes:
    """The body of an event whose type no business logic knows."""
    notification = {
        "notification_id": str(uuid4()),
        "notification_event": kind,
        "notification_item_id": "PRIOHOOK-CHECK",
    }
    content = {"kind": "notification", "notification": notification, "padding": "x" * padding}
    return json.dumps({"api_version": "3.8.0", "data": content}).encode()


def _open_doors() -> Iterator[Probe]:
    advice = "Route this path to priohook too: a load balancer needs it to tell whether the receiver is well."
    yield Probe(name="alive", advice=advice, status=200, body="any", method="GET", path="/healthz")
    yield Probe(
        name="ready",
        advice="503: the database is away, or its schema is old (run `priohook migrate`). Route this path too.",
        status=200,
        body="any",
        method="GET",
        path="/readyz",
    )
    yield Probe(name="unknown path", advice=PROXY_BODY, status=404, path="/priohook-check-nothing-is-here")
    yield Probe(
        name="GET",
        advice="A proxy that allows only some methods answers 405 itself. Let all methods through.",
        status=405,
        headers=(("allow", "POST"),),
        method="GET",
    )
    for method in ("PROPFIND", "BREW"):
        yield Probe(
            name=f"{method}, no method of HTTP",
            advice="A proxy refuses the method before priohook does. That is harmless for this method only.",
            status=501,
            method=method,
        )


def _refusals() -> Iterator[Probe]:
    challenge = (("www-authenticate", CHALLENGE),)
    yield Probe(
        sent=(NOT_KEPT,),
        name="no credentials",
        advice="A proxy hides the challenge: it removes WWW-Authenticate or adds a page. Let both pass unchanged.",
        status=401,
        body="empty",
        headers=challenge,
    )
    wrong = {
        "wrong password": _basic(f"priohook-check:{uuid4()}"),
        "another scheme": f"Bearer {uuid4()}",
        "base64 of no colon": _basic("priohook-check"),
    }
    for name, authorization in wrong.items():
        yield Probe(
            name=name,
            advice="If a proxy authenticates by itself, let it pass Authorization on unchanged.",
            status=401,
            headers=challenge,
            sent=(("Authorization", authorization), NOT_KEPT),
        )


def _with_credentials(authorization: tuple[str, str]) -> Iterator[Probe]:
    typed = (authorization, ("Content-Type", "application/json"))
    yield Probe(
        name="two Authorization headers",
        advice="A proxy drops one of them, and may have checked the other one. Let it refuse both or pass both on.",
        status=401,
        headers=(("www-authenticate", CHALLENGE),),
        sent=(authorization, authorization, NOT_KEPT),
        credentials=True,
    )
    yield Probe(
        name="Accept without JSON",
        advice="A proxy changes Accept. Let it pass the header on unchanged.",
        status=406,
        sent=(*typed, NOT_KEPT),
        credentials=True,
    )
    yield from _stored(typed)
    yield from _quarantined(authorization, typed)


def _stored(typed: Headers) -> Iterator[Probe]:
    stored = partial(
        Probe, status=200, body="empty", headers=(("event-id", "*"),), sent=typed, kept=True, credentials=True
    )
    body = event()
    yield stored(
        name="an event",
        content=body,
        group="copies",
        advice="503 means that the database is away. A proxy must pass Event-Id on and add no body.",
    )
    yield stored(
        name="the same again",
        content=body,
        group="copies",
        advice="If the Event-Id differs, not all receivers use the same database.",
    )
    yield stored(
        name="an event in gzip",
        content=gzip.compress(event(), mtime=0),
        sent=(*typed, ("Content-Encoding", "gzip")),
        advice="A proxy refuses or decompresses the body. Let it pass bodies on unchanged.",
    )
    yield stored(
        name="an event of 900 KiB",
        content=event(padding=900 * 1024),
        advice=f"{CAP} In nginx it is client_max_body_size.",
    )


def _quarantined(authorization: tuple[str, str], typed: Headers) -> Iterator[Probe]:
    mark = MARK.encode()
    refused = partial(Probe, sent=typed, kept=True, credentials=True)
    yield refused(
        name="over the limit, declared",
        status=413,
        sent=(*typed, ("Content-Length", str(2**40))),
        content=mark.ljust(ENOUGH_TO_REFUSE),
        advice=f"{CAP} If no answer comes, the proxy waits for the whole body first.",
    )
    yield refused(
        name="over the limit, counted",
        status=413,
        sent=(*typed, ("Transfer-Encoding", "chunked")),
        content=_chunks(),
        advice=CAP,
    )
    yield refused(
        name="over the limit, unpacked",
        status=413,
        sent=(*typed, ("Content-Encoding", "gzip")),
        content=_bomb(),
        advice=CAP,
    )
    unreadable = partial(refused, advice=PROXY_BODY, tolerable=True)
    yield unreadable(
        name="no JSON type",
        status=415,
        sent=(authorization, ("Content-Type", "text/xml")),
        content=b"<check>" + mark,
    )
    yield unreadable(name="an unknown coding", status=415, sent=(*typed, ("Content-Encoding", "br")), content=mark)
    yield unreadable(name="an empty body", status=400)
    yield unreadable(name="no JSON", status=400, content=b'{"check": ' + mark)
    yield unreadable(name="not UTF-8", status=400, content=b'{"check": "\xff' + mark + b'"}')
    yield unreadable(name="no envelope", status=422, content=b'{"check": "' + mark + b'"}')
    yield refused(
        name="a body that stops",
        status=408,
        sent=(*typed, ("Content-Length", str(len(mark) + 10))),
        content=mark,
        advice="A proxy that buffers bodies gives up before priohook does, and nothing is kept. Let it pass bodies on "
        "unbuffered. If no answer comes, the proxy or body_timeout waits longer than --timeout.",
    )


def _basic(credential: str) -> str:
    return "Basic " + b64encode(credential.encode()).decode()


def _chunks() -> Iterator[bytes]:
    chunk = f"{MARK} in chunks".encode().ljust(MEGABYTE)
    for _ in range(OVER_ANY_LIMIT):
        yield b"%x\r\n%b\r\n" % (MEGABYTE, chunk)
    yield b"0\r\n\r\n"  # a proxy that buffers bodies waits for it


def _bomb() -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # + 16: gzip
    return b"".join([*(packer.compress(bytes(MEGABYTE)) for _ in range(OVER_ANY_LIMIT)), packer.flush()])

"""What a deployed endpoint is asked, what it promised to answer, and what to do where it does not."""

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
"""The type of the events that a check leaves behind, and their reference with a dash. What it leaves in quarantine has
it too and is the same each time, so that the next check's are copies."""

MEGABYTE = 1024 * 1024
OVER_ANY_LIMIT = 66
"""Megabytes; no receiver can be configured to take more than 64."""

ENOUGH_TO_REFUSE = 64 * 1024
"""Bytes of a body that is declared too large, after which priohook does not wait for the rest."""

Headers = tuple[tuple[str, str], ...]

NOT_KEPT = ("Accept", "text/html")
"""Goes with what must be refused at the door: behind a proxy that presents credentials of its own it is 406, which
nothing is kept of."""

CAP = "A proxy with a limit of its own answers before priohook does, and what was sent is not kept: raise its limit."
PROXY_BODY = "Something before priohook answers with its own page. Let it pass priohook's answers through unchanged."


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One request.

    Attributes:
        name: What it is about.
        advice: The likely cause of another answer, and what to do.
        status: What the answer must have.
        body: What the answer's body must be.
        headers: What the answer's headers must be; `*` is anything.
        method: The request's method.
        path: Instead of the webhook's, from the beginning of the deployment.
        sent: The request's headers.
        content: The request's body.
        kept: Whether the receiver stores something; `--read-only` leaves it out.
        tolerable: Whether 200 is right too, where the receiver is told to accept what it cannot read.
        credentials: Whether it needs them.
        group: Probes of one group are answered with the same Event-Id.
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
        """In words, without the secret."""
        words = [f"{self.method} {self.path}" if self.path else self.method]
        for name, value in self.sent:
            words.append(f"{name}: {value.partition(' ')[0]} …" if name == "Authorization" else f"{name}: {value}")
        if isinstance(self.content, bytes) and self.content:
            words.append(f"{len(self.content)} bytes")
        return ", ".join(words)


def probes(username: str | None, password: str | None) -> Iterator[Probe]:
    """All probes, the harmless ones first; those with credentials only where there are some."""
    yield from _open_doors()
    yield from _refusals()
    if username is not None and password is not None:
        authorization = ("Authorization", _basic(f"{username}:{password}"))
        yield from _with_credentials(authorization)


def event(kind: str = MARK, *, padding: int = 0) -> bytes:
    """The body of an event that nobody's business logic knows."""
    notification = {
        "notification_id": str(uuid4()),
        "notification_event": kind,
        "notification_item_id": "PRIOHOOK-CHECK",
    }
    content = {"kind": "notification", "notification": notification, "padding": "x" * padding}
    return json.dumps({"api_version": "3.8.0", "data": content}).encode()


def _open_doors() -> Iterator[Probe]:
    advice = "Route this path to priohook too: a balancer asks it whether the receiver is well."
    yield Probe(name="alive", advice=advice, status=200, body="any", method="GET", path="/healthz")
    yield Probe(
        name="ready",
        advice="503 says that the database is away or its schema is old: run `priohook migrate`. Else as above.",
        status=200,
        body="any",
        method="GET",
        path="/readyz",
    )
    yield Probe(name="unknown path", advice=PROXY_BODY, status=404, path="/priohook-check-nothing-is-here")
    yield Probe(
        name="GET",
        advice="A proxy that allows some methods only answers 405 itself; let all methods through.",
        status=405,
        headers=(("allow", "POST"),),
        method="GET",
    )
    for method in ("PROPFIND", "BREW"):
        yield Probe(
            name=f"{method}, no method of HTTP",
            advice="A proxy refuses it before priohook does. Harmless, if it does so for no other method.",
            status=501,
            method=method,
        )


def _refusals() -> Iterator[Probe]:
    challenge = (("www-authenticate", CHALLENGE),)
    yield Probe(
        sent=(NOT_KEPT,),
        name="no credentials",
        advice="A proxy that strips WWW-Authenticate or adds a page of its own hides the challenge: pass both through.",
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
            advice="If a proxy authenticates by itself, let it leave Authorization alone.",
            status=401,
            headers=challenge,
            sent=(("Authorization", authorization), NOT_KEPT),
        )


def _with_credentials(authorization: tuple[str, str]) -> Iterator[Probe]:
    typed = (authorization, ("Content-Type", "application/json"))
    yield Probe(
        name="two Authorization headers",
        advice="A proxy drops one of them, and may have looked at the other one. Let it refuse both or pass both on.",
        status=401,
        headers=(("www-authenticate", CHALLENGE),),
        sent=(authorization, authorization, NOT_KEPT),
        credentials=True,
    )
    yield Probe(
        name="Accept without JSON",
        advice="A proxy changes Accept: let it pass on as it is.",
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
        advice="503 says that the database is away. A proxy must pass Event-Id on, and add no body.",
    )
    yield stored(
        name="the same again",
        content=body,
        group="copies",
        advice="Another Event-Id says that not all receivers have the same database.",
    )
    yield stored(
        name="an event in gzip",
        content=gzip.compress(event(), mtime=0),
        sent=(*typed, ("Content-Encoding", "gzip")),
        advice="A proxy refuses the coding or undoes it; let it pass bodies on as they are.",
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
        advice=f"{CAP} No answer says that it waits for the whole body first.",
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
        advice="A proxy that collects bodies gives up before priohook does, and nothing is kept: let it pass bodies on "
        "as they come. No answer says that it, or body_timeout, waits longer than --timeout.",
    )


def _basic(credential: str) -> str:
    return "Basic " + b64encode(credential.encode()).decode()


def _chunks() -> Iterator[bytes]:
    chunk = f"{MARK} in chunks".encode().ljust(MEGABYTE)
    for _ in range(OVER_ANY_LIMIT):
        yield b"%x\r\n%b\r\n" % (MEGABYTE, chunk)
    yield b"0\r\n\r\n"  # a proxy that collects bodies waits for it


def _bomb() -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # 16: in gzip's wrapping
    return b"".join([*(packer.compress(bytes(MEGABYTE)) for _ in range(OVER_ANY_LIMIT)), packer.flush()])

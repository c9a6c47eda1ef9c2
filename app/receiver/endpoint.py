"""POST /webhooks/prioticket: negotiate, read, parse, append, 200."""

from collections.abc import Iterable
from datetime import timedelta
from time import monotonic
from typing import Any, ClassVar, Literal, TypedDict

from starlette.types import Receive, Scope, Send

from app.auth.clients import Client
from app.events.ids import made_at, new_id
from app.events.store import EventStore, NewEvent, StoreRefused
from app.events.tables import Status
from app.prioticket.identity import accepted_key, refused_key
from app.prioticket.payloads import NoEnvelope, NotJSON, Payload, parse_payload
from app.web.body import (
    CODINGS,
    KEPT_BYTES,
    Body,
    ClientGone,
    Ending,
    InflatesTooFar,
    UndecodableBody,
    content_coding,
    decode,
    read_body,
)
from app.web.negotiation import accepts_json, is_json
from app.web.problems import Problem

NEVER_KEPT = frozenset((b"authorization", b"cookie", b"proxy-authorization"))
BUSY_FOR = 1.0  # seconds
LONGEST_LENGTH = 18
"""Digits of a Content-Length that is believed: what is longer fits no column, and is counted instead."""


class State(TypedDict):
    """What this module needs from the application's lifespan."""

    events: EventStore


class NotAcceptable(Problem):
    """The sender takes no JSON, and every answer that has a body is JSON."""

    status = 406


class Refused(Problem):
    """An authenticated request whose bytes are kept in quarantine."""

    tolerable: ClassVar[bool] = True
    """Whether `on_unprocessable = "accept"` answers 200 instead."""


class NotReadable(Refused):
    """The bytes are no JSON."""

    status = 400


class TooSlow(Refused):
    """The body did not arrive in time."""

    status = 408
    tolerable = False


class TooLarge(Refused):
    """The body is over the limit."""

    status = 413
    tolerable = False


class UnsupportedMediaType(Refused):
    """The content type is not JSON, or the content coding is unknown."""

    status = 415


class Unprocessable(Refused):
    """JSON, and no envelope."""

    status = 422


class Receiver:
    """The endpoint, as plain ASGI: a request object for each request costs a third of the throughput."""

    def __init__(
        self, *, max_body_bytes: int, body_timeout: timedelta, on_unprocessable: Literal["refuse", "accept"]
    ) -> None:
        self._limit = max_body_bytes
        self._timeout = body_timeout
        self._accept_all = on_unprocessable == "accept"
        self._last = -BUSY_FOR

    def is_busy(self) -> bool:
        """Whether a webhook came in the last second."""
        return monotonic() - self._last < BUSY_FOR

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stores the event, then answers 200; a sender that saw 200 need never retry."""
        self._last = monotonic()
        headers = _by_name(scope["headers"])
        if not accepts_json(headers.get(b"accept", b"")):
            raise NotAcceptable("Every answer here is application/json.", "Send Accept: application/json, or none.")
        try:
            body = await read_body(receive, declared=_length(headers), limit=self._limit, timeout=self._timeout)
        except ClientGone:
            return
        line = scope["state"]["line"]
        line["bytes"] = body.size
        client: Client = scope["state"]["client"]
        store: EventStore = scope["state"]["events"]
        refusal = None
        try:
            content = judge(body, headers, limit=self._limit)
            event = accepted(content, body, scope["headers"], client)
        except Refused as problem:
            refusal = problem
            event = quarantined(problem, body, scope["headers"], client, declared=_length(headers))
        try:
            stored = await store.append(event)
        except StoreRefused:
            # A person looks at it; answered 503, it would come again and again until the sender gives up.
            event = without_what_was_read(event)
            line["quarantined"] = 200
            stored = await store.append(event)
        event_id = str(stored.id)
        line["event_id"] = event_id
        line["type"] = event.type
        line["duplicate"] = stored.duplicate
        if refusal is not None:
            line["quarantined"] = refusal.status
            if not (self._accept_all and refusal.tolerable):
                raise refusal
        answer = [(b"content-length", b"0"), (b"event-id", event_id.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": answer})
        await send({"type": "http.response.body", "body": b""})


def judge(body: Body, headers: dict[bytes, bytes], *, limit: int) -> bytes:
    """The content of an acceptable body, its coding undone; in the order of the contract's table.

    Raises:
        Refused: it is not acceptable.
    """
    coding = content_coding(headers.get(b"content-encoding", b""))
    undecodable = None
    content = body.content
    if body.ending is Ending.TOO_LARGE:
        raise _too_large(limit, unread=body.unread)
    if body.ending is Ending.COMPLETE and coding in CODINGS:
        try:
            content = decode(content, coding, limit=limit)
        except InflatesTooFar:
            raise _too_large(limit, unread=False) from None
        except UndecodableBody as error:
            undecodable = error
    if not is_json(headers.get(b"content-type")):
        raise UnsupportedMediaType("The content type is not JSON.", "Send Content-Type: application/json.")
    if coding and coding not in CODINGS:
        raise UnsupportedMediaType("The content coding is unknown.", "Send the body plain, or as gzip or deflate.")
    if body.ending is Ending.TOO_SLOW:
        raise TooSlow("The body did not arrive in time.", "Send it again, faster.", close=True, unread=True)
    if undecodable:
        raise NotReadable("The body is not what its Content-Encoding says.", f"It is {undecodable}.")
    return content


def _too_large(limit: int, *, unread: bool) -> TooLarge:
    what = f"The body is over the limit of {limit} bytes."
    return TooLarge(what, "Send less, or raise max_body_bytes.", close=True, unread=unread)


def parse(content: bytes) -> Payload:
    """As `parse_payload`, with the problems that the sender is told.

    Raises:
        Refused: 400 or 422.
    """
    try:
        return parse_payload(content)
    except NotJSON as error:
        raise NotReadable("The body is not JSON.", f"In detail: {error}.") from None
    except NoEnvelope as error:
        raise Unprocessable("The body is not a Prioticket webhook.", f"In detail: {error}.") from None


def accepted(content: bytes, body: Body, headers: Iterable[tuple[bytes, bytes]], client: Client) -> NewEvent:
    """The event that a good request becomes.

    Args:
        content: The body's, its coding undone.
        body: What arrived.
        headers: What came with it.
        client: Who sent it.

    Raises:
        Refused: as `parse`.
    """
    payload = parse(content)
    event_id = new_id()
    return NewEvent(
        id=event_id,
        received_at=made_at(event_id),  # one reading of the clock: `since` and `until` compare ids
        client=client.name,
        headers=kept_headers(headers),
        body=body.content,
        body_bytes=body.size,
        dedup_key=accepted_key(client.username, content),
        **payload._asdict(),
    )


def quarantined(
    problem: Refused,
    body: Body,
    headers: Iterable[tuple[bytes, bytes]],
    client: Client,
    *,
    declared: int | None,
) -> NewEvent:
    """What is kept of a refused request. The same bytes refused again are a copy: a sender retries for seven days."""
    content = body.content[:KEPT_BYTES] if isinstance(problem, TooLarge) else body.content
    cut = body.ending is Ending.TOO_LARGE
    event_id = new_id()
    return NewEvent(
        id=event_id,
        received_at=made_at(event_id),  # one reading of the clock: `since` and `until` compare ids
        client=client.name,
        headers=kept_headers(headers),
        body=content,
        body_bytes=body.size,
        dedup_key=refused_key(client.username, problem.status, body.content, declared=declared if cut else None),
        status=Status.QUARANTINED.value,
        reason=f"{problem.status}: {problem.message} {problem.description}",
    )


def without_what_was_read(event: NewEvent) -> NewEvent:
    """The event with its bytes and nothing that was read from them, in quarantine: a database refused the whole."""
    reason = event.reason or "200: The database refused what was read from the body; the log says why."
    nothing: dict[str, Any] = dict.fromkeys(Payload._fields[:-1])
    return event._replace(status=Status.QUARANTINED.value, reason=reason, **nothing)


def kept_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """All headers as they came, without those that carry credentials."""
    return b"\r\n".join([name + b": " + value for name, value in headers if name not in NEVER_KEPT])


def _by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Repeated fields are one, joined by commas, RFC 9110, section 5.3."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        found[name] = found[name] + b"," + value if name in found else value
    return found


def _length(headers: dict[bytes, bytes]) -> int | None:
    value = headers.get(b"content-length", b"")
    return int(value) if value.isdigit() and len(value) <= LONGEST_LENGTH else None

"""Decides what becomes of a webhook's body: an event, or a refusal whose bytes are kept in quarantine."""

from collections.abc import Iterable
from typing import Any

from starlette.types import Scope

from app.auth.clients import Client
from app.events.ids import new_id_and_time
from app.events.rows import NewEvent
from app.events.tables import Status
from app.prioticket.identity import accepted_key, refused_key
from app.prioticket.payloads import NoEnvelope, NotJSON, Payload, parse_payload
from app.telemetry import traces
from app.web.body import (
    CODINGS,
    KEPT_BYTES,
    Body,
    InflatesTooFar,
    UndecodableBody,
    coding_of,
    content_coding,
    decode,
)
from app.web.negotiation import is_json
from app.web.problems import NotReadable, Problem, TooLarge, TooSlow, Unprocessable, UnsupportedMediaType

ACCEPTED = Status.ACCEPTED.value
NEVER_KEPT = frozenset((b"authorization", b"cookie", b"proxy-authorization"))

REFUSALS = (NotReadable, TooSlow, TooLarge, UnsupportedMediaType, Unprocessable)
"""Refusals of an authenticated request; its bytes are kept in quarantine."""

TOLERABLE = (NotReadable, UnsupportedMediaType, Unprocessable)
"""Refusals that `on_unprocessable = "accept"` turns into a 200."""


def judge(body: Body, headers: dict[bytes, bytes], *, limit: int) -> bytes:
    """The decoded content of an acceptable body. The order of the checks is documented in docs/receiving.md.

    Raises:
        Problem: one of `REFUSALS`.
    """
    coding = content_coding(headers.get(b"content-encoding", b""))
    undecodable = None
    content = body.content
    if body.ending == "too_large":
        raise _too_large(limit, unread=body.unread)
    if body.ending == "complete" and coding in CODINGS:
        try:
            content = decode(content, coding, limit=limit)
        except InflatesTooFar:
            raise _too_large(limit, unread=False) from None
        except UndecodableBody as error:
            undecodable = error
    if not is_json(headers.get(b"content-type")):
        raise UnsupportedMediaType("The content type is not JSON.", "Send Content-Type: application/json.")
    if coding and coding not in CODINGS:
        raise UnsupportedMediaType(
            "The content coding is unknown.", "Send the body uncompressed, or as gzip or deflate."
        )
    if body.ending == "too_slow":
        raise TooSlow("The body did not arrive in time.", "Send it again, faster.", close=True, unread=True)
    if undecodable:
        raise NotReadable("The body is not what its Content-Encoding says.", f"In detail: {undecodable}.")
    return content


def _too_large(limit: int, *, unread: bool) -> TooLarge:
    what = f"The body is over the limit of {limit} bytes."
    return TooLarge(what, "Send less, or raise max_body_bytes.", close=True, unread=unread)


def parse(content: bytes) -> Payload:
    """As `parse_payload`, but raises the problems that the sender is answered.

    Raises:
        Problem: one of `REFUSALS`, 400 or 422.
    """
    try:
        return parse_payload(content)
    except NotJSON as error:
        raise NotReadable("The body is not JSON.", f"In detail: {error}.") from None
    except NoEnvelope as error:
        raise Unprocessable("The body is not a Prioticket webhook.", f"In detail: {error}.") from None


def accepted(content: bytes, body: Body, scope: Scope, client: Client) -> NewEvent:
    """The event that a good request becomes.

    Args:
        content: The decoded body.
        body: What arrived.
        scope: The request's.
        client: Who sent it.

    Raises:
        Problem: one of `REFUSALS`, as `parse`.
    """
    payload = parse(content)
    event_id, received_at = new_id_and_time()  # one reading of the clock: `since` and `until` compare ids
    state = scope["state"]
    return NewEvent(  # by position: by name it would take three times as long
        event_id,
        received_at,
        client.name,
        kept_headers(scope["headers"]),
        body.content,
        body.size,
        accepted_key(client.username, content, payload),
        ACCEPTED,
        None,
        *payload[1:],
        state["line"]["address"],
        state["request_id"],
        traces.kept(state["trace"], state["request_id"]),
    )


def quarantined(
    problem: Problem,
    body: Body,
    scope: Scope,
    client: Client,
    *,
    declared: int | None,
    keep: int,
) -> NewEvent:
    """The event that keeps a refused request. The same bytes refused again are a copy: senders retry for seven days.

    If only the size of a body is wrong, its type and reference are read, so that it is found by them.
    """
    content, payload = body.content, None
    if isinstance(problem, TooLarge):
        content = content if len(content) <= keep else content[:KEPT_BYTES]
        payload = _payload_over_the_limit(content, limit=keep)
    cut = body.ending == "too_large"
    event_id, received_at = new_id_and_time()  # one reading of the clock: `since` and `until` compare ids
    state = scope["state"]
    return NewEvent(
        id=event_id,
        received_at=received_at,
        client=client.name,
        headers=kept_headers(scope["headers"]),
        body=content,
        body_bytes=body.size,
        dedup_key=refused_key(client.username, problem.status, body.content, declared=declared if cut else None),
        status=Status.QUARANTINED.value,
        reason=f"{problem.status}: {problem.message} {problem.description}",
        type=payload and payload.type,
        event_name=payload and payload.event_name,
        reference=payload and payload.reference,
        address=state["line"]["address"],
        request_id=state["request_id"],
        trace=traces.kept(state["trace"], state["request_id"]),
    )


def _payload_over_the_limit(content: bytes, *, limit: int) -> Payload | None:
    """What a body over the limit says; None if it cannot be read, because it was cut for example."""
    try:
        return parse_payload(decode(content, coding_of(content, b""), limit=limit))
    except (UndecodableBody, InflatesTooFar, NotJSON, NoEnvelope):
        return None


def without_what_was_read(event: NewEvent) -> NewEvent:
    """The event in quarantine, with its bytes only: the database refused what was read from them."""
    reason = event.reason or "200: The database refused what was read from the body; the log says why."
    nothing: dict[str, Any] = {name: None for name in Payload._fields if name in NewEvent._fields and name != "shape"}
    return event._replace(status=Status.QUARANTINED.value, reason=reason, **nothing)


def kept_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """All headers as they came, without those that carry credentials."""
    return b"\r\n".join([b": ".join(field) for field in headers if field[0] not in NEVER_KEPT])

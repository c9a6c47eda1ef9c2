"""POST /webhooks/prioticket: negotiate, read, judge, append, 200."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from time import monotonic, perf_counter
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from app.events.rows import NewEvent, Stored
from app.events.store import EventStore, StoreFull, StoreRefused, StoreUnavailable
from app.receiver.judgement import REFUSALS, TOLERABLE, accepted, judge, quarantined, without_what_was_read
from app.web.body import ClientGone, declared_length, read_body
from app.web.negotiation import accepts_json
from app.web.openapi.operations import Answer, Operation
from app.web.problems import NotAcceptable, Problem

logger = logging.getLogger(__name__)

BUSY_FOR = 1.0  # seconds


NOTIFICATION = {
    "api_version": "3.8.0",
    "data": {
        "kind": "notification",
        "notification": {
            "notification_id": "3f7c1d0a-9f55-4d0e-8a35-6a1f0f3f2b10",
            "notification_status": "DELIVERY_PENDING",
            "notification_event": "ORDER_CANCEL",
            "notification_item_id": "PRI26081200417",
            "notification_created": "2026-08-12T10:15:32+02:00",
        },
    },
}
ORDER = {
    "api_version": "3.8.0",
    "data": {
        "kind": "order",
        "order": {
            "order_reference": "PRI26081200417",
            "order_external_reference": "WEB-10442",
            "order_status": "ORDER_CONFIRMED",
            "order_version": 2,
            "order_distributor_id": "1300501",
            "order_created": "2026-08-12T10:15:30+02:00",
            "order_modified": "2026-08-12T10:15:41+02:00",
            "order_bookings": [{"booking_reference": "PRI26081200417-1", "booking_status": "BOOKING_CONFIRMED"}],
        },
    },
}


class State(TypedDict):
    """What this module needs from the application's lifespan."""

    events: EventStore


class Envelope(BaseModel):
    """A webhook: a notification, the changed object itself, or both. All but `data` may be missing."""

    model_config = ConfigDict(extra="allow")

    data: dict[str, Any] = Field(description="With `notification`, `order`, `payment` or `product`; unknown keys pass.")


@Operation(
    tag="webhook",
    description=(
        "Checked in this order: credential, scope, `Accept`, the body's size, its content type and coding, its arrival "
        "in time, its JSON, its envelope. From 413 on, what arrived is kept in quarantine. A copy is answered "
        "200, like the first. After 503 or a broken connection, send the same request again."
    ),
    body=Envelope,
    examples={"notification": NOTIFICATION, "order": ORDER},
    answers={
        200: Answer(
            description="The event is committed, or it is a copy of one that was committed before.",
            media_type=None,
            headers={"Event-Id": "The id of the stored event."},
        )
    },
    problems=(NotAcceptable, *REFUSALS, StoreFull, StoreUnavailable),
)
class Receiver:
    """Receive a webhook.

    Plain ASGI, since a request object for each request costs a third of the throughput.
    """

    def __init__(
        self,
        *,
        max_body_bytes: int,
        max_quarantined_bytes: int,
        body_timeout: timedelta,
        on_unprocessable: Literal["refuse", "accept"],
    ) -> None:
        self._limit = max_body_bytes
        self._keep = max_quarantined_bytes
        self._timeout = body_timeout
        self._accept_all = on_unprocessable == "accept"
        self._last = -BUSY_FOR

    def is_busy(self) -> bool:
        """Whether a webhook came in the last second."""
        return monotonic() - self._last < BUSY_FOR

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stores the event, then answers 200; a sender that saw 200 need never retry."""
        self._last = monotonic()
        state = scope["state"]
        headers = _by_name(scope["headers"], state["headers"])
        if not accepts_json(headers.get(b"accept", b"")):
            raise NotAcceptable("Every answer here is application/json.", "Send Accept: application/json, or none.")
        declared = declared_length(headers.get(b"content-length"))
        try:
            body = await read_body(
                receive, declared=declared, limit=self._limit, timeout=self._timeout, keep=self._keep
            )
        except ClientGone:
            return
        line, client = state["line"], state["client"]
        line["bytes"] = body.size
        store: EventStore = state["events"]
        refusal: Problem | None = None
        try:
            content = judge(body, headers, limit=self._limit)
            event = accepted(content, body, scope, client)
        except REFUSALS as problem:
            # Their frames refer to this one, which refers to the problem: a cycle that would keep the body.
            refusal = problem.with_traceback(None)
            refusal.__context__ = None
            event = quarantined(problem, body, scope, client, declared=declared, keep=self._keep)
        line["type"] = event.type
        line["reference"] = event.reference
        asked = state["asked"] = perf_counter()
        try:
            stored = await store.append(event)
        except StoreRefused:
            # Kept for a person to look at: after a 503 it would come again and again until the sender gives up.
            event = without_what_was_read(event)
            line["quarantined"] = 200
            stored = await store.append(event)
            _tell_quarantined(stored, event, status=200, reason="refused_by_database")
        finally:
            line["wait_ms"] = int((perf_counter() - asked) * 10_000 + 0.5) / 10
        event_id = str(stored.id)
        line["event_id"] = event_id
        line["duplicate"] = stored.duplicate
        if refusal is not None:
            _tell_quarantined(stored, event, status=refusal.status, reason=refusal.reason)
            line["quarantined"] = refusal.status
            if not (self._accept_all and isinstance(refusal, TOLERABLE)):
                raise refusal
        answer = [(b"content-length", b"0"), (b"event-id", event_id.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": answer})
        await send({"type": "http.response.body", "body": b""})


def _tell_quarantined(stored: Stored, event: NewEvent, *, status: int, reason: str) -> None:
    """Logs it once, not with each copy: a sender may retry for days."""
    if not stored.duplicate:
        fields = {"client": event.client, "status": status, "reason": reason, "event_id": str(stored.id)}
        logger.warning("quarantined", extra={"fields": fields})


def _by_name(headers: Sequence[tuple[bytes, bytes]], last: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The headers by name; repeated fields are joined by commas, RFC 9110, section 5.3.

    Args:
        headers: The request's.
        last: The last value of each name.
    """
    if len(last) == len(headers):
        return last
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        found[name] = found[name] + b"," + value if name in found else value
    return found

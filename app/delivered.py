"""What a function at `python:package.module:function` is called with: the place for a company's own business logic.

The function's module imports this one (`from app.delivered import DeliveredEvent`), so it imports nothing else of app.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredEvent:
    """An event for a function. If the function raises, it is called again later; if it returns, the event is delivered.

    Attributes:
        id: The same on every attempt and replay, so that the function can tell what it has already done.
        type: What happened, such as `ORDER_CANCEL`.
        event_name: The name under which Prioticket announced the event, if that is not the type.
        reference: The reference of the order or other object.
        order: The order as Prioticket sent it; None if it sent none.
        body: The exact bytes that arrived.
        attempt: From 1.
        replay: Whether a person asked for this delivery.
        superseded: Whether a newer version of the same order is stored.
        traceparent: Of this attempt (W3C Trace Context), for requests that the function makes.
        origin: `received`; `fetched` if priohook fetched it from Prioticket; `both` if it came in both ways.
        cause: The id of the notification because of which it was fetched.
        snapshot_failed: Whether it is a notification without payload whose order could not be fetched.
        test: Whether a person sent it to test the destination; it is about nothing that happened.
    """

    id: UUID
    type: str | None
    event_name: str | None = None
    reference: str | None
    order: Mapping[str, Any] | None
    body: bytes
    attempt: int
    replay: bool
    superseded: bool
    traceparent: str | None = None
    origin: str = "received"
    cause: UUID | None = None
    snapshot_failed: bool = False
    test: bool = False

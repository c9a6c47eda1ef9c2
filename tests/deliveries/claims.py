"""Claims like those that a worker gets."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from app.deliveries.claims import Claim
from app.events.ids import new_id

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
EVENT_ID = UUID("01987f6e-0000-7000-8000-000000000001")


def new_claim(**changes: Any) -> Claim:
    values: dict[str, Any] = {
        "delivery_id": new_id(),
        "attempt": 1,
        "tries": 1,
        "event_id": EVENT_ID,
        "type": "ORDER_UPDATE",
        "event_name": None,
        "reference": "PRI1",
        "replay_id": None,
        "headers": [["content-type", "application/json"], ["accept", "*/*"]],
        "body": b'{"data": {}}',
        "superseded": False,
        "lost": 0,
    }
    return Claim(**values | changes)

"""The webhooks that are registered at the simulated Prioticket. In memory."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import uuid4

from app.simulator.sales import stamp

EVENTS = frozenset(
    (
        *("PRODUCT_CREATE", "PRODUCT_UPDATE", "PRODUCT_DELETE", "PRODUCT_ASSIGN", "PRODUCT_UNASSIGN"),
        *("ORDER_CREATE", "ORDER_UPDATE", "ORDER_CANCEL", "ORDER_CANCEL_PARTIAL", "PAYMENT_CREATE", "PAYMENT_REFUND"),
        *("VOUCHER_RELEASE", "VOUCHER_REVOKE", "REDEMPTION", "CATEGORY_CHANGE", "LOCATION_CHANGE"),
        *("AVAILABILITY_CHANGE", "CONTACT_CREATE", "CONTACT_UPDATE", "CREDIT_REACHED", "CREDIT_RESET"),
    )
)


class Registered:
    """All webhooks, by id, with their `webhook_auth`."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        """Set once a webhook has been registered."""
        self._webhooks: dict[str, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._webhooks)

    def add(self, asked: dict[str, Any], *, now: datetime) -> dict[str, Any]:
        """Registers a webhook.

        Raises:
            ValueError: it has no events, or an unknown one.
        """
        events = asked.get("webhook_events")
        if not isinstance(events, list) or not events:
            raise ValueError("webhook_events is required")
        if unknown := [str(event) for event in events if event not in EVENTS]:
            raise ValueError(f"webhook_events has unknown values: {', '.join(unknown)}")
        webhook: dict[str, Any] = {
            "webhook_id": str(uuid4()),
            "webhook_status": "ENABLED",
            "webhook_version": "3.8",
            "webhook_events": events,
            "webhook_url": asked.get("webhook_url"),
            "webhook_email": asked.get("webhook_email"),
            "webhook_payload": asked.get("webhook_payload", True) in (True, "true"),
            "webhook_auth": asked.get("webhook_auth"),
            "webhook_created": stamp(now),
            "webhook_created_name": "Simulated API User",
            "webhook_created_email": "api-user@example.com",
        }
        self._webhooks[webhook["webhook_id"]] = webhook
        self.first.set()
        return webhook

    def remove(self, webhook_id: str) -> bool:
        """Removes a webhook; False if there is none with this id."""
        return self._webhooks.pop(webhook_id, None) is not None

    def disable(self, webhook_id: str) -> None:
        """Disables a webhook: nothing is sent to it any more."""
        self._webhooks[webhook_id]["webhook_status"] = "DISABLED"

    def all(self) -> list[dict[str, Any]]:
        """All webhooks, the oldest first."""
        return [*self._webhooks.values()]

    def wanting(self, event: str) -> list[dict[str, Any]]:
        """The webhooks that an event is sent to."""
        return [
            webhook
            for webhook in self._webhooks.values()
            if webhook["webhook_status"] == "ENABLED" and webhook["webhook_url"] and event in webhook["webhook_events"]
        ]

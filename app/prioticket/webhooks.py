"""Webhooks as they are registered at Prioticket. Pure."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

EVENTS = (
    "ORDER_CREATE",
    "ORDER_UPDATE",
    "ORDER_CANCEL",
    "ORDER_CANCEL_PARTIAL",
    "PAYMENT_CREATE",
    "PAYMENT_REFUND",
    "VOUCHER_RELEASE",
    "REDEMPTION",
)
"""Registered unless other events are named."""

PRODUCT_EVENTS = ("PRODUCT_CREATE", "PRODUCT_UPDATE", "PRODUCT_DELETE", "PRODUCT_ASSIGN", "PRODUCT_UNASSIGN")
UPCOMING = (
    "VOUCHER_REVOKE",
    "CATEGORY_CHANGE",
    "LOCATION_CHANGE",
    "AVAILABILITY_CHANGE",
    "CONTACT_CREATE",
    "CONTACT_UPDATE",
    "CREDIT_REACHED",
    "CREDIT_RESET",
)
"""Announced, but perhaps not sent yet."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A registered webhook. `webhook_auth` is not kept: whether Prioticket shows it is unknown."""

    id: str
    status: str
    version: str
    payload: bool
    events: tuple[str, ...]
    url: str
    email: str
    created: str
    created_by: str

    @property
    def enabled(self) -> bool:
        """Whether Prioticket sends it anything; an unknown status counts as yes."""
        return self.status != "DISABLED"


def webhook_from(item: dict[str, Any]) -> Webhook:
    """The webhook in an answer."""
    events = item.get("webhook_events")
    made_by = [_text(item.get(name)) for name in ("webhook_created_name", "webhook_created_email")]
    return Webhook(
        id=_text(item.get("webhook_id")),
        status=_text(item.get("webhook_status")),
        version=_text(item.get("webhook_version")),
        payload=item.get("webhook_payload")
        not in (False, "false", "0", 0),  # some versions of the API answer with text
        events=tuple(_text(event) for event in events) if isinstance(events, list) else (),
        url=_text(item.get("webhook_url")),
        email=_text(item.get("webhook_email")),
        created=_text(item.get("webhook_created")),
        created_by=" ".join(filter(None, made_by)),
    )


def registration(
    url: str, events: Sequence[str], *, username: str, secret: str, payload: bool, email: str | None
) -> dict[str, Any]:
    """The webhook to register. `webhook_auth` is what Prioticket will send after `Basic`."""
    asked = {
        "webhook_events": list(events),
        "webhook_url": url,
        "webhook_payload": payload,
        "webhook_auth": b64encode(f"{username}:{secret}".encode()).decode(),
    }
    return asked | ({"webhook_email": email} if email else {})


def same_url(one: str, other: str) -> bool:
    """Whether two URLs are the same, whatever the case of the host, with or without the default port."""
    return _normal(one) == _normal(other)


def _normal(url: str) -> tuple[object, ...]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return (url,)
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, port or usual, parts.path or "/", parts.query


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int) else ""

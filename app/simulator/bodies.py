r"""The bodies of notifications, as PHP writes JSON: compact ASCII with `\u` and `\/`."""

import json
from random import Random
from typing import Any
from uuid import UUID

API_VERSION = "3.8.0"


def as_php(value: object) -> bytes:
    """The value as JSON."""
    return json.dumps(value, separators=(",", ":")).replace("/", r"\/").encode()


def body_of(event: str, order: dict[str, Any], *, created: str, shape: str, random: Random) -> bytes:
    """A body that tells of an event.

    Args:
        event: Prioticket's name for it.
        order: The order after it.
        created: When it happened.
        shape: `notification`, `order` or `both`.
        random: Makes the notification's id.
    """
    content: dict[str, Any] = {"kind": "order" if shape == "order" else "notification"}
    if shape != "order":
        content["notification"] = {
            "notification_id": str(UUID(int=random.getrandbits(128), version=4)),
            "notification_status": "DELIVERY_PENDING",
            "notification_event": event,
            "notification_account_id": "1300501",
            "notification_item_id": order["order_reference"],
            "notification_created": created,
        }
    if shape != "notification":
        content["order"] = order
    return as_php({"api_version": API_VERSION, "data": content})

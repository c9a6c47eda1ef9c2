"""The place of `DeliveredEvent` in the first release; it is now in `app.delivered`."""

from app.delivered import DeliveredEvent

__all__ = ["DeliveredEvent"]

"""Where `DeliveredEvent` was in the first release: `app.delivered` has it."""

from app.delivered import DeliveredEvent

__all__ = ["DeliveredEvent"]

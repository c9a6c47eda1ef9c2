"""What a function behind `python:package.module:function` is called with: the place for a company's own business logic.

A function's module imports this one, as `from app.delivered import DeliveredEvent`, so it imports nothing of the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredEvent:
    """What a function is called with. It returns for success and raises for failure, which is tried again.

    Attributes:
        id: The same on every attempt and replay: what was done for it once need not be done again.
        type: Such as `ORDER_CANCEL`; None where Prioticket sent none.
        reference: The order's, or other object's.
        order: The order as Prioticket sent it; None if it sent none.
        body: The exact bytes that arrived.
        attempt: From 1.
        replay: Whether a person asked for it.
        superseded: Whether a newer version of the same order is stored.
    """

    id: UUID
    type: str | None
    reference: str | None
    order: Mapping[str, Any] | None
    body: bytes
    attempt: int
    replay: bool
    superseded: bool

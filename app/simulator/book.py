"""The orders of the simulated Prioticket with their past, so that what was notified can be fetched."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from app.simulator.orders import Step, lives

Order = dict[str, Any]


class Book:
    """All orders.

    Args:
        seed: Different seeds give different orders.
        now: The time.
    """

    def __init__(self, seed: int, *, now: Callable[[], datetime]) -> None:
        self._steps = lives(seed, now(), now=now)
        self._past: dict[str, list[Step]] = {}

    def advance(self) -> Step:
        """Lets one order take its next step."""
        step = next(self._steps)
        self._past.setdefault(step.reference, []).append(step)
        return step

    def newest(self) -> Iterator[Order]:
        """The newest state of each order, in the order in which they were made."""
        return (steps[-1].order for steps in self._past.values())

    def order(self, reference: str, *, version: int | None = None, at: datetime | None = None) -> Order | None:
        """The order now, at a version (its last state with it), or at a time; if it is younger, its first state."""
        states = self._past.get(reference, [])
        if version is not None:
            states = [step for step in states if step.order["order_version"] == version]
        if at is not None:
            states = [step for step in states if step.at <= at] or states[:1]
        return states[-1].order if states else None

    def payments(self) -> Iterator[dict[str, Any]]:
        """The payments of all orders."""
        return (payment for order in self.newest() for payment in order.get("order_payments", ()))

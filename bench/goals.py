"""What priohook is meant to reach: data."""

from itertools import product
from typing import NamedTuple

from bench.load import KINDS
from bench.plan import BACKLOG, COMPARED, MOST_STORED, PRUNED, SOAK_SECONDS
from bench.results import Row

DATABASES = ("sqlite", "postgresql")
MOST = "64 in flight"
STORED_BEFORE = 1201
"""Bytes that a notification took on SQLite on 2026-11-26, before keys and ids became smaller."""


class Goal(NamedTuple):
    """A bound of one figure.

    Attributes:
        sentence: What the figure is.
        table: The title of the table that has it, in `row` and `column`.
        least: Whether the figure must be at least `bound`, or at most.
        first: A bound on the way to it.
    """

    sentence: str
    table: str
    row: Row
    column: str
    bound: float
    least: bool = True
    first: float | None = None

    def verdict(self, figure: float | None) -> str:
        """`met`, `not met`, or `not measured`."""
        if figure is None:
            return "not measured"
        if self._kept(figure, self.bound):
            return "met"
        return "not met" if self.first is None or not self._kept(figure, self.first) else "not met, but the first step"

    def _kept(self, figure: float, bound: float) -> bool:
        return figure >= bound if self.least else figure <= bound


def _received(where: str, kind: str, connections: int = COMPARED) -> Row:
    return kind, connections, "receiver", where


OF_STARLETTE = {
    ("sqlite", "notification"): (0.30, 0.40),
    ("sqlite", "order"): (0.14, 0.20),
    ("postgresql", "notification"): (0.42, 0.50),
    ("postgresql", "order"): (0.20, 0.26),
}
OF_NAIVE = {"sqlite": 8, "postgresql": 6}
DELIVERIES = {("sqlite", MOST): 1200, ("postgresql", MOST): 2500, ("postgresql", "defaults"): 1500}
INSTRUCTIONS = {"notification": (400, 330), "order": (650, 560)}
BOTH = tuple(product(DATABASES, KINDS))

GOALS = (
    *(
        Goal("rate, of Starlette's empty route", "Throughput", _received(*of), "of starlette", goal, first=first)
        for of, (first, goal) in OF_STARLETTE.items()
    ),
    *(
        Goal(
            "instructions, in thousands",
            "Instructions",
            ("+ hand-off", kind),
            "thousands",
            goal,
            least=False,
            first=first,
        )
        for kind, (first, goal) in INSTRUCTIONS.items()
    ),
    *(
        Goal("rate, of the FastAPI twin's", "Throughput", _received(where, "notification"), "of fastapi", 12)
        for where in DATABASES
    ),
    *(
        Goal("rate, of the naive twin's", "Throughput", _received(where, kind), "of naive", OF_NAIVE[where])
        for where, kind in BOTH
    ),
    *(Goal("rate, of nostore's", "Throughput", _received(*of), "of nostore", 0.6) for of in BOTH),
    *(
        Goal("median, of the bare commit's", "Throughput", _received(*of, 1), "of commit's p50", 1.5, least=False)
        for of in BOTH
    ),
    *(Goal("p99, of p50", "Throughput", _received(*of), "p99 of p50", 4, least=False) for of in BOTH),
    *(
        Goal("rate, of that at none", "Growth", (*of, references, MOST_STORED), "of none", 0.97)
        for of, references in product(BOTH, ("new", "stored"))
    ),
    Goal("bytes", "Storage", ("sqlite", "notification"), "bytes stored/event", 0.75 * STORED_BEFORE, least=False),
    *(Goal("rate, of one receiver's", "Receivers", ("postgresql", 2, kind), "of one", 1.4) for kind in KINDS),
    *(Goal("MB of memory under load", "Memory", (where,), "under load", 150, least=False) for where in DATABASES),
    *(
        Goal("memory after the burst, of that at rest", "Memory", (where,), "after, of rest", 1.2, least=False)
        for where in DATABASES
    ),
    *(Goal("deliveries a second", "Deliveries", of, "deliveries/s", goal) for of, goal in DELIVERIES.items()),
    *(
        Goal("ms from a 200 to the delivery at rest", "Deliveries", (where, MOST), "at rest, p50 ms", 50, least=False)
        for where in DATABASES
    ),
    *(
        Goal("rate beside a worker, of that alone", "Deliveries", (where, MOST), "receiver beside", 0.9)
        for where in DATABASES
    ),
    *(
        Goal("rate while old events are deleted, of that before", "Prune", (where, PRUNED), "receiver beside", 0.95)
        for where in DATABASES
    ),
    *(
        Goal("deliveries a second in a backlog", "Backlog", (where, BACKLOG), "deliveries/s", DELIVERIES[where, MOST])
        for where in DATABASES
    ),
    *(
        Goal("% of a processor, idle", "Idle", (where, destinations), "worker's %", 0.2, least=False)
        for where, destinations in product(DATABASES, (1, 200))
    ),
    *(
        Goal("ms from a 200 to the delivery, p99", "Soak", (where, SOAK_SECONDS), "p99 ms", 1000, least=False)
        for where in DATABASES
    ),
)

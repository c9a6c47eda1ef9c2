"""What the receiver is meant to reach: data."""

from typing import NamedTuple

from bench.load import KINDS
from bench.plan import COMPARED, MOST_STORED
from bench.results import Row

DATABASES = ("sqlite", "postgresql")


class Goal(NamedTuple):
    """A bound of one figure.

    Attributes:
        sentence: What the figure is.
        table: The title of the table that has it, in `row` and `column`.
        least: Whether the figure must be at least `bound`, or at most.
    """

    sentence: str
    table: str
    row: Row
    column: str
    bound: float
    least: bool = True

    def verdict(self, figure: float | None) -> str:
        """`met`, `not met`, or `not measured`."""
        if figure is None:
            return "not measured"
        return "met" if (figure >= self.bound if self.least else figure <= self.bound) else "not met"


def _throughput(sentence: str, where: str, column: str, bound: float, *, least: bool = True) -> list[Goal]:
    connections = 1 if column == "of commit's p50" else COMPARED
    rows = [(kind, connections, "receiver", where) for kind in KINDS]
    return [Goal(sentence, "Throughput", row, column, bound, least) for row in rows]


GOALS = (
    *_throughput("rate, of the naive twin's", "sqlite", "of naive", 8),
    *_throughput("rate, of the naive twin's", "postgresql", "of naive", 6),
    *_throughput("rate, of Starlette's no-op", "sqlite", "of starlette", 0.40),
    *_throughput("rate, of Starlette's no-op", "postgresql", "of starlette", 0.35),
    *(goal for where in DATABASES for goal in _throughput("rate, of nostore's", where, "of nostore", 0.6)),
    *(
        goal
        for where in DATABASES
        for goal in _throughput("median, of the bare commit's", where, "of commit's p50", 1.5, least=False)
    ),
    *(goal for where in DATABASES for goal in _throughput("p99, of p50", where, "p99 of p50", 4, least=False)),
    *(
        Goal("rate, of the rate at none", "Growth", (where, kind, MOST_STORED), "of none", 0.9)
        for where in DATABASES
        for kind in KINDS
    ),
    *(Goal("rate, of one receiver's", "Receivers", (2, kind), "of one", 1.4) for kind in KINDS),
    *(Goal("MB of memory under load", "Memory", (where,), "under load", 150, least=False) for where in DATABASES),
    *(
        Goal("memory after the burst, of that at rest", "Memory", (where,), "after, of rest", 1.2, least=False)
        for where in DATABASES
    ),
    *(
        Goal("the receiver's rate beside a worker, of that alone", "Deliveries", (where,), "receiver beside", 0.9)
        for where in DATABASES
    ),
    *(
        Goal("ms from a 200 to the delivery", "Deliveries", (where,), "at rest, p50 ms", 50, least=False)
        for where in DATABASES
    ),
    Goal("deliveries a second of one worker", "Deliveries", ("postgresql",), "deliveries/s", 1000),
)

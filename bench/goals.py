"""What priohook is meant to reach: data."""

from collections.abc import Iterable
from itertools import product
from typing import Literal, NamedTuple

from bench import databases
from bench.load import KINDS

COMPARED = 64
"""The number of connections that the goals are about."""

MOST = "64 in flight"
STORED, WAITING = 5_000_000, 1_000_000  # events
SOAK_SECONDS = 600
BYTES_BEFORE = 1201
"""What a notification took on SQLite on 2026-11-26, before keys and ids became smaller."""


Row = tuple[str | int, ...]
"""What a line of a table is about, in the order of the table's head."""


class Goal(NamedTuple):
    """A bound of one figure.

    Attributes:
        sentence: What the figure is.
        table: The title of the table that has it, in `row` and `column`.
        sign: Whether the figure must be at least the bound, or at most.
        steps: The bound, which may have another one on the way to it.
    """

    sentence: str
    table: str
    column: str
    sign: Literal["≥", "≤"]
    row: Row
    steps: tuple[float, ...]

    def verdict(self, figure: float | None) -> str:
        """`met`, `not met`, or `not measured`."""
        if figure is None:
            return "not measured"
        kept = [figure >= step if self.sign == "≥" else figure <= step for step in self.steps]
        return "met" if kept[-1] else "not met, but the first step" if kept[0] else "not met"


Steps = dict[Row, tuple[float, ...]]
Sign = Literal["≥", "≤"]


def _all(rows: Iterable[Row], bound: float) -> Steps:
    return dict.fromkeys(rows, (bound,))


SQLITE, POSTGRESQL = WHERE = databases.KINDS
BOTH = [*product(WHERE, KINDS)]
RECEIVED: list[Row] = [(kind, COMPARED, "receiver", where) for where, kind in BOTH]
NOTIFICATIONS = [row for row in RECEIVED if row[0] == "notification"]
ALONE = [(kind, 1, "receiver", where) for where, kind in BOTH]
OF_STARLETTE: Steps = dict(zip(RECEIVED, [(0.30, 0.40), (0.14, 0.20), (0.42, 0.50), (0.20, 0.26)], strict=True))
INSTRUCTIONS: Steps = {("+ hand-off", "notification"): (400, 330), ("+ hand-off", "order"): (650, 560)}
GROWN = [(*of, references, STORED) for of, references in product(BOTH, ("new", "stored"))]
MANY = [(where, MOST) for where in WHERE]
OLD = [(where, WAITING) for where in WHERE]
DELIVERED: Steps = {(SQLITE, MOST): (1200,), (POSTGRESQL, MOST): (2500,), (POSTGRESQL, "defaults"): (1500,)}
BACKLOG: Steps = {(SQLITE, WAITING): (1200,), (POSTGRESQL, WAITING): (2500,)}
IDLE = [*product(WHERE, (1, 200))]

TABLE: tuple[tuple[str, str, str, Sign, Steps], ...] = (
    ("rate, of Starlette's empty route", "Throughput", "of starlette", "≥", OF_STARLETTE),
    ("instructions, in thousands", "Instructions", "thousands", "≤", INSTRUCTIONS),
    ("rate, of the FastAPI twin's", "Throughput", "of fastapi", "≥", _all(NOTIFICATIONS, 12)),
    ("rate, of the naive twin's", "Throughput", "of naive", "≥", _all(RECEIVED[:2], 8) | _all(RECEIVED[2:], 6)),
    ("rate, of nostore's", "Throughput", "of nostore", "≥", _all(RECEIVED, 0.6)),
    ("median, of the bare commit's", "Throughput", "of commit's p50", "≤", _all(ALONE, 1.5)),
    ("p99, of p50", "Throughput", "p99 of p50", "≤", _all(RECEIVED, 4)),
    ("rate, of that at none", "Growth", "of none", "≥", _all(GROWN, 0.97)),
    ("bytes", "Storage", "bytes stored/event", "≤", _all([(SQLITE, "notification")], 0.75 * BYTES_BEFORE)),
    ("rate, of one receiver's", "Receivers", "of one", "≥", _all([(POSTGRESQL, 2, kind) for kind in KINDS], 1.4)),
    ("MB of memory under load", "Memory", "under load", "≤", _all([(where,) for where in WHERE], 150)),
    ("memory after the burst, of that at rest", "Memory", "after, of rest", "≤", _all([(w,) for w in WHERE], 1.2)),
    ("deliveries a second", "Deliveries", "deliveries/s", "≥", DELIVERED),
    ("ms from a 200 to the delivery at rest", "Deliveries", "at rest, p50 ms", "≤", _all(MANY, 50)),
    ("rate beside a worker, of that alone", "Deliveries", "receiver beside", "≥", _all(MANY, 0.9)),
    ("rate while old events are deleted, of that before", "Prune", "receiver beside", "≥", _all(OLD, 0.95)),
    ("deliveries a second in a backlog", "Backlog", "deliveries/s", "≥", BACKLOG),
    ("% of a processor, idle", "Idle", "worker's %", "≤", _all(IDLE, 0.2)),
    ("ms from a 200 to the delivery, p99", "Soak", "p99 ms", "≤", _all([(w, SOAK_SECONDS) for w in WHERE], 1000)),
)
GOALS = [
    Goal(sentence, table, column, sign, row, steps)
    for sentence, table, column, sign, rows in TABLE
    for row, steps in rows.items()
]

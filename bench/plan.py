"""How much is measured, and what every part of the benchmark is given."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.databases import Databases, PostgreSQL, SQLite
from bench.results import Results

COMPARED = 64
"""The number of connections that the goals are about."""

MOST_STORED = 5_000_000
BACKLOG = 1_000_000
PRUNED = 1_000_000
SOAK_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The extent of a run.

    Attributes:
        seconds: Of each single measurement.
        warm_up: Seconds with each kind of body before a target is measured.
        growth: The numbers of stored events at which the receiver is measured.
        burst_connections: More than the receiver lets wait, so that the burst overfills its queue.
        deliveries: How many events a worker finds when it starts.
        delay_seconds: How long events are sent to see how soon they are delivered.
        backlog: How many events a worker finds that starts after a long time, and is watched for `backlog_seconds`.
        pruned: How many old events are deleted; each slice of load takes `prune_seconds` meanwhile; `--fast`
            is watched for `fast_seconds`.
        rough: Whether the figures are worth no verdicts, and no place beside those of other runs.
    """

    connections: tuple[int, ...] = (1, COMPARED)
    repetitions: int = 3
    seconds: int = 2
    warm_up: int = 1
    growth: tuple[int, ...] = (0, MOST_STORED)
    burst_connections: int = 2000
    burst_seconds: int = 8
    deliveries: int = 6000
    delay_seconds: int = 6
    backlog: int = BACKLOG
    backlog_seconds: int = 20
    pruned: int = PRUNED
    prune_seconds: int = 6
    fast_seconds: int = 30
    storage_seconds: int = 4
    idle_seconds: int = 15
    soak_seconds: int = SOAK_SECONDS
    rough: bool = False


FULL = Plan()
QUICK = Plan(
    repetitions=1,
    seconds=1,
    growth=(0, 50_000),
    burst_seconds=4,
    deliveries=1000,
    delay_seconds=3,
    backlog=20_000,
    backlog_seconds=5,
    pruned=50_000,
    prune_seconds=2,
    fast_seconds=5,
    storage_seconds=1,
    idle_seconds=3,
    soak_seconds=10,
    rough=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the benchmark.

    Attributes:
        folder: Where the SQLite files are.
        say: Tells whoever waits what is measured now.
    """

    plan: Plan
    folder: Path
    sqlite: SQLite
    postgresql: PostgreSQL
    results: Results
    say: Callable[[str], None]

    @property
    def both(self) -> tuple[Databases, Databases]:
        """The kinds of databases."""
        return self.sqlite, self.postgresql

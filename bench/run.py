"""How much is measured, and what every part of the benchmark is given."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench.databases import Database
from bench.goals import SOAK_SECONDS, STORED, WAITING
from bench.results import Results
from tests import postgres


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The extent of a run.

    Attributes:
        seconds: Of a single measurement; what needs more time takes a multiple.
        stored: How many events the receiver stores more events beside.
        waiting: How many events wait for a worker that starts after a long time, or are to be deleted.
        deliveries: How many events a worker delivers while it is measured.
        rough: Whether the figures are worth no verdicts, and no place beside those of other runs.
    """

    repetitions: int = 3
    seconds: int = 2
    stored: int = STORED
    waiting: int = WAITING
    deliveries: int = 6000
    soak_seconds: int = SOAK_SECONDS
    rough: bool = False


FULL = Plan()
QUICK = Plan(repetitions=1, seconds=1, stored=50_000, waiting=20_000, deliveries=1000, soak_seconds=10, rough=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the benchmark.

    Attributes:
        folder: Where the SQLite files are.
        server: PostgreSQL's.
        say: Called with what is measured now, for people to read.
    """

    plan: Plan
    folder: Path
    server: postgres.Server
    results: Results
    say: Callable[[str], None]
    numbers: "count[int]" = field(default_factory=count)

    def create(self, kind: str, *, events: int = 0) -> Database:
        """A new database that holds so many events."""
        self.say(f"  {kind}{f' with {events:,} events' if events else ''}")
        database = Database(kind, f"bench_{next(self.numbers)}", folder=self.folder, server=self.server)
        if events:
            database.fill(events)
        return database

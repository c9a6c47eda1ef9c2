"""What was measured, and the medians and ratios of it: pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

ACROSS = ""
"""The database of a target that has none."""


class Key(NamedTuple):
    """What is compared with what: a target, its database, the kind of body, and how many connections."""

    target: str
    database: str
    kind: str
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One repetition.

    Attributes:
        rate: Acknowledged events a second.
        cpu_us: Microseconds of processor time that server and database took for one event.
        failed: Answers that were not 200, and connections that broke.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int


class Samples:
    """All samples by key, in the order of the repetitions."""

    def __init__(self) -> None:
        self._by_key: defaultdict[Key, list[Sample]] = defaultdict(list)

    def add(self, key: Key, sample: Sample) -> None:
        """Appends a repetition."""
        self._by_key[key].append(sample)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def median(self, key: Key, name: str) -> float | None:
        """Over the repetitions, of the field with this name; None where nothing was measured."""
        values = [getattr(sample, name) for sample in self._by_key.get(key, [])]
        return median(values) if values else None

    def failed(self, key: Key) -> int:
        """Over all repetitions."""
        return sum(sample.failed for sample in self._by_key.get(key, []))

    def ratio(self, key: Key, to: Key, name: str = "rate") -> float | None:
        """The median of the ratios within each repetition, where the machine was the same for both."""
        pairs = zip(self._by_key.get(key, []), self._by_key.get(to, []), strict=False)
        values = [getattr(one, name) / getattr(other, name) for one, other in pairs if getattr(other, name)]
        return median(values) if values else None


@dataclass(slots=True)
class Ledger:
    """How many events must be stored: at least those acknowledged, at most those under way at the end too.

    Attributes:
        stored_before: What was there before the first run.
    """

    stored_before: int = 0
    acknowledged: int = 0
    under_way: int = 0

    def add(self, *, acknowledged: int, connections: int) -> None:
        """One run; each of its connections ended with at most one request that was not answered yet."""
        self.acknowledged += acknowledged
        self.under_way += connections

    def problem(self, stored: int) -> str | None:
        """What is wrong, or None."""
        new = stored - self.stored_before
        if new < self.acknowledged:
            return f"{self.acknowledged - new:,} of {self.acknowledged:,} acknowledged events are not stored"
        if new > self.acknowledged + self.under_way:
            return f"{new - self.acknowledged:,} events are stored beyond the {self.acknowledged:,} acknowledged"
        return None


class Batches(NamedTuple):
    """How many events the commits held; the median is that of the commits."""

    median: float
    largest: int
    commits: int


def batches(sizes: Iterable[tuple[int, int]]) -> Batches | None:
    """Of pairs: the size of a commit, and how many had it."""
    every = [size for size, commits in sizes for _ in range(commits)]
    return Batches(median(every), max(every), len(every)) if every else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """MB of 10^6 bytes that the receiver takes.

    Attributes:
        burst: The most while the database was locked.
        after: Some seconds after the burst.
        refused: How many of the burst's requests were answered 503, so that the queue was full or given up.
        connections: Of the burst.
    """

    rest: float
    load: float
    burst: float
    after: float
    refused: int
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """What one worker does.

    Attributes:
        rate: Deliveries a second while there is enough to do.
        rest_ms: From the 200 to the delivery, of single events: the median and the 99th of a hundred.
        loaded_ms: The same in a steady stream.
    """

    rate: float
    rest_ms: list[float]
    loaded_ms: list[float]


@dataclass(slots=True)
class Results:
    """All that one run of the benchmark found.

    Attributes:
        growth: By the number of events that were stored before.
        processes: Keys whose target is `one receiver` or `two receivers`.
        batches: By the receiver's key.
        beside: Keys whose target is the receiver `alone` or `beside a worker`.
        problems: Sentences; with any of them the run has failed.
    """

    throughput: Samples = field(default_factory=Samples)
    growth: dict[int, Samples] = field(default_factory=dict)
    processes: Samples = field(default_factory=Samples)
    batches: dict[Key, Batches] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    deliveries: dict[str, Deliveries] = field(default_factory=dict)
    beside: Samples = field(default_factory=Samples)
    problems: list[str] = field(default_factory=list)

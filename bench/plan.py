"""How much is measured."""

from dataclasses import dataclass

from bench.load import KINDS

COMPARED = 64
"""The number of connections that the goals are about."""

BURST_CONNECTIONS = 2000
"""More than the receiver lets wait, so that the burst overfills its queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The extent of a run.

    Attributes:
        seconds: Of each single measurement.
        warm_up: Seconds with each kind of body before a target is measured.
        settle: Seconds until the requests that a generator left behind are committed.
        growth: The numbers of stored events at which the receiver is measured.
        deliveries: How many events a worker finds when it starts.
        single_events: How many are sent now and then, to see how soon they are delivered.
    """

    connections: tuple[int, ...]
    repetitions: int
    seconds: float
    growth: tuple[int, ...]
    burst_connections: int = BURST_CONNECTIONS
    burst_seconds: float = 8.0
    kinds: tuple[str, ...] = tuple(KINDS)
    warm_up: float = 1.0
    settle: float = 1.0
    deliveries: int = 10_000
    single_events: int = 60


FULL = Plan(connections=(1, 8, COMPARED, 256), repetitions=3, seconds=2, growth=(0, 1_000_000, 5_000_000))
QUICK = Plan(connections=(1, COMPARED), repetitions=1, seconds=1, growth=(0, 100_000), burst_seconds=6, deliveries=3000)

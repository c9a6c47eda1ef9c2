"""A target under load: its figures, and whether it has stored what it acknowledged."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench import databases, load
from bench.databases import Databases
from bench.load import KINDS
from bench.plan import COMPARED, Run
from bench.processes import Target, cpu_seconds, running
from bench.results import FAILED, Ledger

TWIN_TABLE = "webhooks"


class Measured:
    """A running target, and what must be in its database."""

    def __init__(self, target: Target, kind: Databases | None, *, stored: int) -> None:
        self.target = target
        self._kind = kind
        self.ledger = Ledger(stored)

    def run(self, kind: str, connections: int, seconds: int, *, orders: int | None = None) -> dict[str, float]:
        """One repetition."""
        before = self.cpu()
        done = self.post(kind, connections, seconds, orders=orders)
        return figures(done, _since(before, self.cpu()))

    def post(self, kind: str, connections: int, seconds: int, *, orders: int | None = None) -> load.Load:
        """The load alone."""
        done = load.run(self.target.url, kind, connections=connections, seconds=seconds, orders=orders)
        self.ledger.add(acknowledged=done.acknowledged, connections=connections)
        return done

    def warm_up(self, seconds: int) -> None:
        """Posts each kind of body."""
        for kind in KINDS:
            self.post(kind, COMPARED, seconds)

    def cpu(self) -> tuple[float, float]:
        """Seconds of the processors that the server and the database have taken."""
        return cpu_seconds(self.target.pid), self._kind.cpu() if self._kind else 0.0


def figures(done: load.Load, cpu: tuple[float, float]) -> dict[str, float]:
    """The columns that each measurement under load has.

    Args:
        cpu: Seconds of the processors that the servers and the database took.
    """
    each = 1e6 / max(1, done.acknowledged)
    return {
        "events/s": done.rate,
        "p50 ms": done.p50_ms,
        "p99 ms": done.p99_ms,
        "CPU µs/event": sum(cpu) * each,
        "of it the database's": cpu[1] * each,
        FAILED: done.failed + done.broken,
    }


@contextmanager
def measured(
    run: Run, name: str, kind: Databases | None, url: str, *, counted: bool = True, warm: bool = True
) -> Iterator[Measured]:
    """A target that is warm. One answer of each kind is looked at before, and at the end the events are counted.

    Args:
        kind: Of its database, or None of a target that stores nothing.
        counted: Whether the database is its own, so that the count must be right.

    Raises:
        ValueError: an answer is not 200, has no `Event-Id`, or nothing was stored: there is nothing to measure.
    """
    counted = counted and kind is not None
    table = TWIN_TABLE if name == "fastapi" else "events"
    with running(name, url) as target:
        receiver = Measured(target, kind, stored=databases.count(url, table) if counted else 0)
        for body in KINDS:
            stored = databases.count(url, table)
            event_id = load.post(target.url, body)
            receiver.ledger.add(acknowledged=1, connections=0)
            if kind and (event_id is None or databases.count(url, table) != stored + 1):
                raise ValueError(f"{name} on {kind.name} did not store an event, or its answer has no Event-Id.")
        if warm:
            receiver.warm_up(run.plan.warm_up)
        yield receiver
    if counted and (problem := receiver.ledger.problem(databases.count(url, table))):
        run.results.problems.append(f"{name} on {url.partition(':')[0]}: {problem}")


def _since(before: tuple[float, float], now: tuple[float, float]) -> tuple[float, float]:
    return now[0] - before[0], now[1] - before[1]

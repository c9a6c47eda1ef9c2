"""A target under load: its figures, and whether it has stored what it acknowledged."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench import databases, load
from bench.databases import Databases
from bench.load import KINDS
from bench.plan import COMPARED, Run
from bench.processes import Target, cpu_seconds, running
from bench.results import FAILED, Ledger


class Measured:
    """A running target, and what must be in its database.

    Attributes:
        pids: The processes that work for it.
    """

    def __init__(self, target: Target, pids: Sequence[int], *, stored: int) -> None:
        self.target = target
        self.pids = pids
        self.ledger = Ledger(stored)

    def run(self, kind: str, connections: int, seconds: int) -> dict[str, float]:
        """One repetition."""
        before = sum(map(cpu_seconds, self.pids))
        done = self.post(kind, connections, seconds)
        return figures(done, sum(map(cpu_seconds, self.pids)) - before)

    def post(self, kind: str, connections: int, seconds: int) -> load.Load:
        """The load alone."""
        done = load.run(self.target.url, kind, connections=connections, seconds=seconds)
        self.ledger.add(acknowledged=done.acknowledged, connections=connections)
        return done

    def warm_up(self, seconds: int) -> None:
        """Posts each kind of body."""
        for kind in KINDS:
            self.post(kind, COMPARED, seconds)


def figures(done: load.Load, cpu: float) -> dict[str, float]:
    """The columns that each measurement under load has.

    Args:
        cpu: Seconds that the server and the database took of the processors.
    """
    return {
        "events/s": done.rate,
        "p50 ms": done.p50_ms,
        "p99 ms": done.p99_ms,
        "CPU µs/event": cpu * 1e6 / max(1, done.acknowledged),
        FAILED: done.failed + done.broken,
    }


@contextmanager
def measured(
    run: Run, name: str, kind: Databases | None, url: str, *, counted: bool = True, warm: bool = True
) -> Iterator[Measured]:
    """A target that is warm; at the end its events are counted.

    Args:
        kind: Of its database, or None of a target that stores nothing.
        counted: Whether the database is its own, so that the count must be right.
    """
    counted = counted and kind is not None
    with running(name, url) as target:
        pids = [target.pid, *([kind.pid] if kind and kind.pid else [])]
        receiver = Measured(target, pids, stored=databases.count(url) if counted else 0)
        if warm:
            receiver.warm_up(run.plan.warm_up)
        yield receiver
    if counted and (problem := receiver.ledger.problem(databases.count(url))):
        run.results.problems.append(f"{name} on {url.partition(':')[0]}: {problem}")

"""A server under load: its figures, and whether it has stored what it acknowledged."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench import load
from bench.databases import Database
from bench.goals import COMPARED
from bench.load import KINDS
from bench.processes import Server, cpu_seconds, running
from bench.results import FAILED
from bench.run import Run

STORING = ("receiver", "naive", "fastapi")
TWIN_TABLE = "webhooks"


class Measured:
    """A running server, and what must be in its database.

    Attributes:
        acknowledged: How many events were answered 200.
        under_way: How many others may be stored: each connection ends with at most one request not answered yet.
    """

    def __init__(self, server: Server, database: Database) -> None:
        self.server = server
        self.database = database
        self.acknowledged = 0
        self.under_way = 0

    def run(self, kind: str, connections: int, seconds: int, *, orders: int | None = None) -> dict[str, float]:
        """One repetition: the columns that each measurement under load has."""
        before = self.cpu()
        done = self.post(kind, connections, seconds, orders=orders)
        servers, database = (now - then for now, then in zip(self.cpu(), before, strict=True))
        each = 1e6 / max(1, done.acknowledged)
        return {
            "events/s": done.acknowledged / done.seconds,
            "p50 ms": done.p50_ms,
            "p99 ms": done.p99_ms,
            "CPU µs/event": (servers + database) * each,
            "of it the database's": database * each,
            FAILED: done.failed + done.broken,
        }

    def post(self, kind: str, connections: int, seconds: int, *, orders: int | None = None) -> load.Load:
        """The load alone."""
        done = load.run(self.server.url, kind, connections=connections, seconds=seconds, orders=orders)
        self.acknowledged += done.acknowledged
        self.under_way += connections
        return done

    def cpu(self) -> tuple[float, float]:
        """Seconds of the processors that the server and the database have taken."""
        return cpu_seconds(self.server.pid), self.database.cpu()


@contextmanager
def measured(
    run: Run, name: str, database: Database, *options: str, counted: bool = True, warm: bool = True
) -> Iterator[Measured]:
    """A server that is warm. One answer of each kind is looked at before, and at the end the events are counted.

    Args:
        options: Of its command.
        counted: Whether all that it stores is still there at the end.

    Raises:
        ValueError: an answer is not 200, has no `Event-Id`, or nothing was stored: there is nothing to measure.
    """
    table = TWIN_TABLE if name == "fastapi" else "events"
    with running(name, database.url, *options) as server:
        receiver = Measured(server, database)
        first = database.count(table)
        for number, kind in enumerate(KINDS, start=1):
            event_id = load.post(server.url, kind)
            if name in STORING and (event_id is None or database.count(table) != first + number):
                raise ValueError(f"{name} on {database.kind} did not store an event, or its answer has no Event-Id.")
            receiver.acknowledged += 1
        for kind in KINDS if warm else ():
            receiver.post(kind, COMPARED, 1)
        yield receiver
    if counted and name in STORING:
        new = database.count(table) - first
        if problem := unaccounted(new, acknowledged=receiver.acknowledged, under_way=receiver.under_way):
            run.results.problems.append(f"{name} on {database.kind}: {problem}")


def unaccounted(stored: int, *, acknowledged: int, under_way: int) -> str | None:
    """What is wrong with the number of stored events, or None."""
    if stored < acknowledged:
        return f"{acknowledged - stored:,} of {acknowledged:,} acknowledged events are not stored"
    if stored > acknowledged + under_way:
        return f"{stored - acknowledged:,} events are stored beyond the {acknowledged:,} acknowledged"
    return None

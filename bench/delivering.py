"""What a worker does: its rate and costs, a backlog, nothing at all, and ten minutes beside a receiver."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import product
from statistics import median, quantiles
from time import monotonic, sleep

from sqlalchemy import insert

from app.database import engines
from app.deliveries.tables import Destination
from bench import databases, load
from bench.consumer import Consumer, consuming
from bench.databases import Database
from bench.goals import COMPARED, MOST
from bench.measured import measured
from bench.processes import cpu_seconds, running, working, written_bytes
from bench.run import Run

NAME = "consumer"
MANY_IN_FLIGHT = {"max_in_flight": 64}
DESTINATIONS: Mapping[str, Mapping[str, int]] = {MOST: MANY_IN_FLIGHT, "defaults": {}}
ARRIVE_WITHIN = 60.0  # seconds
STARTS = 2.0  # seconds
SETTLES = 5.0  # seconds
RATES = {"at rest": 10, "in a stream": 200}  # events a second
OFFERED = 1000  # events a second

DELIVERIES = (
    "One worker and a consumer that answers at once. Delays are from the 200 to the delivery, of 10 events a second at "
    "rest and 200 a second in a stream. Receiver beside: its rate at full load while the worker delivers, of that "
    "without a worker."
)
COST = (
    f"What the database does for one delivery with {MOST}, dispatch included, in a run of its own in which PostgreSQL "
    "logs each statement. What SQLite writes is the log and the checkpoints, in bytes."
)
BACKLOG = f"{MOST}. The rate is that of the first seconds after the first delivery."
IDLE = "A worker beside an empty inbox, of one processor."
SOAK = (
    f"{OFFERED:,} notifications a second are offered, whatever the answers take, and delivered by one worker with "
    f"{MOST}. Delays are from the 200 to the delivery."
)


def deliveries(run: Run) -> None:
    """Deliveries a second and what each costs, the delay from a 200 to the delivery, and what it costs the receiver."""
    table = run.results.table("Deliveries", DELIVERIES, "database", "destination")
    costs = run.results.table("Cost of a delivery", COST, "database")
    for where in databases.KINDS:
        for _, (name, settings) in product(range(run.plan.repetitions), DESTINATIONS.items()):
            table.add((where, name), _rate(run, where, run.plan.deliveries, settings, within=ARRIVE_WITHIN))
        table.add((where, MOST), _delays(run, where))
        costs.add((where,), _costs(run, where))
        for _ in range(run.plan.repetitions):
            table.add((where, MOST), {"receiver beside": _beside(run, where)})


def backlog(run: Run) -> None:
    """A worker that starts when many events wait, as after a night without one."""
    table = run.results.table("Backlog", BACKLOG, "database", "undispatched")
    for where in databases.KINDS:
        figures = _rate(run, where, run.plan.waiting, MANY_IN_FLIGHT, within=10 * run.plan.seconds)
        table.add((where, run.plan.waiting), figures)


def idle(run: Run) -> None:
    """A worker that has nothing to do."""
    table = run.results.table("Idle", IDLE, "database", "destinations")
    seconds = 7 * run.plan.seconds
    for where, destinations in product(databases.KINDS, (1, 200)):
        database = run.create(where)
        names = {f"destination-{number}": {"url": "http://127.0.0.1:9/"} for number in range(destinations)}
        with working(database.url, names) as worker:
            sleep(SETTLES)
            before, of_database = cpu_seconds(worker), database.cpu()
            sleep(seconds)
            figures = {
                "worker's %": (cpu_seconds(worker) - before) * 100 / seconds,
                "database's %": (database.cpu() - of_database) * 100 / seconds,
            }
        table.add((where, destinations), figures)


def soak(run: Run) -> None:
    """A steady stream for minutes, with autovacuum, checkpoints and a worker that delivers."""
    table = run.results.table("Soak", SOAK, "database", "seconds")
    seconds = run.plan.soak_seconds
    for where in databases.KINDS:
        database = run.create(where)
        with (
            measured(run, "receiver", database, warm=False) as receiver,
            consuming() as consumer,
            delivering(database, consumer) as worker,
        ):
            sleep(STARTS)
            before, costs = (*receiver.cpu(), cpu_seconds(worker)), database.costs()
            answered = load.paced(receiver.server.url, "notification", rate=OFFERED, seconds=seconds)
            receiver.acknowledged += len(answered)
            receiver.under_way += load.PACED_CONNECTIONS
            consumer.wait_for(len(answered), within=ARRIVE_WITHIN)
            now, spent = (*receiver.cpu(), cpu_seconds(worker)), database.costs()
            p50, p99 = _delays_ms(answered, consumer)
        figures = {
            "acknowledged/s": len(answered) / seconds,
            "p50 ms": p50,
            "p99 ms": p99,
            "not delivered": sum(id_ not in consumer.arrivals for id_ in answered),
        }
        for name, taken in zip(("receiver", "database", "worker"), map(float.__sub__, now, before), strict=True):
            figures[f"{name}: CPU µs/event"] = taken * 1e6 / len(answered)
        figures |= {name: spent[name] - costs[name] for name in ("autovacuums", "checkpoints") if costs}
        table.add((where, seconds), figures)


@contextmanager
def delivering(database: Database, consumer: Consumer, settings: Mapping[str, int] = MANY_IN_FLIGHT) -> Iterator[int]:
    """A worker that delivers all events of a database; gives its process id."""
    asyncio.run(_register(database.url))
    with working(database.url, {NAME: {"url": consumer.url, **settings}}) as pid:
        yield pid


async def _register(url: str) -> None:
    """Makes the destination one that has been there for ever, as filled events are old."""
    async with engines.engine_for(url) as engine, engine.begin() as connection:
        await connection.execute(insert(Destination).values(name=NAME, since=datetime(1970, 1, 1, tzinfo=UTC)))


def _arrived(consumer: Consumer, count: int) -> None:
    """Returns when so many events have come.

    Raises:
        RuntimeError: they have not in time.
    """
    if not consumer.wait_for(count, within=ARRIVE_WITHIN):
        raise RuntimeError(f"{len(consumer.arrivals):,} of {count:,} events arrived.")


def _rate(run: Run, where: str, events: int, settings: Mapping[str, int], *, within: float) -> dict[str, float]:
    """How fast a worker delivers events that wait when it starts, until all are delivered or the time is over."""
    database = run.create(where, events=events)
    with consuming() as consumer:
        started = monotonic()
        with delivering(database, consumer, settings) as worker:
            _arrived(consumer, 1)
            # What it takes to start is no delivery's.
            came, before, of_database = len(consumer.arrivals), cpu_seconds(worker), database.cpu()
            consumer.wait_for(events, within=within)
            times = list(consumer.arrivals.values())
            worked, stored = cpu_seconds(worker) - before, database.cpu() - of_database
    each = 1e6 / max(1, len(times) - came)
    return {
        "first delivery after s": times[0] - started,
        "deliveries/s": (len(times) - 1) / (times[-1] - times[0]),
        "CPU µs/delivery": (worked + stored) * each,
        "of it the database's": stored * each,
    }


def _costs(run: Run, where: str) -> dict[str, float]:
    database = run.create(where, events=run.plan.deliveries)
    database.log_statements()
    with consuming() as consumer:
        before = database.costs()
        with delivering(database, consumer) as worker:
            _arrived(consumer, run.plan.deliveries)
            sleep(STARTS)  # until the last is noted
            written = written_bytes(worker)
    now = database.costs() or {"bytes written": written}
    counted = {name: now[name] - before.get(name, 0.0) for name in now if name not in ("autovacuums", "checkpoints")}
    return {name: figure / run.plan.deliveries for name, figure in counted.items()}


def _delays(run: Run, where: str) -> dict[str, float]:
    database = run.create(where)
    found: dict[str, float] = {}
    with consuming() as consumer, delivering(database, consumer), running("receiver", database.url) as server:
        sleep(STARTS)
        for name, rate in RATES.items():
            before = len(consumer.arrivals)
            answered = load.paced(server.url, "notification", rate=rate, seconds=3 * run.plan.seconds)
            _arrived(consumer, before + len(answered))
            found[f"{name}, p50 ms"], found[f"{name}, p99 ms"] = _delays_ms(answered, consumer)
    return found


def _delays_ms(answered: Mapping[str, float], consumer: Consumer) -> tuple[float, float]:
    """From the 200 to the delivery, or to now if it has not come: the median and the 99th of a hundred."""
    now = monotonic()
    # A delivery may arrive before wrk reads the 200.
    waits = [1000 * max(0.0, consumer.arrivals.get(id_, now) - at) for id_, at in answered.items()]
    return median(waits), quantiles(waits, n=100)[98]


def _beside(run: Run, where: str) -> float:
    """The receiver's rate beside a worker that delivers, of that without one."""
    rates = []
    for works in (False, True):
        database = run.create(where)
        with ExitStack() as stack:
            receiver = stack.enter_context(measured(run, "receiver", database))
            if works:
                consumer = stack.enter_context(consuming())
                stack.enter_context(delivering(database, consumer))
                _arrived(consumer, 1)
                sleep(STARTS)
            rates.append(receiver.run("notification", COMPARED, run.plan.seconds)["events/s"])
    return rates[1] / rates[0]

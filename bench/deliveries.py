"""Deliveries a second and what each costs, the delay from a 200 to the delivery, and what it costs the receiver."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import median, quantiles
from time import monotonic, sleep

from sqlalchemy import insert

from app.database import engines
from app.deliveries.tables import Destination
from bench import filling, load
from bench.consumer import Consumer, consuming
from bench.databases import Databases
from bench.measured import measured
from bench.plan import COMPARED, Run
from bench.processes import cpu_seconds, running, working, written_bytes

NAME = "consumer"
MOST = 64
MANY_IN_FLIGHT: Mapping[str, int] = {"max_in_flight": MOST}
DESTINATIONS: Mapping[str, Mapping[str, int]] = {f"{MOST} in flight": MANY_IN_FLIGHT, "defaults": {}}
ARRIVE_WITHIN = 60.0  # seconds
STARTS = 2.0  # seconds
RATES = {"at rest": 10, "in a stream": 200}  # events a second
NOTE = (
    "One worker and a consumer that answers at once. Delays are from the 200 to the delivery, of 10 events a second at "
    "rest and 200 a second in a stream. Receiver beside: its rate at full load while the worker delivers, of that "
    "without a worker."
)
COST_NOTE = (
    f"What the database does for one delivery with {MOST} in flight, dispatch included, in a run of its own in which "
    "PostgreSQL logs each statement. What SQLite writes is the log and the checkpoints, in bytes."
)


def measure(run: Run) -> None:
    """Fills the tables Deliveries and Cost of a delivery."""
    table = run.results.table("Deliveries", NOTE, ("database", "destination"))
    costs = run.results.table("Cost of a delivery", COST_NOTE, ("database",))
    for each in run.both:
        run.say(f"deliveries on {each.name}")
        for repetition in range(run.plan.repetitions):
            for name, settings in DESTINATIONS.items():
                table.add((each.name, name), _rate(run, each, f"rate_{name[:2]}_{repetition}", settings))
        most = (each.name, f"{MOST} in flight")
        table.add(most, _delays(run, each))
        costs.add((each.name,), _costs(run, each))
        run.say(f"the receiver beside a worker on {each.name}")
        for repetition in range(run.plan.repetitions):
            table.add(most, {"receiver beside": _beside(run, each, repetition)})


@contextmanager
def delivering(url: str, consumer: Consumer, settings: Mapping[str, int] = MANY_IN_FLIGHT) -> Iterator[int]:
    """A worker that delivers all events of a database; gives its process id."""
    asyncio.run(_register(url))
    with working(url, {NAME: {"url": consumer.url, **settings}}) as pid:
        yield pid


def delays_ms(answered: dict[str, float], consumer: Consumer) -> tuple[float, float]:
    """From the 200 to the delivery, or to now if it has not come: the median and the 99th of a hundred."""
    now = monotonic()
    # A delivery may arrive before wrk reads the 200.
    waits = [1000 * max(0.0, consumer.arrivals.get(id_, now) - at) for id_, at in answered.items()]
    return median(waits), quantiles(waits, n=100)[98]


def arrived(run: Run, consumer: Consumer, count: int, where: str) -> None:
    """Waits for so many events, and notes a problem if they do not come."""
    if not consumer.wait_for(count, within=ARRIVE_WITHIN):
        run.results.problems.append(f"{len(consumer.arrivals):,} of {count:,} events arrived, on {where}")


async def _register(url: str) -> None:
    """Makes the destination one that has been there for ever, as filled events are old."""
    async with engines.engine_for(url) as engine, engine.begin() as connection:
        await connection.execute(insert(Destination).values(name=NAME, since=datetime(1970, 1, 1, tzinfo=UTC)))


def _rate(run: Run, each: Databases, label: str, settings: Mapping[str, int]) -> dict[str, float]:
    """Deliveries a second while a worker has enough to do."""
    url = each.create(label)
    filling.fill(url, run.plan.deliveries)
    database = each.cpu()
    with consuming() as consumer, delivering(url, consumer, settings) as worker:
        consumer.wait_for(1, within=ARRIVE_WITHIN)
        before = cpu_seconds(worker)  # what it takes to start is no delivery's
        arrived(run, consumer, run.plan.deliveries, each.name)
        cpu = cpu_seconds(worker) - before
        times = list(consumer.arrivals.values())
    database = each.cpu() - database
    return {
        "deliveries/s": (len(times) - 1) / (times[-1] - times[0]),
        "CPU µs/delivery": (cpu + database) * 1e6 / len(times),
        "of it the database's": database * 1e6 / len(times),
    }


def _costs(run: Run, each: Databases) -> dict[str, float]:
    url = each.create("costs")
    filling.fill(url, run.plan.deliveries)
    if each is run.postgresql:
        run.postgresql.log_statements("costs")
    with consuming() as consumer:
        before = each.costs(url)
        with delivering(url, consumer) as worker:
            arrived(run, consumer, run.plan.deliveries, each.name)
            sleep(STARTS)  # until the last is noted
            written = written_bytes(worker)
    now = each.costs(url) or {"bytes written": written}
    counted = {name: now[name] - before.get(name, 0.0) for name in now if name not in ("autovacuums", "checkpoints")}
    return {name: figure / run.plan.deliveries for name, figure in counted.items()}


def _delays(run: Run, each: Databases) -> dict[str, float]:
    url = each.create("delays")
    found: dict[str, float] = {}
    with consuming() as consumer, delivering(url, consumer), running("receiver", url) as target:
        sleep(STARTS)
        sent = 0
        for name, rate in RATES.items():
            answered = load.paced(target.url, "notification", rate=rate, seconds=run.plan.delay_seconds)
            sent += len(answered)
            arrived(run, consumer, sent, each.name)
            p50, p99 = delays_ms(answered, consumer)
            found |= {f"{name}, p50 ms": p50, f"{name}, p99 ms": p99}
    return found


def _beside(run: Run, each: Databases, repetition: int) -> float:
    """The receiver's rate beside a worker that delivers, of that without one."""
    rates = []
    for name in ("alone", "beside"):
        url = each.create(f"{name}_{repetition}")
        with measured(run, "receiver", each, url) as receiver, consuming() as consumer:
            if name == "alone":
                rates.append(receiver.run("notification", COMPARED, run.plan.seconds)["events/s"])
                continue
            with delivering(url, consumer):
                started = monotonic()
                consumer.wait_for(1, within=ARRIVE_WITHIN)
                sleep(max(0.0, started + STARTS - monotonic()))
                rates.append(receiver.run("notification", COMPARED, run.plan.seconds)["events/s"])
    return rates[1] / rates[0]

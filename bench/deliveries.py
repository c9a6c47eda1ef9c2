"""Deliveries a second, the delay from a 200 to the delivery, and what the worker costs the receiver."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import median, quantiles
from time import sleep

from sqlalchemy import insert

from app.database import engines
from app.deliveries.tables import Destination
from bench import filling, load
from bench.consumer import Consumer, consuming
from bench.databases import Databases
from bench.load import PROJECT
from bench.measured import measured
from bench.plan import COMPARED, Run
from bench.processes import environment, running

NAME = "consumer"
IN_FLIGHT = 64
ARRIVE_WITHIN = 60.0  # seconds
STARTS = 2.0  # seconds
RATES = {"at rest": 10, "in a stream": 200}  # events a second
NOTE = (
    f"One worker and a consumer that answers at once, {IN_FLIGHT} in flight. Delays are from the 200 to the delivery, "
    "of 10 events a second at rest and 200 a second in a stream. Receiver beside: its rate at full load while the "
    "worker delivers, of that without a worker."
)


def measure(run: Run) -> None:
    """Fills the table Deliveries."""
    table = run.results.table("Deliveries", NOTE, ("database",))
    for each in run.both:
        run.say(f"deliveries on {each.name}")
        for repetition in range(run.plan.repetitions):
            table.add((each.name,), {"deliveries/s": _rate(run, each, repetition)})
        table.add((each.name,), _delays(run, each))
        run.say(f"the receiver beside a worker on {each.name}")
        for repetition in range(run.plan.repetitions):
            table.add((each.name,), {"receiver beside": _beside(run, each, repetition)})


@contextmanager
def working(url: str, consumer: Consumer) -> Iterator[None]:
    """A worker that delivers all events of a database."""
    destinations = {NAME: {"url": consumer.url, "max_in_flight": IN_FLIGHT}}
    asyncio.run(_register(url))
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "worker"],
        cwd=PROJECT,
        env=environment(url) | {"PRIOHOOK_DESTINATIONS": json.dumps(destinations)},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def _register(url: str) -> None:
    """Makes the destination one that has been there for ever, as filled events are old."""
    async with engines.engine_for(url) as engine, engine.begin() as connection:
        await connection.execute(insert(Destination).values(name=NAME, since=datetime(1970, 1, 1, tzinfo=UTC)))


def _rate(run: Run, each: Databases, repetition: int) -> float:
    """Deliveries a second while a worker has enough to do."""
    url = each.create(f"rate_{repetition}")
    filling.fill(url, run.plan.deliveries)
    with consuming() as consumer, working(url, consumer):
        if not consumer.wait_for(run.plan.deliveries, within=ARRIVE_WITHIN):
            came = len(consumer.arrivals)
            run.results.problems.append(f"{came} of {run.plan.deliveries} events arrived, on {each.name}")
        times = list(consumer.arrivals.values())
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def _delays(run: Run, each: Databases) -> dict[str, float]:
    url = each.create("delays")
    found: dict[str, float] = {}
    with consuming() as consumer, working(url, consumer), running("receiver", url) as target:
        sleep(STARTS)
        answered: dict[str, float] = {}
        for name, rate in RATES.items():
            came = load.paced(target.url, "notification", rate=rate, seconds=run.plan.delay_seconds)
            answered |= came
            if not consumer.wait_for(len(answered), within=ARRIVE_WITHIN):
                run.results.problems.append(f"{len(consumer.arrivals)} of {len(answered)} arrived, on {each.name}")
            # A delivery may arrive before wrk reads the 200.
            waits = [
                1000 * max(0.0, consumer.arrivals[id_] - at) for id_, at in came.items() if id_ in consumer.arrivals
            ]
            found |= {f"{name}, p50 ms": median(waits), f"{name}, p99 ms": quantiles(waits, n=100)[98]}
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
            with working(url, consumer):
                sleep(STARTS)
                rates.append(receiver.run("notification", COMPARED, run.plan.seconds)["events/s"])
    return rates[1] / rates[0]

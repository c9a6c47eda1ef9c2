"""Deliveries a second, the delay from a 200 to the delivery, and what the worker costs the receiver."""

import asyncio
import http.client
import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import median, quantiles
from time import monotonic, sleep
from urllib.parse import urlsplit

from sqlalchemy import insert

from app.database import engines
from app.deliveries.tables import Destination
from bench import databases
from bench.consumer import Consumer, consuming
from bench.databases import Databases
from bench.load import NOTIFICATION_ID, PASSWORD, PROJECT, REFERENCE, USERNAME, payload
from bench.plan import COMPARED, Plan
from bench.processes import environment, running
from bench.samples import Deliveries, Key, Results
from bench.throughput import Say, measured

NAME = "consumer"
IN_FLIGHT = 64
ARRIVE_WITHIN = 60.0  # seconds
STARTS = 2.0  # seconds
AT_REST_PAUSE = 0.1  # seconds
LOADED_RATE = 200.0  # events a second


def measure(plan: Plan, kinds_of: Sequence[Databases], results: Results, *, wrk: str | None, say: Say) -> None:
    """Fills `results.deliveries` and `results.beside`."""
    for each in kinds_of:
        say(f"deliveries on {each.name}")
        rates = [_rate(plan, each, results, repetition) for repetition in range(plan.repetitions)]
        rest, loaded = _delays(plan, each, results)
        results.deliveries[each.name] = Deliveries(rate=median(rates), rest_ms=rest, loaded_ms=loaded)
        say(f"the receiver beside a worker on {each.name}")
        _beside(plan, each, results, wrk=wrk)


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


def _rate(plan: Plan, each: Databases, results: Results, repetition: int) -> float:
    """Deliveries a second while a worker has enough to do."""
    url = each.create(f"rate_{repetition}")
    databases.fill(url, plan.deliveries)
    with consuming() as consumer, working(url, consumer):
        if not consumer.wait_for(plan.deliveries, within=ARRIVE_WITHIN):
            results.problems.append(f"{len(consumer.arrivals)} of {plan.deliveries} events arrived, on {each.name}")
        times = list(consumer.arrivals.values())
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def _delays(plan: Plan, each: Databases, results: Results) -> tuple[list[float], list[float]]:
    """Median and 99th of a hundred, in ms, for events now and then, and for a steady stream of them."""
    url = each.create("delays")
    with consuming() as consumer, working(url, consumer), running("receiver", url) as target:
        sleep(STARTS)
        rest = _post(target.url, count=plan.single_events, pause=AT_REST_PAUSE)
        loaded = _post(target.url, count=10 * plan.single_events, pause=1 / LOADED_RATE, first=plan.single_events)
        if not consumer.wait_for(len(rest) + len(loaded), within=ARRIVE_WITHIN):
            results.problems.append(f"{len(consumer.arrivals)} of {len(rest) + len(loaded)} arrived, on {each.name}")
        return _ms(rest, consumer), _ms(loaded, consumer)


def _ms(answered: dict[str, float], consumer: Consumer) -> list[float]:
    waits = [
        1000 * max(0.0, consumer.arrivals[each] - at) for each, at in answered.items() if each in consumer.arrivals
    ]
    return [median(waits), quantiles(waits, n=100)[98]]


def _post(url: str, *, count: int, pause: float, first: int = 0) -> dict[str, float]:
    """Posts events one after the other; when each was answered, by its id."""
    credential = b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {credential}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    answered: dict[str, float] = {}
    began = monotonic()
    for number in range(count):
        sleep(max(0.0, began + number * pause - monotonic()))
        unique = b"event-%d" % (first + number)
        body = payload("notification").replace(NOTIFICATION_ID, unique).replace(REFERENCE, unique)
        connection.request("POST", "/webhooks/prioticket", body, headers)
        answer = connection.getresponse()
        answer.read()
        answered[answer.headers["Event-Id"]] = monotonic()
    connection.close()
    return answered


def _beside(plan: Plan, each: Databases, results: Results, *, wrk: str | None) -> None:
    """The receiver's rate without and with a worker that delivers, in turn."""
    with consuming() as consumer:
        for repetition in range(plan.repetitions):
            for name in ("alone", "beside a worker"):
                url = each.create(f"beside_{repetition}_{name[:5]}")
                with measured(plan, "receiver", each, url, wrk=wrk) as receiver:
                    if name == "alone":
                        sample = receiver.run("notification", COMPARED, plan.seconds)
                    else:
                        with working(url, consumer):
                            sleep(STARTS)
                            sample = receiver.run("notification", COMPARED, plan.seconds)
                results.beside.add(Key(name, each.name, "notification", COMPARED), sample)

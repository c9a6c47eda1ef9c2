"""Every event reaches the consumer, whatever the consumer and the workers do."""

import asyncio
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL
from time import monotonic, sleep
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import FromClause, Row, inspect, select
from standardwebhooks import Webhook

from app.database import engines
from app.database.columns import Base
from app.deliveries.queries import ATTEMPTS
from app.deliveries.tables import Delivery
from tests.conftest import WEBHOOK
from tests.e2e.conftest import ENDS_WITHIN, Served, configured, dial, environment_for, request
from tests.e2e.consumer import PATIENCE, Consumer
from tests.e2e.working import Working

SIGNING = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOST_WAIT = 180.0  # seconds; a delivery that lost three workers in a row may be put off by 5, 15 and 45 of them


@pytest.fixture
def consumer() -> Iterator[Consumer]:
    with Consumer().running() as consumer:
        yield consumer


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Callable[..., Working]]:
    """`work(**settings)` starts a worker, which ends after the test."""
    running: list[Working] = []

    def work(**settings: str) -> Working:
        running.append(Working(tmp_path, environment_for(**settings)))
        return running[-1]

    yield work
    for each in running:
        each.close()


def delivering(url: str, consumer: Consumer, **more: object) -> dict[str, str]:
    """Settings with one destination, the consumer."""
    erp = {"url": consumer.url, "secret": SIGNING, "timeout": 1, "max_in_flight": 16} | more
    return configured(url, destinations=json.dumps({"erp": erp}))


def send(server: Served, *references: str) -> list[str]:
    """Sends an event of each reference and returns their ids."""
    with dial(server) as wire:
        ids = []
        for reference in references:
            notification = {
                "notification_id": str(uuid4()),
                "notification_event": "ORDER_UPDATE",
                "notification_item_id": reference,
            }
            body = json.dumps({"api_version": "3.8", "data": {"kind": "notification", "notification": notification}})
            reply = wire.send(request(body.encode(), target=WEBHOOK)).reply()
            assert reply.status == 200, reply
            ids.append(reply.headers["event-id"])
        return ids


def in_order(consumer: Consumer, sent: list[tuple[str, str]]) -> None:
    """Checks that the first success of each event came after those of the earlier events of its reference."""
    firsts: dict[str, list[str]] = defaultdict(list)
    for each in consumer.delivered():
        if each.event_id not in firsts[each.reference]:
            firsts[each.reference].append(each.event_id)
    expected: dict[str, list[str]] = defaultdict(list)
    for reference, event_id in sent:
        expected[reference].append(event_id)
    assert firsts == expected


def everything_arrived(consumer: Consumer, ids: list[str]) -> Callable[[], bool]:
    return lambda: {each.event_id for each in consumer.delivered()} == set(ids)


async def stored(url: str, rows: type[Base] | FromClause) -> list[Row[Any]]:
    async with engines.engine_for(url) as engine, engine.connect() as connection:
        return list(await connection.execute(select(*inspect(rows).selectable.columns)))


def test_serve_delivers_the_exact_bytes_signed(database_url, serve, consumer):
    server = serve(with_worker=True, **delivering(database_url, consumer))
    (event_id,) = send(server, "P1")
    consumer.until(everything_arrived(consumer, [event_id]))
    (seen,) = consumer.seen
    assert json.loads(seen.body)["data"]["notification"]["notification_item_id"] == "P1"
    Webhook(SIGNING).verify(seen.body, seen.headers)
    expected = {
        "webhook-id": event_id,
        "Content-Type": "application/json",
        "Priohook-Event-Type": "ORDER_UPDATE",
        "Priohook-Reference": "P1",
        "Priohook-Attempt": "1",
    }
    assert {name: seen.headers[name] for name in expected} == expected
    assert "Authorization" not in seen.headers
    assert server.end() == 0


def test_a_worker_that_is_killed_is_started_again(database_url, serve, consumer):
    server = serve(with_worker=True, **delivering(database_url, consumer))
    first = send(server, "P1")
    consumer.until(everything_arrived(consumer, first))
    os.kill(worker_of(server), SIGKILL)
    second = send(server, "P1")
    consumer.until(everything_arrived(consumer, first + second))


def test_a_worker_ends_with_the_serve_that_started_it(sqlite_url, serve, consumer):
    server = serve(with_worker=True, **delivering(sqlite_url, consumer))
    consumer.until(everything_arrived(consumer, send(server, "P1")))
    worker = worker_of(server)
    server.signal(SIGKILL)
    server.wait()
    consumer.until(lambda: not is_running(worker))


def test_a_broken_function_does_not_keep_events_from_being_stored(sqlite_url, serve):
    destinations = json.dumps({"own": {"url": "python:nowhere:handle"}})
    server = serve(with_worker=True, **configured(sqlite_url, destinations=destinations))
    send(server, "P1")
    ends = monotonic() + ENDS_WITHIN
    while "nowhere" not in server.stderr:
        assert monotonic() < ends
        sleep(0.05)
    assert server.end() == 0


@pytest.mark.parametrize("name", ["priohook.db", "link.db"])
def test_a_second_worker_of_a_sqlite_file_says_why_it_does_not_start(sqlite_url, work, priohook, consumer, name):
    Path("link.db").symlink_to("priohook.db")
    work(**delivering(sqlite_url, consumer)).until_started()
    done = priohook("worker", **delivering(sqlite_url.replace("priohook.db", name), consumer))
    assert done.returncode == 1
    assert "SQLite allows only one" in done.stderr


def test_a_worker_that_knows_no_destination_leaves_events_to_those_that_do(database_url, serve, work, consumer):
    known = work(**delivering(database_url, consumer))
    known.until_started()
    known.end()
    server = serve(with_worker=True, **configured(database_url))
    while "worker_started" not in server.stderr:
        sleep(0.01)
    ids = send(server, "P1", "P2")
    sleep(0.3)  # in which it would have dispatched them to nobody
    server.end()
    work(**delivering(database_url, consumer))
    consumer.until(everything_arrived(consumer, ids))


def test_a_bad_consumer_gets_everything_in_order(database_url, serve, work, priohook, consumer):
    behaviour = {3: 500, 11: 400, 17: "reset", 29: "later", 41: "stall", 53: 503}
    consumer.answer = lambda _, number: behaviour.get(number % 60, 200)
    settings = delivering(database_url, consumer)
    work(**settings)
    server = serve(**settings)
    references = [f"P{number % 25}" for number in range(150)]
    ids = send(server, *references)
    sleep(0.2)
    consumer.stop()
    ids += send(server, *references)
    consumer.start()
    arrived = everything_arrived(consumer, ids)
    ends = monotonic() + PATIENCE
    while not arrived():  # without waiting for back-offs of up to 45 seconds
        assert monotonic() < ends
        assert priohook("destinations", "resume", "erp", **settings).returncode == 0
        sleep(0.5)
    in_order(consumer, list(zip(references + references, ids, strict=True)))
    explained(consumer, database_url)


def test_killed_workers_lose_nothing(database_url, serve, work, consumer):
    consumer.answer = lambda _, number: "stall" if number % 40 == 7 else 200
    settings = delivering(database_url, consumer)
    count = 2 if database_url.startswith("postgresql") else 1
    workers = [work(**settings) for _ in range(count)]
    server = serve(**settings)
    references = [f"P{number % 20}" for number in range(200)]
    ids = send(server, *references)
    for _ in range(3):
        seen = len(consumer.seen)
        consumer.until(lambda seen=seen: len(consumer.seen) >= min(seen + 20, len(ids)))
        workers.pop(0).kill()
        workers.append(work(**settings))
    consumer.until(everything_arrived(consumer, ids))
    in_order(consumer, list(zip(references, ids, strict=True)))
    explained(consumer, database_url)


def test_sigterm_waits_for_the_attempt_under_way(database_url, serve, work, consumer):
    consumer.answer = lambda *_: "stall"
    settings = delivering(database_url, consumer, timeout=10)
    worker = work(**settings)
    server = serve(**settings)
    send(server, "P1")
    consumer.until(lambda: len(consumer.seen) == 1)
    assert worker.end() == 0
    (delivery,) = asyncio.run(stored(database_url, Delivery))
    assert delivery.status == "delivered"
    assert len(consumer.seen) == 1


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_function_of_ones_own_is_called_with_the_event(sqlite_url, serve, tmp_path, kind):
    module = f"""
import pathlib
{kind} handle(event):
    line = f"{{event.id}} {{event.type}} {{event.reference}} {{event.attempt}} {{len(event.body)}}\\n"
    with pathlib.Path("handled").open("a") as file:
        file.write(line)
"""
    (tmp_path / "mine.py").write_text(module)
    destinations = json.dumps({"own": {"url": "python:mine:handle", "events": ["ORDER_*"]}})
    server = serve(with_worker=True, **configured(sqlite_url, destinations=destinations))
    (event_id,) = send(server, "P1")
    handled = tmp_path / "handled"
    ends = monotonic() + ENDS_WITHIN
    while not handled.exists() or not handled.read_text().endswith("\n"):
        assert monotonic() < ends, server.stderr
        sleep(0.01)
    assert handled.read_text().startswith(f"{event_id} ORDER_UPDATE P1 1 ")


def test_a_replay_to_a_url_keeps_the_order(database_url, serve, work, priohook, consumer):
    settings = configured(database_url)
    server = serve(**settings)
    references = [f"P{number % 5}" for number in range(30)]
    ids = send(server, *references)
    worker = work(**settings)
    done = priohook("replay", "--since", "1h", "--to", consumer.url, "--rate", "40", "--yes", **settings)
    assert done.returncode == 0, done.stderr
    consumer.until(lambda: len(consumer.seen) >= 10)
    worker.kill()
    work(**settings)
    consumer.until(everything_arrived(consumer, ids))
    in_order(consumer, list(zip(references, ids, strict=True)))
    assert all("Priohook-Replay" in each.headers for each in consumer.seen)


def explained(consumer: Consumer, url: str) -> None:
    """Checks that whatever arrived twice had an earlier attempt that failed or whose answer was lost."""
    # One attempt may arrive twice: a kept connection that broke before an answer came is replaced within it.
    arrivals = Counter((each.event_id, each.headers["Priohook-Attempt"]) for each in consumer.seen)
    assert max(arrivals.values()) <= 2
    times = Counter(event_id for event_id, _ in arrivals)
    ends = monotonic() + LOST_WAIT
    rows = asyncio.run(stored(url, Delivery))
    while late := [row for row in rows if row.status != "delivered"]:
        assert monotonic() < ends, late
        sleep(0.1)
        rows = asyncio.run(stored(url, Delivery))
    tries: dict[UUID, list[Row[Any]]] = defaultdict(list)
    for attempt in asyncio.run(stored(url, ATTEMPTS)):
        tries[attempt.delivery_id].append(attempt)
    for row in rows:
        assert len(tries[row.id]) == row.attempts >= times[str(row.event_id)]
        before = sorted(tries[row.id], key=lambda attempt: int(attempt.number))[:-1]
        assert all(attempt.error or attempt.status != 200 for attempt in before)


def worker_of(server: Served) -> int:
    """The worker process that `serve` runs."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    (worker,) = (child for child in children if b"\0worker\0" in Path(f"/proc/{child}/cmdline").read_bytes())
    return int(worker)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

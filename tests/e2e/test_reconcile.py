"""One in twenty webhooks is never sent, and yet the store has the newest state of every order."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGKILL
from time import monotonic, sleep
from typing import Any

from sqlalchemy import select

from app.database import engines
from app.events.tables import Event
from app.prioticket.client import prioticket_of
from app.prioticket.contents import read_order
from app.settings.prioticket import PrioticketSettings
from app.simulator.book import Book
from tests import postgres
from tests.conftest import SECRET
from tests.e2e.balancer import Balancer
from tests.e2e.conftest import API_SECRET, ENDS_WITHIN, SEED, Served, Simulated, configured, environment_for, migrate
from tests.e2e.load import statuses
from tests.e2e.test_durability import state, wait_for

STEPS = 600
DATED = len("PRI260812")
"""Of a reference, what depends on the day."""

DAY = timedelta(days=1)


def state_of(order: dict[str, Any]) -> tuple[Any, ...]:
    """What each step of an order's life changes."""
    payments = len(order.get("order_payments", ()))
    return (order["order_version"], payments, *(contact["contact_version"] for contact in order["order_contacts"]))


def last_states(steps: int) -> dict[str, tuple[Any, ...]]:
    """The states that the simulated orders have in the end."""
    book = Book(SEED, now=lambda: datetime.now(UTC))
    for _ in range(steps):
        book.advance()
    return {order["order_reference"][DATED:]: state_of(order) for order in book.newest()}


def orders_of(api: Simulated) -> dict[str, dict[str, Any]]:
    """The newest state of each order at the simulated Prioticket."""
    account = PrioticketSettings(base_url=api.url, client_id="demo", client_secret=API_SECRET, rate=16)

    async def read() -> dict[str, dict[str, Any]]:
        async with prioticket_of(account) as client:
            pages = client.order_pages(created_from=datetime.now(UTC) - DAY)
            return {item["order_reference"]: item async for page in pages for item in page.items}

    return asyncio.run(read())


def until_lived(api: Simulated, steps: int) -> dict[str, dict[str, Any]]:
    """The orders at the simulated Prioticket, once they do not change any more."""
    wanted = last_states(steps)
    ends = monotonic() + 2 * ENDS_WITHIN
    while True:
        orders = orders_of(api)
        if {reference[DATED:]: state_of(order) for reference, order in orders.items()} == wanted:
            return orders
        assert monotonic() < ends
        sleep(0.5)


def stored(url: str) -> list[Any]:
    async def read() -> list[Any]:
        async with engines.engine_for(url) as engine, engine.connect() as connection:
            return list((await connection.execute(select(*Event.__table__.columns).order_by(Event.id))).all())

    return asyncio.run(read())


def newest(events: list[Any]) -> dict[str, dict[str, Any]]:
    """The newest state of each order in the store."""
    placed = [event for event in events if event.status == "accepted" and event.order_version is not None]
    placed.sort(key=lambda event: (event.order_version, event.order_modified, event.id))
    return {event.reference: read_order(event.headers, event.body) or {} for event in placed}


def reconciled(done: subprocess.CompletedProcess[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What `reconcile --json` has found, and its counts."""
    assert done.returncode == 0, done.stdout + done.stderr
    *found, counts = map(json.loads, done.stdout.splitlines())
    return found, counts


def check(url: str, orders: dict[str, dict[str, Any]], run: Callable[..., subprocess.CompletedProcess[str]]) -> str:
    """Reconciles, and compares what it says with what was missing and with what is stored then. Returns its output."""
    before = newest(stored(url))
    missing = {reference for reference, order in orders.items() if before.get(reference) != order}
    assert missing
    done = run("reconcile", "--since", "1h", "--json")
    found, counts = reconciled(done)
    assert {finding["reference"] for finding in found} == missing
    assert (counts["listed"], counts["missing"], counts["refused"]) == (len(orders), len(missing), 0)
    events = stored(url)
    assert newest(events) == orders
    fetched = {str(event.id): event for event in events if event.origin == "fetched"}
    assert {finding["event_id"] for finding in found} == fetched.keys()
    assert {event.fetched_for for event in fetched.values()} == {f"reconcile {counts['run']}"}
    again = run("reconcile", "--since", "last")
    assert again.returncode == 0, again.stderr
    assert "Nothing is missing." in again.stdout
    return done.stdout + done.stderr + again.stdout + again.stderr


def test_what_was_never_sent_is_fetched(serve, priohook, simulated, sqlite_url):
    api = simulated("--count", str(STEPS), "--rate", "150", "--lose", "0.05")
    settings = configured(sqlite_url) | api.settings
    server = serve(**settings)

    run = partial(priohook, **settings)

    assert run("prioticket", "webhooks", "register", "--url", server.url, "--no-check").returncode == 0
    orders = until_lived(api, STEPS)
    planned = run("reconcile", "--since", "1h", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "Without --dry-run it is fetched." in planned.stdout
    assert {event.origin for event in stored(sqlite_url)} == {"received"}
    written = check(sqlite_url, orders, run) + planned.stdout + planned.stderr + server.stderr
    assert [secret for secret in (API_SECRET, SECRET) if secret in written] == []
    result = api.end()
    assert result["lost"] > 0
    assert result["acknowledged"] == result["sent"]
    assert sum(event.origin == "received" for event in stored(sqlite_url)) == result["sent"]


def test_a_worker_fetches_what_was_never_sent(serve, priohook, simulated, sqlite_url):
    api = simulated("--count", "20", "--rate", "200")
    settings = configured(sqlite_url, prioticket__reconcile_every="1m") | api.settings
    assert priohook("prioticket", "webhooks", "register", "--url", "http://127.0.0.1:9", "--no-check", **settings)
    until_lived(api, 20)
    server = serve(**settings, with_worker=True)
    wait_for(lambda: '"reconciled"' in server.stderr)
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    (told,) = [line for line in lines if line["event"] == "reconciled"]
    assert told["missing"] == 0, "what changed just now may still arrive"
    assert API_SECRET not in server.stderr


def test_after_ctrl_c_the_next_start_goes_on(priohook, simulated, sqlite_url, tmp_path):
    api = simulated("--count", "60", "--rate", "200", "--fault", "/orders/*=slow:0.3")
    settings = configured(sqlite_url) | api.settings
    priohook("prioticket", "webhooks", "register", "--url", "http://127.0.0.1:9", "--no-check", **settings)
    orders = until_lived(api, 60)
    command = [sys.executable, "-m", "app", "reconcile", "--since", "1h"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment_for(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for(lambda: asyncio.run(statuses(sqlite_url)).get("accepted", 0) > 1)
        process.send_signal(SIGINT)
        _, errors = process.communicate(timeout=ENDS_WITHIN)
    assert process.returncode == 1
    assert "Ending after the order in hand" in errors
    assert "The run is not complete: the same command goes on from here." in errors
    had = len(stored(sqlite_url))
    assert 0 < had < len(orders)
    done = priohook("reconcile", "--since", "1h", "--json", **settings)
    found, counts = reconciled(done)
    assert "Going on with run" in done.stderr
    assert len(found) == len(orders) - had
    assert (counts["missing"], counts["fetched"]) == (len(orders), len(orders))
    assert newest(stored(sqlite_url)) == orders


def test_with_postgresql_away_and_a_receiver_killed_nothing_is_lost(priohook, simulated, tmp_path):
    with ExitStack() as running:
        database = running.enter_context(postgres.server(durable=True))
        url = database.url()
        migrate(url)
        receivers = [Receiver(tmp_path, url, name) for name in ("one", "two")]
        for receiver in receivers:
            running.callback(receiver.close)
        balancer = running.enter_context(Balancer([receiver.served.address for receiver in receivers]).running())
        api = simulated("--count", str(STEPS), "--rate", "80", "--lose", "0.05")
        settings = configured(url) | api.settings

        run = partial(priohook, **settings)

        assert run("prioticket", "webhooks", "register", "--url", balancer.url, "--no-check").returncode == 0
        wait_for(lambda: len(balancer.acknowledged) > 100)
        database.stop("immediate")
        wait_for(lambda: all(state(receiver.served) == "spooling" for receiver in receivers))
        acknowledged = len(balancer.acknowledged)
        wait_for(lambda: len(balancer.acknowledged) > acknowledged + 50)
        receivers[0].kill()
        acknowledged = len(balancer.acknowledged)
        wait_for(lambda: len(balancer.acknowledged) > acknowledged + 50)
        database.start()
        receivers[0].start()
        balancer.receivers = [receiver.served.address for receiver in receivers]
        orders = until_lived(api, STEPS)
        wait_for(lambda: all(state(receiver.served) == "ready" for receiver in receivers))
        written = check(url, orders, run)
        bodies = Counter(event.body for event in stored(url))
        assert set(bodies.values()) == {1}
        assert set(balancer.acknowledged) <= bodies.keys()
        written += "".join(receiver.served.stderr for receiver in receivers)
        assert [secret for secret in (API_SECRET, SECRET) if secret in written] == []
        assert [line for line in written.splitlines() if '"level": "error"' in line] == []


class Receiver:
    """A receiver with a spool of its own, which can be killed and started again."""

    def __init__(self, folder: Path, url: str, name: str) -> None:
        self._folder = folder / name
        spool = self._folder / "spool"
        spool.mkdir(parents=True)
        self._environment = environment_for(**configured(url, commit_timeout="1", spool=str(spool)))
        self.start()

    def start(self) -> None:
        self.served = Served(self._folder, ("--port", "0"), self._environment)

    def kill(self) -> None:
        self.served.signal(SIGKILL)
        assert self.served.wait() == -SIGKILL
        self.served.close()

    def close(self) -> None:
        self.served.close()

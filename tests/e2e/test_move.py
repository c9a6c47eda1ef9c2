"""From SQLite to PostgreSQL while events arrive and are delivered."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from random import Random
from signal import SIGINT, SIGKILL, Signals
from threading import Event, Thread
from time import monotonic, sleep
from urllib.parse import quote
from uuid import uuid4

import pytest

from app.audit.chain import verify
from app.database import engines
from app.events.tables import Event as StoredEvent
from tests.conftest import TOKEN_KEY, bearer_header
from tests.e2e.conftest import ENDS_WITHIN, Served, configured, dial, environment_for, request
from tests.e2e.consumer import Consumer
from tests.e2e.test_deliveries import delivering, everything_arrived, stored
from tests.e2e.working import Working

SENDERS = 4
ORDERS = 20
ENOUGH = 100  # events
SEED = 16
SHOWN = 20  # events of a list


@pytest.fixture
def consumer() -> Iterator[Consumer]:
    with Consumer().running() as consumer:
        yield consumer


@dataclass
class Load:
    """What several senders sent, each over one connection that is never opened again.

    Attributes:
        ids: The `Event-Id` of each body.
        statuses: How often each status was seen.
        slowest: The longest time that an answer took, in seconds.
        failed: Why a sender ended.
    """

    ids: dict[bytes, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    failed: list[Exception] = field(default_factory=list)

    @contextmanager
    def running(self, server: Served) -> Iterator[None]:
        ending = Event()

        def send(number: int) -> None:
            random = Random(number)  # noqa: S311 - a load is no secret
            try:
                with dial(server) as wire:
                    while not ending.is_set():
                        body = notification(f"PRI{random.randrange(ORDERS)}")
                        began = monotonic()
                        reply = wire.send(request(body)).reply()
                        self.slowest = max(self.slowest, monotonic() - began)
                        self.statuses[reply.status] += 1
                        self.ids[body] = reply.headers["event-id"]
            except Exception as error:  # noqa: BLE001 - the test tells
                self.failed.append(error)

        threads = [Thread(target=send, args=(number,)) for number in range(SENDERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join()

    def more(self) -> None:
        """Waits for some more answers."""
        wanted, ends = len(self.ids) + ENOUGH, monotonic() + ENDS_WITHIN
        while len(self.ids) < wanted and not self.failed and monotonic() < ends:
            sleep(0.01)


class Followed:
    """The stream of events of a server, which is resumed whenever it ends, until `end`.

    Attributes:
        ids: The ids of its events, in order.
        streams: How often it was opened.
    """

    def __init__(self, server: Served) -> None:
        self.ids: list[str] = []
        self.streams = 0
        self._ended = Event()
        self._address = server.address
        self._last = ""
        self._thread = Thread(target=self._follow)
        self._thread.start()

    def until(self, ids: Collection[str]) -> None:
        """Waits until as many events have come as there are ids, and ends."""
        ends = monotonic() + ENDS_WITHIN
        while len(self.ids) < len(ids) and monotonic() < ends:
            sleep(0.01)
        self.end()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        since = quote((datetime.now(UTC) - timedelta(hours=1)).isoformat())
        while not self._ended.is_set():
            connection = HTTPConnection(*self._address, timeout=1)
            with closing(connection), suppress(OSError, HTTPException):
                resumed = {"Last-Event-ID": self._last} if self._last else {}
                connection.request("GET", f"/api/events/stream?since={since}", headers=bearer_header() | resumed)
                response = connection.getresponse()
                self.streams += 1
                self._read(response)

    def _read(self, response: HTTPResponse) -> None:
        place = ""
        for line in response:
            name, _, value = line.decode().strip().partition(":")
            if name == "id":
                place = value.strip()
            elif name == "data" and place:
                self.ids.append(json.loads(value)["id"])
                self._last = place
            if self._ended.is_set():
                return


class Moving:
    """A `priohook move` in a process of its own."""

    def __init__(self, folder: Path, url: str, settings: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app", "move", url],
            cwd=folder,
            env=environment_for(**settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def until(self, said: str) -> bool:
        """Reads what it says up to this; False if it ends without it."""
        assert self._process.stdout
        return any(said in line for line in self._process.stdout)

    def end(self, number: Signals) -> str:
        """Ends it, and returns what it has said since."""
        self._process.send_signal(number)
        return self._rest()

    def done(self) -> str:
        """What it has said, once it has ended with status 0."""
        said = self._rest()
        assert self._process.returncode == 0, said
        return said

    def _rest(self) -> str:
        assert self._process.stdout
        with self._process.stdout as said:
            rest = said.read()
        self._process.wait(ENDS_WITHIN)
        return rest


@pytest.fixture
def follow() -> Iterator[Callable[[Served], Followed]]:
    """`follow(server)` follows its stream, at most until the test ends."""
    with ExitStack() as stack:

        def follow(server: Served) -> Followed:
            followed = Followed(server)
            stack.callback(followed.end)
            return followed

        yield follow


@pytest.fixture
def move(tmp_path: Path) -> Callable[..., Moving]:
    """`move(url, settings)` starts a move."""
    return lambda url, settings: Moving(tmp_path, url, settings)


def notification(reference: str) -> bytes:
    """The body of an event that no other test sends."""
    told = {"notification_id": str(uuid4()), "notification_event": "ORDER_UPDATE", "notification_item_id": reference}
    return json.dumps({"api_version": "3.8", "data": {"kind": "notification", "notification": told}}).encode()


def test_everything_moves_under_load_though_the_move_is_killed_again_and_again(  # noqa: PLR0917 - fixtures
    sqlite_url, empty_postgres_url, serve, priohook, move, follow, consumer, long, record_property
):
    settings = delivering(sqlite_url, consumer, timeout=60)  # however busy the machine is, no attempt is repeated
    settings["token_keys"] = json.dumps([TOKEN_KEY])
    server = serve(with_worker=True, **settings)
    load, random = Load(), Random(SEED)  # noqa: S311 - points in time are no secret
    followed = follow(server)
    with load.running(server):
        load.more()
        for number in range(20 if long else 2):
            moving = move(empty_postgres_url, settings)
            if not moving.until(random.choice(["Copying", "copied and compared", "Deliveries rest"])):
                moving.done()
                break  # the last one was killed after the switch
            sleep(random.uniform(0, 0.3))
            ended = moving.end(SIGINT if number % 2 else SIGKILL)
            assert number % 2 == 0 or "The same command goes on." in ended or "All is in" in ended
            load.more()
        said = move(empty_postgres_url, settings).done()
        load.more()
    assert not load.failed
    assert set(load.statuses) == {200}
    assert "All is in" in said
    record_property("slowest", load.slowest)

    after = configured(empty_postgres_url)
    rows = asyncio.run(stored(empty_postgres_url, StoredEvent))
    assert {row.body: str(row.id) for row in rows} == load.ids
    assert len(rows) == len(load.ids)
    body, first = next(iter(load.ids.items()))
    with dial(server) as wire:
        again = wire.send(request(body)).reply()
    assert (again.status, again.headers["event-id"]) == (200, first)
    assert Counter(listed(server)) == Counter(sorted(load.ids.values())[-SHOWN:])
    followed.until(list(load.ids.values()))
    assert Counter(followed.ids) == Counter(load.ids.values())
    consumer.until(everything_arrived(consumer, list(load.ids.values())))
    assert set(Counter(each.event_id for each in consumer.seen).values()) == {1}
    asyncio.run(chain_holds(empty_postgres_url))
    assert server.end() == 0
    assert "Traceback" not in server.stderr

    refused = priohook("serve", **settings)
    assert refused.returncode == 1
    assert "was moved to postgresql://" in refused.stderr
    assert "secret" not in refused.stderr
    assert priohook("events", "list", **settings).returncode == 1
    assert priohook("events", "list", **after).returncode == 0


def test_a_worker_of_its_own_ends_before_the_switch(  # noqa: PLR0917 - fixtures
    sqlite_url, empty_postgres_url, serve, priohook, consumer, tmp_path
):
    settings = delivering(sqlite_url, consumer)
    server = serve(**settings)
    worker = Working(tmp_path, environment_for(**settings))
    try:
        worker.until_started()
        done = priohook("move", empty_postgres_url, **settings)
        assert done.returncode == 0, done.stderr
        assert worker.wait() == 0
        assert "move_rests" in worker.log
    finally:
        worker.close()
    with dial(server) as wire:
        assert wire.send(request(notification("PRI1"))).reply().status == 200
    assert len(asyncio.run(stored(empty_postgres_url, StoredEvent))) == 1


def listed(server: Served) -> list[str]:
    """The ids of the newest events over the API."""
    with dial(server) as wire:
        token = "Authorization: " + bearer_header()["Authorization"]
        reply = wire.send(request(method="GET", target=f"/api/events?limit={SHOWN}", authorization=token)).reply()
    return [event["id"] for event in json.loads(reply.body)["events"]]


async def chain_holds(url: str) -> None:
    async with engines.engine_for(url) as engine, engine.connect() as connection:
        await verify(connection)

"""Two releases beside each other under load: an upgrade and a rollback lose nothing, double nothing and keep the order.

The previous release comes from its commit, with the migrations of that time. With `--long` it goes on and on.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from signal import SIGTERM
from typing import NamedTuple, Self
from uuid import uuid4

import pytest
from sqlalchemy import text

from app.database import engines
from app.database.schema import PACKAGE, known_revisions
from app.deliveries.tables import Delivery
from app.server.server import SAME_SIGNAL
from tests.e2e.conftest import ENDS_WITHIN, Served, environment_for
from tests.e2e.consumer import Consumer
from tests.e2e.faults import CannotRun
from tests.e2e.load import stored
from tests.e2e.sender import ANSWER_WITHIN, PATIENCE, PAUSE, Connection
from tests.e2e.test_deliveries import delivering, in_order
from tests.e2e.test_deliveries import stored as rows_of
from tests.e2e.test_durability import not_run, readiness  # noqa: F401
from tests.e2e.test_worker_beside import until
from tests.e2e.working import Working

PREVIOUS = "cd316b2bdb7d878286c228dbc3f28dd1c1611aa1"
"""The last commit of the release before this one: the newest of `main` whose migrations end with `ENDED_WITH`."""

ENDED_WITH = "0021"
ORDERS = 8
DELAY = "600"  # seconds, which no test waits for
GAP = 0.1  # seconds between two events of an order, so that the load is bounded
WARM = 40  # events before and after each step
ROUNDS, LONG_ROUNDS = 1, 5


class Release(NamedTuple):
    """A release, as the folder that has its `app` and its `migrations`."""

    code: Path
    folder: Path
    settings: dict[str, str]

    def environment(self) -> dict[str, str]:
        return environment_for(**self.settings) | {"PYTHONPATH": str(self.code)}

    async def migrate(self) -> None:
        command = [sys.executable, "-m", "app", "migrate"]
        run = partial(subprocess.run, command, cwd=self.folder, env=self.environment(), check=True, timeout=ENDS_WITHIN)
        await asyncio.to_thread(run)


class Serving:
    """A receiver and a worker of a release, in processes of their own or beside each other."""

    receiver: Served

    def __init__(self, release: Release) -> None:
        self._release = release
        self._worker: Working | None = None

    async def start(self, *, beside: bool) -> Self:
        """Starts both; the worker beside the receiver if `beside`."""
        folder, environment = self._release.folder, self._release.environment()
        if not beside:
            self._worker = Working(folder, environment)
        self.receiver = await asyncio.to_thread(Served, folder, ("--port", "0"), environment, with_worker=beside)
        if self._worker is not None:
            await asyncio.to_thread(self._worker.until_started)
        return self

    async def leave(self) -> None:
        """Tells the receiver to end after its delay, which the next signal ends."""
        self.receiver.signal(SIGTERM)
        await asyncio.to_thread(until, lambda: readiness(self.receiver) == 503)
        await asyncio.sleep(2 * SAME_SIGNAL)

    async def end(self) -> None:
        """Ends both in good order."""
        self.receiver.signal(SIGTERM)
        assert self._worker is None or await asyncio.to_thread(self._worker.end) == 0
        assert await asyncio.to_thread(self.receiver.wait) == 0
        log = self.receiver.stderr + (self._worker.log if self._worker else "")
        assert "Traceback" not in log
        assert "database_lost" not in log
        self.close()

    def close(self) -> None:
        """Ends what still runs."""
        for running in (self._worker, getattr(self, "receiver", None)):
            if running is not None:
                running.close()


class Orders:
    """Sends events of some orders, the next one of each only after the 200 of the one before.

    Attributes:
        addresses: The receivers, which take turns. They may change at any time.
        accepted: Reference and id of each event, in the order of the answers.
        bodies: What was sent under each id.
        answers: How often each status was seen.
        broken: How many requests got no answer.
    """

    def __init__(self, *receivers: Served) -> None:
        self.accepted: list[tuple[str, str]] = []
        self.bodies: dict[str, bytes] = {}
        self.answers: Counter[int] = Counter()
        self.broken = 0
        self._turn = count()
        self._ending = False
        self._changed = asyncio.Event()
        self.use(*receivers)

    def use(self, *receivers: Served) -> None:
        """Lets only these receivers get events from now on, as a balancer does."""
        self.addresses = [receiver.address for receiver in receivers]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Sends. At the end, waits until each event has got its 200."""
        orders = [asyncio.create_task(self._send(f"P{number}")) for number in range(ORDERS)]
        try:
            yield self
            self._ending = True
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*orders)
        finally:
            for order in orders:
                order.cancel()
            await asyncio.gather(*orders, return_exceptions=True)

    async def more(self) -> None:
        """Waits until some more events were accepted."""
        wanted = len(self.accepted) + WARM
        async with asyncio.timeout(PATIENCE):
            while len(self.accepted) < wanted:
                self._changed.clear()
                await self._changed.wait()

    async def _send(self, reference: str) -> None:
        opened: dict[tuple[str, int], Connection] = {}
        try:
            for number in count():
                if self._ending:
                    return
                body = _event(reference, number)
                while not await self._accepted(opened, reference, body):  # noqa: ASYNC110 - it does not look, it sends
                    await asyncio.sleep(PAUSE)
                await asyncio.sleep(GAP)
        finally:
            for connection in opened.values():
                connection.close()

    async def _accepted(self, opened: dict[tuple[str, int], Connection], reference: str, body: bytes) -> bool:
        for gone in opened.keys() - set(self.addresses):
            opened.pop(gone).close()
        address = self.addresses[next(self._turn) % len(self.addresses)]
        connection = opened.setdefault(address, Connection())
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                status, event_id = await connection.post(address, body)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            connection.close()
            self.broken += 1
            return False
        self.answers[status] += 1
        if status == 200:
            self.accepted.append((reference, event_id))
            self.bodies[event_id] = body
            self._changed.set()
        return status == 200


def _event(reference: str, number: int) -> bytes:
    notification = {
        "notification_id": str(uuid4()),
        "notification_event": "ORDER_UPDATE",
        "notification_item_id": reference,
        "number": number,
    }
    return json.dumps({"api_version": "3.8", "data": {"kind": "notification", "notification": notification}}).encode()


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """`previous()` is the folder of the previous release.

    Raises:
        CannotRun: this is no clone, or one without its history.
    """
    folder = tmp_path_factory.mktemp("previous")

    def unpacked() -> Path:
        if not any(folder.iterdir()):
            git = shutil.which("git") or "git"
            archive = [git, "-C", str(PACKAGE.parent), "archive", PREVIOUS, "app", "migrations"]
            packed = subprocess.run(archive, capture_output=True, check=False) if shutil.which("git") else None
            if packed is None or packed.returncode:
                raise CannotRun("the previous release comes from the history of a git clone, which is not here")
            with tarfile.open(fileobj=BytesIO(packed.stdout)) as tar:
                tar.extractall(folder, filter="data")
        return folder

    return unpacked


@pytest.fixture
def consumer() -> Iterator[Consumer]:
    with Consumer().running() as consumer:
        yield consumer


async def started(stack: ExitStack, release: Release, *, beside: bool = False) -> Serving:
    """What runs of a release, and ends with the stack at the latest."""
    serving = Serving(release)
    stack.callback(serving.close)
    return await serving.start(beside=beside)


async def revision_of(url: str) -> str:
    async with engines.engine_for(url) as engine, engine.connect() as connection:
        return str(await connection.scalar(text("SELECT version_num FROM alembic_version")))


async def check(orders: Orders, consumer: Consumer, url: str) -> dict[str, int]:
    """Checks that each event is stored once and delivered once, in order; returns what a line of the table says."""
    ids = [event_id for _, event_id in orders.accepted]
    await asyncio.to_thread(consumer.until, lambda: {each.event_id for each in consumer.delivered()} >= set(ids))
    rows = await stored(url)
    assert dict(rows) == orders.bodies
    assert len(rows) == len(ids) == len(set(ids))
    in_order(consumer, orders.accepted)
    assert Counter(each.event_id for each in consumer.seen) == Counter(ids)
    await all_delivered(url)
    requests = orders.answers.total() + orders.broken
    return {"requests": requests, "acknowledged": len(ids), "lost": 0, "duplicated": 0, "copies": 0}


async def all_delivered(url: str) -> None:
    """Waits until the workers have recorded what the consumer got."""
    async with asyncio.timeout(PATIENCE):
        while {row.status for row in await rows_of(url, Delivery)} != {"delivered"}:  # noqa: ASYNC110 - a worker's doing
            await asyncio.sleep(PAUSE)


@pytest.fixture
def releases(tmp_path, consumer, previous, not_run) -> Callable[[str, dict[str, str]], list[Release]]:  # noqa: F811
    """`releases(url, row)` are the previous release and this one, which use the same database and consumer."""

    def of(url: str, row: dict[str, str]) -> list[Release]:
        settings = delivering(url, consumer, timeout=30)
        with not_run(row["fault"], row["database"]):
            return [Release(code, tmp_path, settings) for code in (previous(), PACKAGE.parent)]

    return of


async def test_on_postgresql_two_releases_serve_beside_each_other_there_and_back(
    releases, consumer, empty_postgres_url, record_property, long
):
    row = {"fault": "upgrade and rollback, both releases at once", "database": "PostgreSQL"}
    old, new = releases(empty_postgres_url, row)
    new = new._replace(settings=new.settings | {"shutdown_delay": DELAY})
    await old.migrate()
    assert await revision_of(empty_postgres_url) == ENDED_WITH
    with ExitStack() as stack:
        before = await started(stack, old)
        async with Orders(before.receiver).running() as orders:
            await orders.more()
            await new.migrate()
            assert await revision_of(empty_postgres_url) == known_revisions()[-1]
            for release in [new, old] * (LONG_ROUNDS if long else ROUNDS):
                assert readiness(before.receiver) == 200
                after = await started(stack, release)
                orders.use(before.receiver, after.receiver)
                await orders.more()
                if release is old:  # the new one ends, and has told its balancer
                    await before.leave()
                    await orders.more()
                orders.use(after.receiver)
                await before.end()
                await orders.more()
                before = after
        counts = await check(orders, consumer, empty_postgres_url)
        await before.end()
    record_property("durability", {**row, **counts})
    assert (set(orders.answers), orders.broken) == ({200}, 0)


async def test_on_sqlite_one_release_follows_the_other_there_and_back(
    releases, consumer, tmp_path, record_property, long
):
    row = {"fault": "upgrade and rollback, one after the other", "database": "SQLite"}
    url = f"sqlite+aiosqlite:///{tmp_path / 'priohook.db'}"
    old, new = releases(url, row)
    with ExitStack() as stack:
        serving = await started(stack, old, beside=True)
        assert await revision_of(url) == ENDED_WITH
        async with Orders(serving.receiver).running() as orders:
            await orders.more()
            for release in [new, old] * (LONG_ROUNDS if long else ROUNDS):
                await serving.end()
                serving = await started(stack, release, beside=True)
                orders.use(serving.receiver)
                await orders.more()
                assert await revision_of(url) == known_revisions()[-1]
        counts = await check(orders, consumer, url)
        await serving.end()
    record_property("durability", {**row, **counts})
    assert set(orders.answers) == {200}

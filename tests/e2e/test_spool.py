"""The spool of receivers in processes of their own, as far as the consumer that gets the events."""

import asyncio
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGKILL
from time import monotonic, sleep
from uuid import uuid4

import asyncpg
import pytest

from tests import postgres
from tests.e2e.conftest import Served, configured, dial, empty_database, environment_for, migrate, request
from tests.e2e.consumer import Consumer
from tests.e2e.sender import PATIENCE, Sender, outcome_of
from tests.e2e.test_durability import state

REFERENCES = [f"PRI{number}" for number in range(5)]
ROUNDS = 12  # events of each reference before, during and after the outage


@pytest.fixture(scope="module")
def own_server() -> Iterator[postgres.Server]:
    with postgres.server(durable=True) as running:
        yield running


@pytest.fixture
def own_url(own_server: postgres.Server) -> Iterator[str]:
    with empty_database(own_server.url()) as url:
        migrate(url)
        yield url


@pytest.fixture
def settings(own_url: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "spool").mkdir()
    return configured(own_url, commit_timeout="1", spool=str(tmp_path / "spool"))


def emptied(folder: Path) -> None:
    """Waits until no event is left in the spool."""
    until = monotonic() + PATIENCE
    while any(count_in(path) for path in folder.glob("*.db")):
        assert monotonic() < until
        sleep(0.1)


def count_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as file:
        return int(file.execute("SELECT count(*) FROM spooled").fetchone()[0])


def notification(reference: str, name: str) -> bytes:
    content = {"notification_id": name, "notification_event": "ORDER_UPDATE", "notification_item_id": reference}
    return json.dumps({"api_version": "3.8", "data": {"kind": "notification", "notification": content}}).encode()


@pytest.mark.parametrize("killed", [False, True])
def test_each_references_events_are_delivered_in_order_of_arrival_through_an_outage(
    own_server, settings, tmp_path, killed
):
    sent: dict[str, list[str]] = defaultdict(list)

    def post(served: Served) -> None:
        with dial(served) as wire:
            for _ in range(ROUNDS):
                for reference in REFERENCES:
                    name = str(uuid4())
                    assert wire.send(request(notification(reference, name))).reply().status == 200
                    sent[reference].append(name)

    with Consumer().running() as consumer:
        environment = environment_for(**settings, destinations=json.dumps({"erp": {"url": consumer.url}}))
        served = Served(tmp_path, ("--port", "0"), environment, with_worker=True)
        try:
            post(served)
            own_server.kill()
            try:
                post(served)
                if killed:
                    served.signal(SIGKILL)
                    served.wait()
                    served.close()
                    served = Served(tmp_path, ("--port", "0"), environment, with_worker=True)
                    post(served)
            finally:
                own_server.start()
            post(served)
            consumer.until(
                lambda: len({seen.event_id for seen in consumer.delivered()}) == sum(map(len, sent.values()))
            )
        finally:
            served.close()
    delivered: dict[str, list[str]] = defaultdict(list)
    for seen in consumer.delivered():
        name = json.loads(seen.body)["data"]["notification"]["notification_id"]
        if name not in delivered[seen.reference]:  # what a killed worker had under way comes again
            delivered[seen.reference].append(name)
    assert delivered == sent


async def test_two_processes_lose_nothing_while_postgresql_is_away(own_server, own_url, settings, tmp_path):
    folder = tmp_path / "spool"
    served = await asyncio.to_thread(Served, tmp_path, ("--port", "0", "--processes", "2"), environment_for(**settings))
    sender = Sender(served.address)
    try:
        async with sender.running():
            await sender.more(200, 200)
            for _ in range(2):
                await asyncio.to_thread(own_server.kill)
                await sender.more(200, 500)
                assert len([*folder.glob("*.db")]) >= 2
                await asyncio.to_thread(own_server.start)
                await sender.recovers()
                await sender.more(200, 200)
        await asyncio.to_thread(emptied, folder)
        outcome = await outcome_of(sender, own_url)
        assert (outcome.lost, outcome.duplicated, outcome.strangers) == (0, 0, 0)
        assert sender.accepted.keys() == sender.sent
        assert sender.answers.keys() == {200}
        assert sender.broken == 0
        assert await asyncio.to_thread(served.end) == 0
        assert list(folder.iterdir()) == []
    finally:
        served.close()


def test_a_wrong_password_is_refused_at_the_start_and_spools_in_a_receiver_that_runs(
    own_server, own_url, settings, tmp_path, priohook
):
    """`trust` takes any password, so that the role is refused instead: the server's answer has the same class."""

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(own_server.url())
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute("CREATE ROLE receiver SUPERUSER LOGIN"))
    settings = settings | {"database_url": own_url.replace("priohook@", "receiver@")}
    served = Served(tmp_path, ("--port", "0"), environment_for(**settings))
    try:
        asyncio.run(execute("ALTER ROLE receiver NOLOGIN"))
        asyncio.run(execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'receiver'"))
        with dial(served) as wire:
            assert wire.send(request(notification("PRI1", "n"))).reply().status == 200
        assert state(served) == "spooling"
        refused = priohook("serve", "--port", "0", "--no-worker", **settings)
        assert refused.returncode == 1
        assert 'role "receiver" is not permitted to log in' in refused.stderr
        assert "Check database_url" in refused.stderr
        asyncio.run(execute("ALTER ROLE receiver LOGIN"))
        emptied(tmp_path / "spool")
        assert "database_refuses" in served.stderr
    finally:
        served.close()
        asyncio.run(execute("DROP ROLE receiver"))

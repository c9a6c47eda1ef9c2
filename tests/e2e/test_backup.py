"""A backup while events arrive and are delivered, a kill, and a restore."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from signal import SIGKILL
from threading import Thread
from typing import Any

import pytest

from tests.e2e.conftest import configured
from tests.e2e.consumer import Consumer
from tests.e2e.test_deliveries import everything_arrived, send

ENOUGH = 40  # events before the backup
ALL = ("--limit", "10000", "--json")


@pytest.fixture
def consumer():
    with Consumer().running() as consumer:
        yield consumer


def test_nothing_is_lost_up_to_the_backup_and_nothing_sent_twice_without_being_asked(
    sqlite_url, serve, priohook, consumer, tmp_path
):
    consumer.answer = _fails
    settings = configured(sqlite_url, destinations=json.dumps({"erp": {"url": consumer.url}}))
    server = serve(with_worker=True, **settings)
    (failing,) = send(server, "FAILS")
    sent: list[str] = []
    ended: list[bool] = []

    def load() -> None:
        while not ended:
            sent.extend(send(server, *(f"P{number}" for number in range(10))))

    sender = Thread(target=load)
    sender.start()
    consumer.until(lambda: len(sent) >= ENOUGH)
    before = list(sent)
    done = priohook("backup", "copy.db", "--json", **settings)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    consumer.until(lambda: len(sent) >= len(before) + ENOUGH)
    ended.append(True)
    sender.join()
    consumer.until(everything_arrived(consumer, sent))
    refused = priohook("restore", "copy.db", "--yes", **settings)
    assert refused.returncode == 1
    assert "Stop priohook first" in refused.stderr
    server.signal(SIGKILL)
    server.wait()
    until_worker_ended(priohook, settings)
    for path in Path(tmp_path).glob("priohook.db*"):
        path.rename(tmp_path / f"lost-{path.name}")

    done = priohook("restore", "copy.db", "--yes", "--json", **settings)
    assert done.returncode == 0, done.stderr
    held = json.loads(done.stdout)["held"]["erp"]
    seen = Counter(each.event_id for each in consumer.seen)
    consumer.answer = _takes_all
    server = serve(with_worker=True, **settings)
    listed = [
        json.loads(line)
        for line in priohook("events", "list", "--limit", "10000", "--json", **settings).stdout.splitlines()
    ]
    restored = {each["id"] for each in listed}
    assert {failing, *before} <= restored
    assert len(restored) == made["rows"]["events"]
    assert priohook("destinations", "resume", "erp", **settings).returncode == 0
    (fresh,) = send(server, "NEW")
    consumer.until(lambda: fresh in {each.event_id for each in consumer.delivered()})
    assert Counter(each.event_id for each in consumer.seen) == seen + Counter([fresh])

    dead = priohook(
        "deliveries", "list", "--status", "dead", "--limit", "10000", "--json", **settings
    ).stdout.splitlines()
    waiting = {json.loads(line)["event_id"] for line in dead}
    assert failing in waiting
    assert len(waiting) == held
    assert priohook("deliveries", "retry", "--destination", "erp", **settings).returncode == 0
    consumer.until(lambda: waiting <= {each.event_id for each in consumer.delivered()})


def _fails(reference: str, _: int) -> int:
    return 500 if reference == "FAILS" else 200


def _takes_all(_: str, __: int) -> int:
    return 200


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def until_worker_ended(priohook, settings) -> None:
    """The worker beside a killed server ends by itself; until then it holds the database."""
    for _ in range(50):
        done = priohook("restore", "missing.db", "--yes", **settings)
        if "uses" not in done.stderr:
            return

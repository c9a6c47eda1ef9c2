"""Real workers look, and tell a channel that listens. They look every 15 seconds, so each test takes a minute."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import configured, dial, environment_for, migrate, new_event, request
from tests.e2e.consumer import Consumer
from tests.e2e.test_deliveries import send
from tests.e2e.working import Working

PATIENCE = 180.0  # seconds


@pytest.fixture
def channel() -> Iterator[Consumer]:
    with Consumer().running() as channel:
        yield channel


def told(channel: Consumer) -> list[dict[str, Any]]:
    """What a channel has answered 200, in order."""
    return [json.loads(seen.body) for seen in channel.delivered()]


def stages(channel: Consumer) -> Counter[tuple[str, str]]:
    """How often each was told. A worker that is killed before it has stored that tells it again, with the same id."""
    bodies = {seen.event_id: json.loads(seen.body) for seen in channel.delivered()}
    return Counter((each["type"], each["data"]["name"]) for each in bodies.values())


def test_silence_is_told_when_it_starts_and_when_it_ends_by_a_channel_that_was_away(serve, sqlite_url, channel):
    channel.answer = lambda _, number: 500 if number == 0 else 200
    server = serve(
        with_worker=True,
        **configured(
            sqlite_url,
            alarms=json.dumps({"silence": {"quiet": "20s"}}),
            alarm_channels=json.dumps({"ops": {"url": channel.url}}),
        ),
    )
    channel.until(lambda: bool(channel.seen), within=PATIENCE)
    with dial(server) as wire:
        assert wire.send(request(new_event())).reply().status == 200
    first = json.loads(channel.seen[0].body)["data"]["id"]  # another silence may be told before it is told again

    def of_first() -> list[dict[str, Any]]:
        return [each for each in told(channel) if each["data"]["id"] == first]

    channel.until(lambda: len(of_first()) >= 2, within=PATIENCE)
    started, ended = of_first()[:2]
    assert (started["type"], ended["type"]) == ("alarm.started", "alarm.ended")
    assert "Nothing was accepted since the start" in started["data"]["what"]
    assert "alarm_untold" in server.stderr


def test_of_two_workers_one_tells_and_the_other_tells_that_it_died(serve, empty_postgres_url, channel, tmp_path: Path):
    migrate(empty_postgres_url)
    settings = configured(
        empty_postgres_url,
        destinations=json.dumps({"erp": {"url": "http://127.0.0.1:1/in"}}),
        alarms=json.dumps({"circuit": {"older_than": "0s"}, "worker": {}}),
        alarm_channels=json.dumps({"ops": {"url": channel.url}}),
    )
    server = serve(**settings)
    first = Working(tmp_path, environment_for(**settings))
    first.until_started()
    second = Working(tmp_path, environment_for(**settings))
    try:
        second.until_started()
        send(server, *(f"R{number}" for number in range(30)))
        channel.until(lambda: ("alarm.started", "destination_down") in stages(channel), within=PATIENCE)
        first.kill()
        channel.until(lambda: ("alarm.started", "process_silent") in stages(channel), within=PATIENCE)
        assert set(stages(channel).values()) == {1}
    finally:
        for worker in (first, second):
            worker.close()

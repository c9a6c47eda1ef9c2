from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from app.telemetry.tally import MOST_KEPT, MOST_OF_MINUTE, Heard, Refusal, Tally

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
MINUTE = int(NOON.timestamp())


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOON.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> Tally:
    return Tally(clock=clock)


def line(status: int = 401, **fields: Any) -> dict[str, Any]:
    return {"path": "/webhooks/prioticket", "address": "192.0.2.1", "status": status, "reason": "wrong_secret"} | fields


def test_refusals_of_one_kind_and_minute_are_counted_together(tally, clock):
    for _ in range(3):
        tally.answered(line(client="prioticket"))
        clock.now += 25
    counted = dict(tally.take().refusals)
    kind = ("webhook", 401, "wrong_secret", "192.0.2.1", "prioticket")
    assert counted == {Refusal(MINUTE, *kind): 3}
    clock.now += 60
    tally.answered(line(client="prioticket"))
    assert dict(tally.take().refusals) == {Refusal(MINUTE + 120, *kind): 1}


@pytest.mark.parametrize(
    ("path", "door"),
    [
        ("/webhooks/prioticket", "webhook"),
        ("/oauth2/token", "token"),
        ("/api/events", "api"),
        ("/apis", "other"),
        ("/webhook/prioticket", "other"),
    ],
)
def test_each_url_has_its_door(tally, path, door):
    tally.answered(line(404, path=path, reason="not_found"))
    (refusal,) = tally.take().refusals
    assert refusal.door == door


@pytest.mark.parametrize(("status", "path"), [(200, "/api/events"), (499, "/api/events"), (503, "/readyz"), (502, "/")])
def test_what_is_not_refused_is_not_counted(tally, status, path):
    tally.answered(line(status, path=path))
    assert not tally.take().refusals


def test_addresses_beyond_the_most_of_a_minute_are_counted_as_one(tally):
    for number in range(MOST_OF_MINUTE + 10):
        tally.answered(line(address=f"198.51.100.{number}", reason="unknown_username"))
    counted = tally.take().refusals
    assert len(counted) == MOST_OF_MINUTE + 1
    assert counted[Refusal(MINUTE, "webhook", 401, "unknown_username", "other", "")] == 10


def test_a_minute_has_its_most_rows_however_often_they_are_written(tally):
    rows = set()
    for number in range(3 * MOST_OF_MINUTE):
        tally.answered(line(address=f"198.51.100.{number}", reason="unknown_username"))
        tally.answered(line(address="198.51.100.0", reason="unknown_username"))
        rows |= tally.take().refusals.keys()
    assert len(rows) == MOST_OF_MINUTE + 1


def test_strangers_do_not_push_out_the_address_that_means_a_client(tally):
    for number in range(MOST_OF_MINUTE + 10):
        tally.answered(line(address=f"198.51.100.{number}", reason="unknown_username"))
    tally.answered(line(client="prioticket"))
    assert Refusal(MINUTE, "webhook", 401, "wrong_secret", "192.0.2.1", "prioticket") in tally.take().refusals


@pytest.mark.slow
def test_memory_is_bounded_however_long_the_database_is_away(tally, clock):
    for _ in range(MOST_KEPT):
        clock.now += 60
        for number in range(3):
            tally.answered(line(address=f"198.51.100.{number}"))
        tally.put_back(tally.take())
    assert len(tally.take().refusals) == MOST_KEPT


def test_a_client_has_its_last_success_and_its_last_refusal(tally, clock):
    tally.answered(line(client="prioticket"))
    clock.now += 60
    tally.answered(line(422, client="prioticket", reason="unprocessable"))
    clock.now += 60
    tally.answered(line(200, client="prioticket"))
    at = [datetime.fromtimestamp(MINUTE + seconds, UTC) for seconds in (60, 120)]
    assert tally.take().clients == {"prioticket": Heard(at[1], at[0], 422, "unprocessable", "192.0.2.1")}
    assert tally.take().clients == {}


def test_what_could_not_be_written_is_not_lost_and_hides_nothing_newer(tally: Tally, clock: Callable[[], float]):
    tally.answered(line(client="prioticket"))
    tally.answered(line(200, client="gate"))
    failed = tally.take()
    tally.answered(line(403, client="prioticket", reason="scope"))
    tally.put_back(failed)
    counts = tally.take()
    assert sum(counts.refusals.values()) == 2
    assert counts.clients["prioticket"].refused_reason == "scope"
    assert counts.clients["gate"].succeeded_at == NOON

from datetime import UTC, datetime, timedelta

import pytest

from app.deliveries import recent
from app.deliveries.recent import RecentAttempt, performance, quantile, recent_attempts
from app.events.ids import made_at, new_id

NOW = datetime(2026, 8, 12, 12, tzinfo=UTC)


def attempt(ms: int | None = 10, *, status: int | None = 200, result: str = "delivered", ago: int = 0) -> RecentAttempt:
    return RecentAttempt(new_id(), 1, NOW - timedelta(seconds=ago), ms, status, result, None)


async def test_the_last_attempts_are_those_of_all_kinds_of_deliveries_the_newest_first(workers):
    for reference, status in (("A", 200), ("B", 500), ("C", None)):
        await workers.store(reference)
        await workers.dispatch()
        claim = next(claim for claim in (await workers.turn()).claims if claim.reference == reference)
        await workers.turn(workers.ended(claim, status), limits=workers.limits._replace(max_in_flight=0))
        workers.wait(1)
    async with workers.engine.connect() as connection:
        found = await recent_attempts(connection, "erp")
        assert await recent_attempts(connection, "crm") == []
    assert [(each.reference, each.status, each.result, each.number) for each in found] == [
        ("C", None, "unreachable", 1),
        ("B", 500, "refused", 1),
        ("A", 200, "delivered", 1),
    ]


async def test_attempts_before_a_long_queue_are_found(workers, monkeypatch):
    monkeypatch.setattr(recent, "NEWEST", 2)
    await workers.store("A")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim))
    for _ in range(5):
        await workers.store("B")
    await workers.dispatch()
    second = (await workers.deliveries())[1]
    async with workers.engine.connect() as connection:
        assert await recent_attempts(connection, "erp") == []
        found = await recent_attempts(connection, "erp", trouble_since=made_at(second.id))
    assert [each.reference for each in found] == ["A"]


def test_the_performance_says_how_attempts_ended_and_how_long_the_answered_ones_took():
    failed = attempt(5000, status=None, result="timed_out", ago=1)
    attempts = [attempt(30), failed, attempt(10, status=500, result="refused", ago=2), attempt(20, ago=3)]
    found = performance(attempts)
    assert (found.attempts, found.since, found.last_failure) == (4, NOW - timedelta(seconds=3), failed)
    assert found.results == {"delivered": 2, "timed_out": 1, "refused": 1}
    assert (found.p50_ms, found.p95_ms) == (20, 30)
    nothing = performance([])
    assert (nothing.attempts, nothing.since, nothing.p50_ms, nothing.last_failure) == (0, None, None, None)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([7], 0.95, 7), ([1, 2], 0.5, 1), ([1, 2, 3], 0.5, 2), (range(1, 101), 0.95, 95)],
)
def test_a_quantile_is_one_of_the_values(values, share, expected):
    assert quantile(list(values), share) == expected

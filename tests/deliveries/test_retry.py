from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.deliveries.retry import (
    FAILING_TO_OPEN,
    FAILURES_TO_OPEN,
    FIRST_DELAY,
    FIRST_PROBE,
    LONGEST_DELAY,
    LONGEST_PROBE,
    LONGEST_RETRY_AFTER,
    MOST_ATTEMPTS,
    Circuit,
    judge,
    next_delay,
)
from app.deliveries.tables import AttemptResult

NOW = datetime(2026, 8, 12, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
RETRIED = st.integers(1, MOST_ATTEMPTS - 1)


def longest(attempt: int) -> timedelta:
    delay = next_delay(attempt, uniform=lambda _, most: most)
    assert delay is not None
    return delay


def failing(circuit: Circuit, *, times: int, over: timedelta, start: datetime = NOW) -> tuple[Circuit, datetime]:
    """The circuit after evenly spread failures, and the time of the last one."""
    for number in range(times):
        now = start + over * number / max(1, times - 1)
        circuit = circuit.after(failed=True, now=now)
    return circuit, now


def test_2xx_is_delivered_410_is_gone_and_all_else_has_failed():
    for status in range(100, 600):
        expected = AttemptResult.REFUSED
        if status // 100 == 2:
            expected = AttemptResult.DELIVERED
        if status == 410:
            expected = AttemptResult.GONE
        assert judge(status) is expected, status


def test_the_delays_between_all_attempts_are_46_hours_in_the_mean_and_93_at_most():
    total = sum((longest(attempt) for attempt in range(1, MOST_ATTEMPTS)), timedelta(0))
    assert (round(total / timedelta(hours=2)), total // timedelta(hours=1)) == (46, 92)
    assert timedelta(hours=92) < total <= timedelta(hours=93)


def test_after_the_last_attempt_there_is_none():
    assert next_delay(MOST_ATTEMPTS - 1) is not None
    assert next_delay(MOST_ATTEMPTS) is None
    assert next_delay(MOST_ATTEMPTS, retry_after=SECOND) is None


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_are_counted_from_1(attempt):
    with pytest.raises(ValueError, match="counted from 1"):
        next_delay(attempt)


@given(RETRIED)
def test_a_delay_is_within_its_bounds(attempt):
    delay = next_delay(attempt)
    assert delay is not None
    assert timedelta(0) <= delay <= longest(attempt) <= LONGEST_DELAY


def test_the_bounds_grow_from_the_first_delay_to_the_longest():
    bounds = [longest(attempt) for attempt in range(1, MOST_ATTEMPTS)]
    assert bounds == sorted(bounds)
    assert (bounds[0], bounds[-1]) == (FIRST_DELAY, LONGEST_DELAY)


@given(RETRIED, st.floats(0, 1))
def test_the_jitter_is_full(attempt, part):
    delay = next_delay(attempt, uniform=lambda least, most: least + part * (most - least))
    assert delay == timedelta(seconds=part * longest(attempt).total_seconds())


@given(RETRIED, st.timedeltas(timedelta(0), timedelta(days=1000)), st.floats(0, 1))
def test_the_wait_is_not_shorter_than_asked_for_within_bounds(attempt, asked, part):
    uniform = lambda _, most: part * most  # noqa: E731
    alone, delay = next_delay(attempt, uniform=uniform), next_delay(attempt, retry_after=asked, uniform=uniform)
    assert alone is not None
    assert delay == max(alone, min(asked, LONGEST_RETRY_AFTER))


def test_a_circuit_opens_after_enough_failures_that_took_long_enough():
    circuit, last = failing(Circuit(), times=FAILURES_TO_OPEN, over=FAILING_TO_OPEN)
    assert circuit == Circuit(FAILURES_TO_OPEN, NOW, last + FIRST_PROBE)


@pytest.mark.parametrize(
    ("times", "over"),
    [(FAILURES_TO_OPEN - 1, timedelta(days=1)), (1000, FAILING_TO_OPEN - SECOND)],
)
def test_a_circuit_stays_closed_for_few_failures_and_for_a_short_time(times, over):
    circuit, last = failing(Circuit(), times=times, over=over)
    assert circuit.probe_at is None
    assert circuit.allows(5, in_flight=3, now=last) == 5


def test_an_open_circuit_lets_one_delivery_try_when_its_time_has_come():
    circuit = Circuit(FAILURES_TO_OPEN, NOW, probe_at=NOW)
    assert circuit.allows(5, in_flight=0, now=NOW - SECOND) == 0
    assert circuit.allows(5, in_flight=0, now=NOW) == 1
    assert circuit.allows(4, in_flight=1, now=NOW) == 0
    assert circuit.allows(0, in_flight=0, now=NOW) == 0


def test_a_success_closes_a_circuit():
    assert Circuit(50, NOW, probe_at=NOW).after(failed=False, now=NOW) == Circuit()


def test_what_was_sent_before_the_circuit_opened_does_not_put_off_its_probe():
    circuit, last = failing(Circuit(), times=FAILURES_TO_OPEN, over=FAILING_TO_OPEN)
    later = circuit.after(failed=True, now=last + SECOND)
    assert (later.failures, later.probe_at) == (FAILURES_TO_OPEN + 1, circuit.probe_at)


def test_the_time_between_probes_grows_to_its_longest():
    circuit, now = failing(Circuit(), times=FAILURES_TO_OPEN, over=FAILING_TO_OPEN)
    waits = []
    for _ in range(20):
        assert circuit.probe_at is not None
        waits.append(circuit.probe_at - now)
        now = circuit.probe_at
        circuit = circuit.after(failed=True, now=now)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (FIRST_PROBE, LONGEST_PROBE)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=60))
def test_a_circuit_is_open_only_after_both_bounds(history):
    circuit, now = Circuit(), NOW
    for failed, seconds in history:
        now += seconds * SECOND
        circuit = circuit.after(failed=failed, now=now)
        assert (circuit.failures == 0) == (circuit.failing_since is None)
        if circuit.probe_at is not None:
            assert circuit.failures >= FAILURES_TO_OPEN
            assert circuit.failing_since is not None
            assert now - circuit.failing_since >= FAILING_TO_OPEN
            assert circuit.probe_at <= now + LONGEST_PROBE

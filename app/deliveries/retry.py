"""Decisions about attempts: what an answer means, when to try again, and when a destination's circuit opens. Pure."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import NamedTuple

from app.deliveries.tables import AttemptResult

MOST_ATTEMPTS = 20
FIRST_DELAY = timedelta(seconds=5)
"""Long enough for a rolling restart, short enough that nobody notices."""

FACTOR = 3
LONGEST_DELAY = timedelta(hours=8)
LONGEST_RETRY_AFTER = timedelta(hours=1)
"""A consumer may ask for more, by mistake or because its clock is wrong. A ticket cannot wait that long."""

FAILURES_TO_OPEN = 10
FAILING_TO_OPEN = timedelta(seconds=30)
FIRST_PROBE = timedelta(seconds=15)
LONGEST_PROBE = timedelta(minutes=5)


def judge(status: int) -> AttemptResult:
    """The meaning of an answer's HTTP status.

    Everything except a success and 410 is tried again, also a 400: the consumer's bug is repaired, no event is skipped.
    """
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return AttemptResult.DELIVERED
    return AttemptResult.GONE if status == HTTPStatus.GONE else AttemptResult.REFUSED


def next_delay(
    attempt: int,
    *,
    retry_after: timedelta | None = None,
    uniform: Callable[[float, float], float] = random.uniform,
) -> timedelta | None:
    """How long to wait after a failed attempt, or None to give up.

    Exponential with full jitter, after AWS Architecture Blog, "Exponential Backoff And Jitter" (2015): uniform between
    zero and `FIRST_DELAY` x `FACTOR`^(attempt - 1), at most `LONGEST_DELAY`. The 19 delays between 20 attempts take
    46 hours on average and 93 at most.

    Args:
        attempt: The attempt that just failed, counted from 1.
        retry_after: How long the answer asked to wait. The delay is at least this, up to `LONGEST_RETRY_AFTER`.

    Raises:
        ValueError: `attempt` is less than 1.
    """
    if attempt < 1:
        raise ValueError("attempts are counted from 1")
    if attempt >= MOST_ATTEMPTS:
        return None
    longest = min(FIRST_DELAY * FACTOR ** (attempt - 1), LONGEST_DELAY)
    delay = timedelta(seconds=uniform(0, longest.total_seconds()))
    return max(delay, min(retry_after or timedelta(0), LONGEST_RETRY_AFTER))


def delay_after_loss(tries: int, *, lost: int) -> timedelta:
    """How long to wait after a lost attempt that does not count: as long as if all lost attempts counted.

    Args:
        tries: `tries` of the attempt's claim, from 1.
        lost: How many attempts in a row were lost before this one.
    """
    return next_delay(min(tries + lost, MOST_ATTEMPTS - 1)) or LONGEST_DELAY


class Circuit(NamedTuple):
    """A destination's circuit breaker: closed while `probe_at` is None.

    Attributes:
        failures: Failed attempts since the last success.
        failing_since: When the first of them failed.
        probe_at: While the circuit is open: when one delivery may be tried.
    """

    failures: int = 0
    failing_since: datetime | None = None
    probe_at: datetime | None = None

    def after(self, *, failed: bool, now: datetime) -> "Circuit":
        """The circuit after one more attempt.

        It opens after `FAILURES_TO_OPEN` failures in a row, if `FAILING_TO_OPEN` has passed since the first of them. So
        neither a short restart nor one bad event among good ones stops a destination. While it is open, one delivery
        is tried after `FIRST_PROBE`. The next one follows after half of the time that the destination has been failing,
        at most after `LONGEST_PROBE`. A success closes the circuit.
        """
        if not failed:
            return Circuit()
        since = self.failing_since or now
        again = self._replace(failures=self.failures + 1, failing_since=since)
        if again.failures < FAILURES_TO_OPEN or now - since < FAILING_TO_OPEN:
            return again
        if self.probe_at is not None and now < self.probe_at:
            return again  # this attempt began before the circuit opened
        wait = min(max(FIRST_PROBE, (now - since) / 2), LONGEST_PROBE)
        return again._replace(probe_at=now + wait)

    def allows(self, free: int, *, in_flight: int, now: datetime) -> int:
        """How many of `free` deliveries may be claimed now."""
        if self.probe_at is None:
            return free
        return 1 if now >= self.probe_at and in_flight == 0 and free > 0 else 0

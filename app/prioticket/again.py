"""Whether and when a request to Prioticket is sent again. Pure."""

import random
from collections.abc import Callable
from http import HTTPStatus

MOST_REPEATS = 5
FIRST_PAUSE = 1.0  # seconds; doubled with each repeat
WHEN_TOO_MANY = 60.0  # seconds; whether Prioticket sends Retry-After is unknown
LONGEST_RETRY_AFTER = 600.0  # seconds


def pause_before_repeat(
    status: int | None,
    *,
    method: str,
    repeats: int,
    retry_after: str,
    uniform: Callable[[float, float], float] = random.uniform,
) -> float | None:
    """How many seconds to wait before the same request, or None if it must not be sent again.

    A POST that may have been carried out is never repeated. Other requests wait as AWS's "Exponential Backoff And
    Jitter" (2015) says: uniform between zero and 1, 2, 4, 8, 16 seconds.

    Args:
        status: The answer's status; None if no answer came.
        method: The request's method.
        repeats: How often it was repeated so far.
        retry_after: The answer's Retry-After, in seconds; anything else counts as none.
        uniform: The source of randomness.
    """
    if repeats >= MOST_REPEATS:
        return None
    if status == HTTPStatus.TOO_MANY_REQUESTS or (status == HTTPStatus.REQUEST_TIMEOUT and method != "POST"):
        seconds = retry_after.strip()
        return (
            min(float(seconds[:9]), LONGEST_RETRY_AFTER) if seconds.isascii() and seconds.isdigit() else WHEN_TOO_MANY
        )
    unsettled = status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return uniform(0, FIRST_PAUSE * 2**repeats) if unsettled and method != "POST" else None

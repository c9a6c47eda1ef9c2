"""What becomes of a fetch after Prioticket's answer, or after none. Pure."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from http import HTTPStatus

from app.prioticket.errors import CredentialsRefused, Refused
from app.reconciliation.erased import OrderErased

FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=10), timedelta(minutes=15)
GIVE_UP_AFTER = timedelta(hours=24)
STOPPED_FOR = timedelta(minutes=15)
"""How long nothing is fetched after Prioticket has refused the credentials: as long as its client asks for no token."""

AGAIN_WHEN_STALE = (timedelta(seconds=5), timedelta(seconds=30), timedelta(seconds=120))
TOLERANCE = timedelta(seconds=2)
"""Prioticket may create a notification a little later than it changes the order."""


class Verdict(Enum):
    """What becomes of a fetch that failed."""

    REFUSED = "refused"
    """Prioticket said no, and would say it again; or the order may not be fetched."""
    WAITS = "waits"
    """It may succeed later."""
    STOPS = "stops"
    """No fetch can succeed: the credentials are refused."""


def verdict(error: Exception) -> Verdict:
    """What becomes of a fetch after an error of Prioticket's client, or because the order was erased.

    A page that is not JSON, or a redirect, is likely to be a maintenance page: it waits.
    """
    if isinstance(error, CredentialsRefused):
        return Verdict.STOPS
    if isinstance(error, (ValueError, OrderErased)):  # a ValueError: it cannot be a reference
        return Verdict.REFUSED
    if not isinstance(error, Refused) or error.status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS):
        return Verdict.WAITS
    return Verdict.STOPS if error.status == HTTPStatus.UNAUTHORIZED else Verdict.REFUSED


def wait_after(attempts: int, *, uniform: Callable[[float, float], float] = random.uniform) -> timedelta:
    """How long to wait after so many failed attempts: up to 10 s, 20 s, 40 s … 15 minutes, and half of it at least."""
    doubled: int = 2 ** min(attempts - 1, 16)
    longest = min(LONGEST_WAIT, FIRST_WAIT * doubled)
    return longest * uniform(0.5, 1)


def again_when_stale(stale: int, *, modified: datetime | None, announced: datetime | None) -> timedelta | None:
    """How long to wait before an order is fetched again because it is older than its notification; None if it is not.

    Args:
        stale: How many answers before this one were older.
        modified: When the order was modified.
        announced: When the newest notification was created.
    """
    if not is_stale(modified, announced) or stale >= len(AGAIN_WHEN_STALE):
        return None
    return AGAIN_WHEN_STALE[stale]


def is_stale(modified: datetime | None, announced: datetime | None) -> bool:
    """Whether an order cannot yet have the change that was announced. Without both times, it counts as new."""
    return modified is not None and announced is not None and modified < announced - TOLERANCE

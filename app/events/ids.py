"""Time-ordered ids: UUIDv7, RFC 9562."""

from datetime import UTC, datetime, timedelta
from random import getrandbits
from threading import Lock
from time import time_ns
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_lock = Lock()
_last = 0  # the 48 bits of milliseconds and the 12 bits behind them, of the id made last


def new_id() -> UUID:
    """An id greater than every one this process made before, even when the clock is set back.

    RFC 9562, section 6.2, method 3: the 12 bits behind the milliseconds hold their fraction (a 4096th each), and
    count on where two ids fall into the same one.
    """
    global _last  # noqa: PLW0603 - the process's clock
    with _lock:
        _last = max(_last + 1, (time_ns() << 12) // 1_000_000)
        milliseconds, fraction = _last >> 12, _last & 0xFFF
    # Unique, not secret: nobody gets in by guessing one, and the system's generator costs 7 us under load.
    tail = getrandbits(62)
    return UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | tail)


def made_at(each: UUID) -> datetime:
    """When an id was made, to the microsecond."""
    ticks = each.int >> 80 << 12 | each.int >> 64 & 0xFFF
    return EPOCH + timedelta(microseconds=ticks * 1000 >> 12)


def id_floor(at: datetime) -> UUID:
    """The lowest id that was made at this time or later: `made_at(each) >= at` for it and all above, and no other."""
    ticks = max(0, -(-((at - EPOCH) // MICROSECOND << 12) // 1000))
    return UUID(int=ticks >> 12 << 80 | 7 << 76 | (ticks & 0xFFF) << 64 | 2 << 62)

"""Time-ordered ids: UUIDv7, RFC 9562."""

from datetime import UTC, datetime, timedelta
from random import getrandbits
from threading import Lock
from time import time_ns
from uuid import UUID

from asyncpg.pgproto import pgproto

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_lock = Lock()
_last = 0  # of the newest id: 48 bits of milliseconds, then 12 bits of their fraction


def new_id() -> UUID:
    """An id greater than all that this process made before, even if the clock is set back."""
    return new_id_and_time()[0]


def new_id_and_time() -> tuple[UUID, datetime]:
    """The same, and when it was made, as `made_at` gives it.

    RFC 9562, section 6.2, method 3: the 12 bits after the milliseconds hold their fraction, in 4096ths. If two ids
    fall into the same 4096th, the second takes the next one.
    """
    global _last  # noqa: PLW0603 - the process's clock
    with _lock:
        _last = max(_last + 1, (time_ns() << 12) // 1_000_000)
        ticks = _last
    # Ids are unique, not secret: guessing one opens nothing. The system's generator would take 7 us under load.
    made = (ticks >> 12 << 16 | 7 << 12 | ticks & 0xFFF) << 64 | 2 << 62 | getrandbits(62)
    return pgproto.UUID(made.to_bytes(16)), _time_of(ticks)  # a UUID too, made and written by C


def go_on_after(made: UUID) -> None:
    """Makes every new id greater than this one, which an earlier process may have made with another clock."""
    global _last  # noqa: PLW0603 - the process's clock
    with _lock:
        _last = max(_last, made.int >> 80 << 12 | made.int >> 64 & 0xFFF)


def made_at(made: UUID) -> datetime:
    """When an id was made, to the microsecond."""
    return _time_of(made.int >> 80 << 12 | made.int >> 64 & 0xFFF)


def id_floor(at: datetime) -> UUID:
    """The lowest id of this time: `made_at` gives `at` or later for this id and all above it, and for no other."""
    ticks = max(0, -(-((at - EPOCH) // MICROSECOND << 12) // 1000))
    return UUID(int=ticks >> 12 << 80 | 7 << 76 | (ticks & 0xFFF) << 64 | 2 << 62)


def _time_of(ticks: int) -> datetime:
    seconds, microseconds = divmod(ticks * 1000 >> 12, 1_000_000)
    return EPOCH + timedelta(0, seconds, microseconds)  # days, seconds, microseconds

"""Times, counts and sizes as people read them, each in a few characters."""

from datetime import timedelta

from app.database.counting import MOST_COUNTED

UNITS = (("d", 86400), ("h", 3600), ("min", 60))
KILO = 1000


def lasting(time: timedelta) -> str:
    """`12 s`, `41 min`, `3 h`, `5 d`: the largest unit of which there are two or more, or seconds."""
    seconds = max(0, int(time.total_seconds()))
    for unit, size in UNITS:
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def number(count: int) -> str:
    """`1,204`, or `more than 100,000` for a count that stopped at its bound."""
    return f"more than {MOST_COUNTED:,}" if count > MOST_COUNTED else f"{count:,}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 event`, `1,204 events`."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def size(amount: float) -> str:
    """`210 MB`, in powers of 1000 as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < KILO:
            return f"{amount:.0f} {unit}"
        amount /= KILO
    return f"{amount:.1f} TB"

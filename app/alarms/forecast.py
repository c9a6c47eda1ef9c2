"""How fast the database grows, and when its disk is full."""

from datetime import timedelta

from app.alarms.places import Disk
from app.alarms.readings import Readings
from app.database.counting import MOST_COUNTED

ENOUGH = 10_000
"""Stored events, without which their size cannot be told from that of an empty database."""

HOURS = 24
DAY = timedelta(days=1)


def bytes_a_day(now: Readings) -> int | None:
    """By the events of the last day and the size of a stored one; None if too few are stored."""
    if now.events < ENOUGH:
        return None
    events = now.numbers.last_day
    if events > MOST_COUNTED:
        events = HOURS * now.numbers.last_hour
    return events * now.database_bytes // now.events


def days_left(now: Readings, disk: Disk) -> int | None:
    """How many days the disk of the database lasts; None if nothing fills it, for example because of retention."""
    growth = bytes_a_day(now)
    if not growth or disk.place != "database":
        return None
    if now.keeps_events_for is not None:
        largest = growth * now.keeps_events_for.total_seconds() / DAY.total_seconds()
        if largest - now.database_bytes < disk.free_bytes:
            return None
    return disk.free_bytes // growth

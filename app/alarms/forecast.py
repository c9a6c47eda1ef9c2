"""When the disk of the database is full."""

from app.alarms.places import Disk
from app.alarms.readings import Readings
from app.retention.space import DAY


def days_left(now: Readings, disk: Disk) -> int | None:
    """How many days the disk of the database lasts; None if nothing fills it, for example because of retention."""
    if now.growth is None or disk.place != "database" or not (growth := now.growth.bytes_per_day):
        return None
    if (
        now.keeps_events_for is not None
        and growth * (now.keeps_events_for / DAY) - now.database_bytes < disk.free_bytes
    ):
        return None
    return int(disk.free_bytes // growth)

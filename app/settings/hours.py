"""Hours of the day in a time zone, such as `08:00-22:00 Europe/Amsterdam` or `mon-fri 22:00-02:00 UTC`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WRITTEN = re.compile(r"(?:([a-z,-]+)\s+)?(\d\d):(\d\d)-(\d\d):(\d\d)\s+([\w/+-]+)", re.ASCII)
FORM = 'must be such as "08:00-22:00 Europe/Amsterdam" or "mon-fri 08:00-22:00 UTC"'
NOTHING, DAY = timedelta(0), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Hours:
    """From one time of the day to another, on some days of the week. Hours over midnight belong to the day they begin.

    Times are those that the clocks of the zone show: a day may have 23 or 25 hours.
    """

    days: frozenset[int]
    """0 is Monday."""
    begin: timedelta
    """Since midnight."""
    end: timedelta
    """Since the same midnight: more than a day for hours over midnight."""
    zone: ZoneInfo

    def open_time(self, since: datetime, until: datetime, *, enough: timedelta | None = None) -> timedelta:
        """How much of the time between two moments is within these hours; stops counting at `enough`."""
        found = NOTHING
        for begin, end in self._backwards(since, until):
            found += max(NOTHING, min(end, until) - max(begin, since))
            if enough is not None and found >= enough:
                break
        return found

    def _backwards(self, since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
        day = until.astimezone(self.zone).date()
        first = since.astimezone(self.zone).date() - DAY
        while day >= first:
            if day.weekday() in self.days:
                yield self._at(day, self.begin), self._at(day, self.end)
            day -= DAY

    def _at(self, day: date, since_midnight: timedelta) -> datetime:
        """The moment at which the clocks show that time. In UTC, as Python ignores offsets within one zone."""
        shown = datetime.combine(day, time()) + since_midnight
        return shown.replace(tzinfo=self.zone).astimezone(UTC)


def read_hours(text: str) -> Hours:
    """The hours.

    Raises:
        ValueError: they are not written as above, or the zone is unknown.
    """
    if (found := WRITTEN.fullmatch(text.strip())) is None:
        raise ValueError(FORM)
    days, *numbers, zone = found.groups()
    begin_hour, begin_minute, end_hour, end_minute = map(int, numbers)
    begin, end = (
        timedelta(hours=hour, minutes=minute) for hour, minute in ((begin_hour, begin_minute), (end_hour, end_minute))
    )
    if max(begin_minute, end_minute) > 59 or begin >= DAY or end > DAY or begin == end:  # noqa: PLR2004 - minutes
        raise ValueError(f"{FORM}, with two different times from 00:00 to 24:00")
    try:
        known = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{zone} is not a time zone that this machine knows; see its package tzdata") from None
    return Hours(_days(days), begin, end if end > begin else end + DAY, known)


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(len(DAYS)))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{part} is not a day of the week: write mon, tue, wed, thu, fri, sat or sun, or mon-fri")
        begin = DAYS.index(first)
        length = (DAYS.index(last or first) - begin) % len(DAYS)
        found |= {(begin + number) % len(DAYS) for number in range(length + 1)}
    return frozenset(found)

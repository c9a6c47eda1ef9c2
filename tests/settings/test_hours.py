from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings.hours import read_hours

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def at(year: int, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


AMSTERDAM = read_hours("08:00-22:00 Europe/Amsterdam")

moments = st.integers(0, 10 * 365 * 24 * 60).map(lambda minutes: at(2020, 1, 1) + timedelta(minutes=minutes))
spans = st.timedeltas(timedelta(0), timedelta(days=20))
hours = st.sampled_from(
    [
        "08:00-22:00 Europe/Amsterdam",
        "22:00-02:00 America/New_York",
        "mon-fri 08:30-17:45 Australia/Lord_Howe",
        "sat,sun 00:00-24:00 UTC",
        "fri-mon 02:30-03:30 Europe/Amsterdam",
    ]
).map(read_hours)


@pytest.mark.parametrize(
    ("text", "since", "until", "open_hours"),
    [
        ("08:00-22:00 UTC", at(2026, 8, 12, 21), at(2026, 8, 13, 9), 2),
        ("22:00-02:00 UTC", at(2026, 8, 12, 0), at(2026, 8, 13, 0), 4),
        ("mon-fri 00:00-24:00 UTC", at(2026, 8, 10), at(2026, 8, 17), 120),
        ("sat 22:00-02:00 UTC", at(2026, 8, 16), at(2026, 8, 16, 12), 2),
        ("08:00-22:00 Europe/Amsterdam", at(2026, 3, 28, 23), at(2026, 3, 29, 22), 14),
        ("00:00-24:00 Europe/Amsterdam", at(2026, 3, 28, 23), at(2026, 3, 29, 22), 23),
        ("00:00-24:00 Europe/Amsterdam", at(2026, 10, 24, 22), at(2026, 10, 25, 23), 25),
        ("01:00-04:00 Europe/Amsterdam", at(2026, 3, 28, 12), at(2026, 3, 29, 12), 2),
        ("01:00-04:00 Europe/Amsterdam", at(2026, 10, 24, 12), at(2026, 10, 25, 12), 4),
    ],
)
def test_only_the_time_within_the_hours_counts_as_the_clocks_of_the_zone_show_it(text, since, until, open_hours):
    assert read_hours(text).open_time(since, until) == open_hours * HOUR


def test_opening_moves_with_daylight_saving():
    for day, opens in ((at(2026, 3, 28), 7), (at(2026, 3, 29), 6)):
        assert AMSTERDAM.open_time(day, day + opens * HOUR) == timedelta(0)
        assert AMSTERDAM.open_time(day, day + (opens + 1) * HOUR) == HOUR


@given(hours, moments, spans, spans)
def test_open_time_of_two_parts_is_that_of_the_whole(hours, since, first, second):
    middle, until = since + first, since + first + second
    parts = hours.open_time(since, middle) + hours.open_time(middle, until)
    assert parts == hours.open_time(since, until)
    assert timedelta(0) <= parts <= first + second


@given(hours, moments, spans, spans)
def test_counting_stops_only_when_it_is_enough(hours, since, span, enough):
    whole = hours.open_time(since, since + span)
    assert min(hours.open_time(since, since + span, enough=enough), enough) == min(whole, enough)


@given(moments, spans)
def test_a_time_that_ends_before_it_begins_is_empty(since, span):
    assert AMSTERDAM.open_time(since + span, since) == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "08:00-22:00",
        "8-22 UTC",
        "08:00-08:00 UTC",
        "24:00-08:00 UTC",
        "08:60-09:00 UTC",
        "08:00-24:01 UTC",
        "08:00-22:00 Europe/Nowhere",
        "08:00-22:00 ../etc/passwd",
        "someday 08:00-22:00 UTC",
        "mon-someday 08:00-22:00 UTC",
    ],
)
def test_what_are_no_hours_is_refused(text):
    with pytest.raises(ValueError, match=r"must be|is not"):
        read_hours(text)

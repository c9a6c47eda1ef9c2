from datetime import UTC, datetime, timedelta

import pytest

from app.console.chart import drawn, nice
from app.events.rates import STEP, Step

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
NOW = NOON + STEP


def day(*counts: int, before: int = 0) -> list[Step]:
    first = NOON - (len(counts) - 1) * STEP
    return [Step(first + number * STEP, count, before) for number, count in enumerate(counts)]


def test_bars_are_as_high_as_their_rate():
    chart = drawn(day(0, 50, 100), now=NOW)
    assert chart is not None
    assert (chart.width, chart.top) == (3, 10)
    assert chart.bars == "M1.1 100V50h.8V100zM2.1 100V0h.8V100z"


def test_the_week_before_is_a_line():
    chart = drawn(day(10, 10, before=5), now=NOW)
    assert chart is not None
    assert chart.line == "M0 50V50H1V50H2"


def test_the_table_has_a_row_for_each_hour_in_events_a_minute():
    chart = drawn(day(*[60] * 12, before=30), now=NOW)
    assert chart is not None
    assert [(row.now, row.before) for row in chart.rows] == [(6, 3), (6, 3)]


def test_of_the_last_step_only_the_time_that_has_passed_counts():
    chart = drawn(day(10, 10), now=NOON + timedelta(minutes=2))
    assert chart is not None
    assert (chart.last.now, chart.peak.at) == (5, NOON)


def test_nothing_is_drawn_of_nothing():
    assert drawn(day(0, 0), now=NOW) is None
    assert drawn([], now=NOW) is None


@pytest.mark.parametrize(
    ("most", "top"), [(0.05, 0.1), (0.1, 0.1), (0.3, 0.5), (1, 1), (1.2, 2), (9, 10), (11, 20), (99, 100), (430, 500)]
)
def test_a_scale_ends_at_a_round_number(most, top):
    assert nice(most) == pytest.approx(top)

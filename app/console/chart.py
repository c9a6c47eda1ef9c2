"""The drawing of events a minute: two paths that a browser stretches to the width that there is."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from app.events.rates import STEP, Step

HEIGHT = 100
MINUTE = timedelta(minutes=1)
NICE = (1, 2, 5, 10)
STEPS_OF_ROW = 6


class Row(NamedTuple):
    """An hour in the table, in events a minute."""

    at: datetime
    now: float
    before: float


class Chart(NamedTuple):
    """What is drawn: bars of the last day, a line of the day a week before, and the same as a table.

    Attributes:
        width: Of the drawing, in steps.
        top: How many events a minute the full height is.
        peak: The step with the most events.
    """

    width: int
    bars: str
    line: str
    top: float
    last: Row
    peak: Row
    rows: list[Row]


def drawn(steps: Sequence[Step], *, now: datetime) -> Chart | None:
    """The drawing; None if nothing arrived in either day."""
    if not any(step.events or step.week_before for step in steps):
        return None
    rates = [_row([step], now) for step in steps]
    top = nice(max(max(rate.now, rate.before) for rate in rates))
    tops = [(at, *(HEIGHT - round(HEIGHT * each / top, 1) for each in rate[1:])) for at, rate in enumerate(rates)]
    bars = "".join(f"M{at + 0.1:g} {HEIGHT}V{high:g}h.8V{HEIGHT}z" for at, high, _ in tops if high < HEIGHT)
    line = f"M0 {tops[0][2]:g}" + "".join(f"V{before:g}H{at + 1}" for at, _, before in tops)
    hours = [steps[first : first + STEPS_OF_ROW] for first in range(0, len(steps), STEPS_OF_ROW)]
    return Chart(
        width=len(steps),
        bars=bars,
        line=line,
        top=top,
        last=rates[-1],
        peak=max(rates, key=lambda rate: rate.now),
        rows=[_row(hour, now) for hour in hours],
    )


def nice(most: float) -> float:
    """The round number at which a scale ends that shows so much."""
    size = 10.0 ** (len(f"{most:.0f}") - 1) if most >= 1 else 0.1
    return next(factor * size for factor in NICE if factor * size >= most)


def _row(steps: Sequence[Step], now: datetime) -> Row:
    """The rate of some steps; of the last one only the time that has passed counts, a minute at least."""
    whole = len(steps) * STEP
    passed = min(whole, max(MINUTE, now - steps[0].at))
    return Row(
        steps[0].at,
        sum(step.events for step in steps) / (passed / MINUTE),
        sum(step.week_before for step in steps) / (whole / MINUTE),
    )

from datetime import timedelta

import pytest

from app.alarms.words import counted, lasting, number, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.9, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_a_time_is_told_in_the_largest_unit_of_which_there_are_two(seconds, text):
    assert lasting(timedelta(seconds=seconds)) == text


def test_a_count_that_stopped_at_its_bound_says_so():
    assert [number(each) for each in (0, 1204, 100_000, 100_001)] == ["0", "1,204", "100,000", "more than 100,000"]
    assert [counted(each, "copy", "copies") for each in (1, 2)] == ["1 copy", "2 copies"]


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (999, "999 B"), (210_000_000, "210 MB"), (61e9, "61 GB"), (1.5e12, "1.5 TB")],
)
def test_a_size_is_told_in_powers_of_1000(amount, text):
    assert size(amount) == text

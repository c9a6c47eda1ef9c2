from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from time import time_ns
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events import ids
from app.events.ids import MICROSECOND, made_at, new_id, new_id_and_time

NOW = time_ns()
CLOCKS = st.lists(st.integers(NOW, NOW + 10**12), min_size=2, max_size=50)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch):
    """`set_clock(times)` sets the times, in nanoseconds, that new ids read; ids start again from the first."""

    def set_clock(times: Iterator[int]) -> None:
        monkeypatch.setattr(ids, "_last", 0)
        monkeypatch.setattr(ids, "time_ns", lambda: next(times))

    return set_clock


def test_an_id_is_a_uuid_of_version_7_and_of_the_standard_variant():
    made = [new_id() for _ in range(1000)]
    assert {each.version for each in made} == {7}
    assert {each.variant for each in made} == {RFC_4122}


def test_an_id_begins_with_its_time():
    before = time_ns() // 1_000_000
    made = new_id()
    assert before <= made.int >> 80 <= time_ns() // 1_000_000


def test_the_bits_behind_the_milliseconds_are_their_fraction(set_clock):
    set_clock(iter([NOW // 1_000_000 * 1_000_000 + 750_000]))
    assert new_id().int >> 64 & 0xFFF == 4096 * 3 // 4


@given(times=CLOCKS)
def test_ids_grow_whatever_the_clock_does(set_clock, times):
    set_clock(iter(times))
    made = [new_id() for _ in times]
    assert all(earlier < later for earlier, later in pairwise(made))
    assert {each.version for each in made} == {7}


def test_ids_grow_while_the_clock_stands_still(set_clock):
    set_clock(iter([NOW] * 5000))
    made = [new_id() for _ in range(5000)]
    assert made == sorted(set(made))


def test_ids_from_many_threads_are_all_different_and_grow_within_each():
    def make(_: int) -> list[UUID]:
        return [new_id() for _ in range(2000)]

    with ThreadPoolExecutor(8) as threads:
        runs = list(threads.map(make, range(8)))
    assert all(run == sorted(run) for run in runs)
    assert len({each for run in runs for each in run}) == 8 * 2000


def test_ids_sort_as_bytes_and_as_text_as_they_were_made():
    made = [new_id() for _ in range(100)]
    assert sorted(made, key=lambda each: each.bytes) == made
    assert sorted(made, key=str) == made


def test_ids_of_one_moment_in_two_processes_differ_in_their_random_end():
    assert len({new_id().int & (2**62 - 1) for _ in range(1000)}) == 1000


def test_an_id_and_its_time_belong_together():
    for _ in range(1000):
        made, at = new_id_and_time()
        assert made_at(made) == at


def test_an_id_says_when_it_was_made():
    before = datetime.now(UTC)
    assert before <= made_at(new_id()) + MICROSECOND  # rounded down
    assert made_at(new_id()) <= datetime.now(UTC) + MICROSECOND

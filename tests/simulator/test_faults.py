from random import Random

import pytest

from app.simulator.faults import Fault, fault_of, parse_fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("/orders=503", Fault("/orders", "503")),
        ("/orders/*=429:7#3", Fault("/orders/*", "429", 7.0, left=3)),
        ("*=slow:0.5@0.25", Fault("*", "slow", 0.5, 0.25)),
    ],
)
def test_a_fault_is_read_as_it_is_written(text, fault):
    assert parse_fault(text) == fault


@pytest.mark.parametrize("text", ["", "/orders", "=503", "/x=418", "/x=slow", "/x=503:7", "/x=503@much", "/x=503#few"])
def test_what_is_not_a_fault_is_refused(text):
    with pytest.raises(ValueError, match=r"is not|does not say|has something else"):
        parse_fault(text)


def test_a_fault_meets_its_paths_its_share_and_its_count():
    random = Random(3)  # noqa: S311 - it chooses
    assert fault_of([parse_fault("/orders=503")], "/orders/1", random) is None
    some = [parse_fault("/orders/*=503@0.3")]
    assert 200 < sum(fault_of(some, "/orders/1", random) is not None for _ in range(1000)) < 400
    few = [parse_fault("*=503#2")]
    assert [fault_of(few, "/x", random) is None for _ in range(3)] == [False, False, True]

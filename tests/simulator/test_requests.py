import gzip
import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import Any

import pytest

from app.simulator.requests import STALLS, Mixture, Request, requests

MORNING = datetime(2026, 8, 12, 8, tzinfo=UTC)


@cache
def some(count: int = 600, **mixture: Any) -> tuple[Request, ...]:
    return tuple(islice(requests(Mixture(**mixture), seed=7, day=MORNING), count))


@pytest.mark.parametrize(
    ("shape", "keys"),
    [
        ("notification", {"kind", "notification"}),
        ("order", {"kind", "order"}),
        ("both", {"kind", "notification", "order"}),
    ],
)
def test_a_body_has_the_shape_that_was_asked_for(shape, keys):
    for request in some(50, shape=shape):
        assert json.loads(request.body)["data"].keys() == keys


def test_mixed_bodies_have_all_shapes_and_an_order_keeps_its_own():
    shapes = defaultdict(set)
    for request in some():
        shapes[request.reference].add(frozenset(json.loads(request.body)["data"]))
    assert all(len(each) == 1 for each in shapes.values())
    assert len(set.union(*shapes.values())) == 3


def test_every_event_is_another_one_to_the_receiver():
    bodies = Counter(request.body for request in some())
    assert set(bodies.values()) == {1}


def test_a_copy_comes_after_its_event_and_is_the_same_bytes():
    first: dict[int, bytes] = {}
    copies = 0
    for request in some(duplicates=0.2):
        if request.kind == "copy":
            assert first[request.key] == request.body
            copies += 1
        else:
            first[request.key] = request.body
    assert copies > 50


def test_out_of_order_turns_some_events_of_an_order_around():
    versions = defaultdict(list)
    for request in some(shape="order", out_of_order=0.3):
        versions[request.reference].append(json.loads(request.body)["data"]["order"]["order_version"])
    assert any(each != sorted(each) for each in versions.values())
    assert all(len(set(each)) == len(each) for each in versions.values())


def test_without_out_of_order_each_order_is_in_order():
    versions = defaultdict(list)
    for request in some(shape="order", duplicates=0.1, bad=0.1):
        if request.kind == "event":
            versions[request.reference].append(json.loads(request.body)["data"]["order"]["order_version"])
    assert all(each == sorted(each) for each in versions.values())


def test_no_two_bad_requests_have_the_same_bytes():
    bad = [request for request in some(3000, bad=0.5) if request.kind not in ("event", "copy")]
    sent = [request.body[: len(request.body) - request.withheld] for request in bad]
    assert len(set(sent)) == len(sent)
    assert {request.kind for request in bad} == {"credentials", "json", "envelope", "type", "bomb", "stall"}


def test_the_same_seed_sends_the_same_requests():
    mixture = Mixture(duplicates=0.1, out_of_order=0.1, bad=0.1)
    first, second = (list(islice(requests(mixture, seed=7, day=MORNING), 600)) for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_out_of_order_loses_no_event():
    versions = defaultdict(set)
    for request in some(3000, shape="order", out_of_order=0.3):
        versions[request.reference].add(json.loads(request.body)["data"]["order"]["order_version"])
    early = list(versions.values())[:400]  # all their steps lie within these requests
    assert all(seen == set(range(1, max(seen) + 1)) and len(seen) >= 4 for seen in early)


def test_few_requests_stall_however_many_are_bad():
    kinds = Counter(request.kind for request in some(3000, bad=1.0))
    assert 0 < kinds["stall"] <= STALLS
    assert kinds["event"] == 1500


@pytest.mark.slow
def test_the_bombs_of_two_seeds_are_different_events():
    bombs = [
        next(each for each in requests(Mixture(bad=1.0), seed=seed, day=MORNING) if each.kind == "bomb").body
        for seed in (1, 2)
    ]
    assert bombs[0] != bombs[1]
    assert all(set(gzip.decompress(each)) == {0} for each in bombs)

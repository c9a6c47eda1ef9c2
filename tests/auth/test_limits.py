from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.auth.limits import FAILURES, REQUESTS, SENDERS, Limit, sender_of
from app.web.addresses import network


def waits(limit: Limit, sender: str, times: list[float]) -> list[int | None]:
    return [limit.count(sender, now=now) for now in times]


def test_sixty_failures_are_free_and_the_next_has_to_wait():
    assert waits(Limit(FAILURES), "192.0.2.1", [0.0] * 62) == [None] * 60 + [60, 60]


def test_the_wait_shrinks_as_time_passes_and_is_never_less_than_a_second():
    limit = Limit(1)
    assert waits(limit, "192.0.2.1", [0.0, 0.5, 30.0, 58.9, 59.9]) == [None, 60, 30, 2, 1]


def test_the_window_slides_over_the_failures_one_by_one():
    limit = Limit(2, window=timedelta(seconds=10))
    assert waits(limit, "192.0.2.1", [0.0, 6.0]) == [None, None]
    assert waits(limit, "192.0.2.1", [9.0, 10.0, 11.0, 16.0, 17.0]) == [1, None, 5, None, 3]


def test_what_had_to_wait_does_not_lengthen_the_wait():
    limit = Limit(1)
    assert limit.count("192.0.2.1", now=0.0) is None
    assert waits(limit, "192.0.2.1", [float(second) for second in range(1, 60)])[-1] == 1
    assert limit.count("192.0.2.1", now=60.0) is None


def test_senders_are_counted_apart():
    limit = Limit(1)
    assert waits(limit, "192.0.2.1", [0.0, 0.0]) == [None, 60]
    assert limit.count("192.0.2.2", now=0.0) is None


@pytest.mark.parametrize(
    ("other", "counted_together"),
    [
        ("2001:db8:0:1::1", True),
        ("2001:0DB8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:2::1", False),
        ("2001:db8:1::1", False),
        ("::1", False),
    ],
)
def test_an_ipv6_address_counts_as_its_network_of_64_bits(other, counted_together):
    counted = [sender_of({"client": (host, 0)}) for host in ("2001:db8:0:1::", other)]
    assert (counted[0] == counted[1]) == counted_together


def test_an_ipv4_address_inside_an_ipv6_one_counts_as_ipv4():
    assert sender_of({"client": ("::ffff:192.0.2.1", 0)}) == sender_of({"client": ("192.0.2.1", 0)}) == "192.0.2.1"


@pytest.mark.parametrize("address", ["unknown", "", "fe80::1%eth0", "/run/priohook.sock", "192.0.2.1:80", "\x00"])
def test_an_address_of_any_form_is_counted(address):
    assert waits(Limit(1), network(address), [0.0, 0.0]) == [None, 60]


def test_the_sender_longest_quiet_is_forgotten_first():
    limit = Limit(1, senders=2)
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3"):
        limit.count(address, now=0.0)
    assert limit.count("192.0.2.1", now=0.0) == 60
    assert limit.count("192.0.2.2", now=0.0) is None


def test_a_flood_of_senders_takes_no_more_memory_than_the_table_has():
    limit = Limit(1)
    for number in range(SENDERS + 1):
        limit.count(f"10.0.{number >> 8}.{number & 255}", now=0.0)
    assert limit.count("10.0.0.0", now=0.0) is None, "the first was forgotten"
    assert limit.count("10.0.0.2", now=0.0) == 60, "the third was not"


@given(steps=st.lists(st.floats(0, 90), max_size=200), failures=st.integers(1, 5))
def test_no_window_ever_has_more_free_failures_than_allowed(steps, failures):
    limit, now, free = Limit(failures), 0.0, []
    for step in steps:
        now += step
        if limit.count("192.0.2.1", now=now) is None:
            free.append(now)
    assert all(later - earlier >= 60 for earlier, later in zip(free, free[failures:], strict=False))


def test_a_thousand_requests_are_free_and_the_next_waits_until_the_first_is_a_minute_ago():
    assert waits(Limit(REQUESTS), "admin", [0.0] * 1000 + [15.5]) == [None] * 1000 + [45]


def test_asking_how_long_to_wait_counts_nothing():
    limit = Limit(1)
    assert [limit.wait("admin", now=0.0) for _ in range(3)] == [None] * 3
    limit.count("admin", now=0.0)
    assert [limit.wait("admin", now=now) for now in (0.0, 59.5, 60.0)] == [60, 1, None]

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.auth.limits import ADDRESSES, FailureLimit, RequestLimit, address_of


def waits(limit: FailureLimit, address: str, times: list[float]) -> list[int | None]:
    return [limit.failed(address, now=now) for now in times]


def test_sixty_failures_are_free_and_the_next_has_to_wait():
    assert waits(FailureLimit(), "192.0.2.1", [0.0] * 62) == [None] * 60 + [60, 60]


def test_the_wait_shrinks_as_time_passes_and_is_never_less_than_a_second():
    limit = FailureLimit(failures=1)
    assert waits(limit, "192.0.2.1", [0.0, 0.5, 30.0, 58.9, 59.9]) == [None, 60, 30, 2, 1]


def test_the_window_slides_over_the_failures_one_by_one():
    limit = FailureLimit(failures=2, window=timedelta(seconds=10))
    assert waits(limit, "192.0.2.1", [0.0, 6.0]) == [None, None]
    assert waits(limit, "192.0.2.1", [9.0, 10.0, 11.0, 16.0, 17.0]) == [1, None, 5, None, 3]


def test_what_had_to_wait_does_not_lengthen_the_wait():
    limit = FailureLimit(failures=1)
    assert limit.failed("192.0.2.1", now=0.0) is None
    assert waits(limit, "192.0.2.1", [float(second) for second in range(1, 60)])[-1] == 1
    assert limit.failed("192.0.2.1", now=60.0) is None


def test_addresses_are_counted_apart():
    limit = FailureLimit(failures=1)
    assert waits(limit, "192.0.2.1", [0.0, 0.0]) == [None, 60]
    assert limit.failed("192.0.2.2", now=0.0) is None


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
    limit = FailureLimit(failures=1)
    limit.failed("2001:db8:0:1::", now=0.0)
    assert (limit.failed(other, now=0.0) is not None) == counted_together


def test_an_ipv4_address_inside_an_ipv6_one_counts_as_ipv4():
    limit = FailureLimit(failures=1)
    limit.failed("::ffff:192.0.2.1", now=0.0)
    assert limit.failed("::ffff:192.0.2.2", now=0.0) is None
    assert limit.failed("192.0.2.1", now=0.0) == 60


@pytest.mark.parametrize("address", ["unknown", "", "fe80::1%eth0", "/run/priohook.sock", "192.0.2.1:80", "\x00"])
def test_an_address_of_any_form_is_counted(address):
    assert waits(FailureLimit(failures=1), address, [0.0, 0.0]) == [None, 60]


def test_the_address_longest_quiet_is_forgotten_first():
    limit = FailureLimit(failures=1, addresses=2)
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3"):
        limit.failed(address, now=0.0)
    assert limit.failed("192.0.2.1", now=0.0) == 60
    assert limit.failed("192.0.2.2", now=0.0) is None


def test_a_flood_of_addresses_takes_no_more_memory_than_the_table_has():
    limit = FailureLimit(failures=1)
    for number in range(ADDRESSES + 1):
        limit.failed(f"10.0.{number >> 8}.{number & 255}", now=0.0)
    assert limit.failed("10.0.0.0", now=0.0) is None, "the first was forgotten"
    assert limit.failed("10.0.0.2", now=0.0) == 60, "the third was not"


@given(steps=st.lists(st.floats(0, 90), max_size=200), failures=st.integers(1, 5))
def test_no_window_ever_has_more_free_failures_than_allowed(steps, failures):
    limit, now, free = FailureLimit(failures=failures), 0.0, []
    for step in steps:
        now += step
        if limit.failed("192.0.2.1", now=now) is None:
            free.append(now)
    assert all(later - earlier >= 60 for earlier, later in zip(free, free[failures:], strict=False))


def begun(limit: RequestLimit, times: list[float], *, sender: str = "admin") -> list[int | None]:
    return [limit.begun(sender, now=now) for now in times]


def test_a_thousand_requests_are_free_and_the_next_waits_for_the_end_of_the_minute():
    assert begun(RequestLimit(), [0.0] * 1000 + [15.5]) == [None] * 1000 + [45]


def test_after_sixty_failed_requests_any_request_waits_for_the_end_of_the_minute():
    limit = RequestLimit()
    for _ in range(60):
        assert limit.begun("admin", now=0.0) is None
        limit.failed("admin", now=0.0)
    assert begun(limit, [1.0, 59.9, 60.0]) == [59, 1, None]


def test_a_minute_begins_with_the_first_request_after_the_last_one():
    limit = RequestLimit(requests=1)
    assert begun(limit, [0.0, 59.0, 90.0, 149.0, 150.0]) == [None, 1, None, 1, None]


def test_senders_are_counted_apart():
    limit = RequestLimit(requests=1)
    assert begun(limit, [0.0, 0.0]) == [None, 60]
    assert begun(limit, [0.0], sender="reader") == [None]


def test_the_sender_longest_quiet_is_forgotten_first():
    limit = RequestLimit(requests=1, senders=2)
    for sender in ("a", "b", "a", "c"):
        limit.begun(sender, now=0.0)
    assert begun(limit, [0.0], sender="a") == [60]
    assert begun(limit, [0.0], sender="b") == [None]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%" + "x" * 60_000, "fe80::1"),
        ("a", "unknown"),
        ("9" * 60_000, "unknown"),
        ("192.0.2.1 and more", "unknown"),
        ("", "unknown"),
    ],
)
def test_what_a_proxy_passes_on_is_an_address_or_unknown(host, address):
    assert address_of({"client": (host, 0)}) == address


def test_a_socket_without_addresses_is_unknown():
    assert address_of({"client": None}) == address_of({}) == "unknown"

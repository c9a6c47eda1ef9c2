import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, pairwise
from typing import Any

import pytest

from app.simulator.orders import Step, lives
from tests.conftest import payload

MORNING = datetime(2026, 8, 12, 8, tzinfo=UTC)
ORDER_STATUSES = {"ORDER_CONFIRMED", "ORDER_UPDATED", "ORDER_CANCELLED", "ORDER_PENDING"}
BOOKING_STATUSES = {
    "BOOKING_CONFIRMED",
    "BOOKING_UPDATED",
    "BOOKING_CANCELLED",
    "BOOKING_PROCESSING_CONFIRMATION",
    "BOOKING_PROCESSING_CANCELLATION",
}


@cache
def by_order(count: int = 2000) -> dict[str, list[Step]]:
    """The steps of each order. Do not change them: all tests share them."""
    orders: dict[str, list[Step]] = defaultdict(list)
    for step in islice(lives(7, MORNING), count):
        orders[step.reference].append(step)
    return orders


def test_the_version_rises_by_one_and_the_modification_time_moves():
    for steps in by_order().values():
        assert [step.order["order_version"] for step in steps] == list(range(1, len(steps) + 1))
        times = [datetime.fromisoformat(step.order["order_modified"]) for step in steps]
        assert all(later > earlier for earlier, later in pairwise(times))


def test_every_status_is_one_of_priotickets():
    for steps in by_order().values():
        for step in steps:
            assert step.order["order_status"] in ORDER_STATUSES
            assert {each["booking_status"] for each in step.order["order_bookings"]} <= BOOKING_STATUSES


def test_every_way_through_an_orders_life_is_walked():
    ends = {tuple(step.event for step in steps) for steps in by_order().values()}
    assert ("ORDER_CREATE", "ORDER_UPDATE", "VOUCHER_RELEASE", "REDEMPTION") in ends
    assert ("ORDER_CREATE", "ORDER_UPDATE", "VOUCHER_RELEASE", "ORDER_UPDATE", "ORDER_CANCEL") in ends
    assert ("ORDER_CREATE", "ORDER_UPDATE", "VOUCHER_RELEASE", "ORDER_CANCEL_PARTIAL", "REDEMPTION") in ends


def test_orders_are_interleaved():
    references = [step.reference for step in islice(lives(7, MORNING), 50)]
    assert len(set(references[:10])) > 3


def test_the_total_is_what_the_bookings_cost():
    for steps in by_order(300).values():
        order = steps[0].order
        cents = sum(round(100 * float(each["booking_pricing"]["price_total"])) for each in order["order_bookings"])
        assert order["order_pricing"]["price_total"] == f"{cents // 100}.{cents % 100:02d}"


def test_a_seed_and_a_day_give_the_same_orders_again():
    assert list(islice(lives(3, MORNING), 200)) == list(islice(lives(3, MORNING), 200))


@pytest.mark.parametrize(("seed", "day"), [(4, MORNING), (3, MORNING + timedelta(days=1))])
def test_another_seed_or_day_gives_other_orders(seed, day):
    ours = {step.reference for step in islice(lives(3, MORNING), 200)}
    assert not ours & {step.reference for step in islice(lives(seed, day), 200)}


def keys(value: Any, path: str = "") -> Iterator[str]:
    inside = value.items() if isinstance(value, dict) else [("", each) for each in value]
    for name, each in inside:
        yield f"{path}.{name}"
        if isinstance(each, dict | list):
            yield from keys(each, f"{path}.{name}")


@pytest.mark.parametrize("ending", ["REDEMPTION", "ORDER_CANCEL"])
def test_an_order_has_the_keys_of_the_samples(ending):
    sample = "10-order-payload-cancelled" if ending == "ORDER_CANCEL" else "08-order-payload-confirmed"
    order = next(steps[-1].order for steps in by_order().values() if steps[-1].event == ending and len(steps) > 3)
    alive = [each for each in order["order_bookings"] if ("booking_cancelled" in each) == (ending == "ORDER_CANCEL")]
    assert set(keys(order | {"order_bookings": alive})) == set(keys(json.loads(payload(sample))["data"]["order"]))


def test_what_is_cancelled_says_so_down_to_its_tickets():
    cancelled = [
        booking
        for steps in by_order().values()
        for booking in steps[-1].order["order_bookings"]
        if booking["booking_status"] == "BOOKING_CANCELLED"
    ]
    assert cancelled
    tickets = [ticket for booking in cancelled for ticket in booking["product_type_details"]]
    assert {ticket["product_type_status"] for ticket in tickets} == {"CANCELLED"}

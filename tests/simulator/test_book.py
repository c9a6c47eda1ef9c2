"""The odd lives of the orders that can be fetched."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from app.simulator.book import Book
from app.simulator.orders import Step

START = datetime(2026, 8, 12, 8, tzinfo=UTC)


def lived(steps: int = 1500) -> tuple[Book, list[Step]]:
    """A book whose time advances by ten seconds a step."""
    seconds = iter(range(0, 10**9, 10))
    book = Book(5, now=lambda: START + timedelta(seconds=next(seconds)))
    return book, [book.advance() for _ in range(steps)]


BOOK, STEPS = lived()


def before(step: Step) -> dict[str, Any]:
    own = [each for each in STEPS if each.reference == step.reference]
    return own[own.index(step) - 1].order


def statuses(order: dict[str, Any]) -> list[str]:
    return sorted(booking["booking_status"] for booking in order["order_bookings"])


def test_a_refund_changes_neither_the_version_nor_the_time():
    refunds = [step for step in STEPS if step.event == "PAYMENT_REFUND"]
    assert refunds
    for step in refunds:
        earlier = before(step)
        assert [step.order[key] == earlier[key] for key in ("order_version", "order_modified")] == [True, True]
        assert len(step.order["order_payments"]) == 2


def test_a_contact_changes_without_a_new_version():
    changed = [step for step in STEPS if step.order["order_contacts"] != before(step)["order_contacts"]]
    contacts = [step for step in changed if step.order["order_contacts"] and step.event == "ORDER_UPDATE"]
    assert contacts
    assert {step.order["order_version"] - before(step)["order_version"] for step in contacts} == {0}


def test_one_booking_of_three_is_cancelled_in_an_order_that_stays_confirmed():
    cancelled = [
        step
        for step in STEPS
        if statuses(step.order) == ["BOOKING_CANCELLED", "BOOKING_CONFIRMED", "BOOKING_CONFIRMED"]
        and step.order["order_status"] == "ORDER_CONFIRMED"
    ]
    assert {step.event for step in cancelled} == {"ORDER_CREATE", "ORDER_CANCEL_PARTIAL"}


def test_a_booking_fails_while_its_order_is_pending():
    failed = [step.order for step in STEPS if "BOOKING_FAILED" in statuses(step.order)]
    assert {order["order_status"] for order in failed} == {"ORDER_PENDING"}


def test_an_order_is_pending_for_an_hour():
    times: dict[str, list[datetime]] = {}
    for step in STEPS:
        times.setdefault(step.reference, []).append(step.at)
    assert any(len(each) == 2 and each[1] - each[0] >= timedelta(hours=1) for each in times.values())


def test_an_order_of_500_guests_is_large():
    largest = max(len(json.dumps(order)) for order in BOOK.newest())
    assert 250_000 < largest < 400_000


def test_orders_are_archived_and_redacted():
    redacted = [order for order in BOOK.newest() if order["order_redacted"]]
    assert redacted
    assert all(order["order_archived"] and order["order_contacts"] == [] for order in redacted)


def test_a_version_and_a_moment_of_an_order_can_be_had():
    steps = [step for step in STEPS if step.reference == STEPS[0].reference]
    assert len(steps) > 1
    for step in steps:
        assert BOOK.order(step.reference, version=step.order["order_version"]) is not None
        assert BOOK.order(step.reference, at=step.at) == step.order
    assert BOOK.order(steps[0].reference, at=START - timedelta(days=1)) == steps[0].order
    assert BOOK.order(steps[0].reference, version=99) is None
    assert BOOK.order("nothing") is None

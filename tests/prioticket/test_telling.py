import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events.differences import differences
from app.prioticket.payloads import LONGEST_TEXT
from app.prioticket.summary import MOST_BOOKINGS, summarize
from app.prioticket.telling import NEVER_TOLD, NEVER_TOLD_OF_BOOKINGS, Told, tell
from tests.conftest import payload

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def objects(*names: str, **known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects whose fields hold what they should, or anything."""
    fields: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(names, VALUES)
    return st.fixed_dictionaries({}, optional=fields | {name: each | VALUES for name, each in known.items()}) | VALUES


GUESTS = objects(
    "product_type_label",
    product_type_count=st.integers(0, 3) | st.sampled_from(["2", "٣", "-1"]),
    product_type_redemption_status=st.sampled_from(["PENDING", "REDEEMED"]),
    product_type_code=st.sampled_from(["", "A"]),
    product_type_status=st.sampled_from(["CONFIRMED", "CANCELLED"]),
)
BOOKINGS = objects(
    "product_title",
    "booking_version",
    booking_reference=st.sampled_from(["B-1", "B-2", "no. 1"]),
    booking_status=st.sampled_from(["BOOKING_CONFIRMED", "BOOKING_CANCELLED", "BOOKING_"]),
    booking_travel_date=st.sampled_from(["2026-08-20T09:30:00+02:00", "T", "2026-08-21"]),
    booking_voucher_released=st.sampled_from([True, "false"]),
    booking_pricing=objects("price_total", "price_taxes"),
    product_type_details=st.lists(GUESTS, max_size=2),
)
ORDERS = st.fixed_dictionaries(
    {},
    optional={
        "order_status": st.sampled_from(["ORDER_CONFIRMED", "ORDER_CANCELLED"]) | VALUES,
        "order_version": VALUES,
        "order_contacts": VALUES,
        "order_payments": st.lists(VALUES, max_size=2) | VALUES,
        "order_pricing": objects("price_total", "price_currency_code"),
        "order_bookings": st.lists(BOOKINGS, max_size=3) | VALUES,
        "more": VALUES,
    },
)


def sample(name: str = "08-order-payload-confirmed") -> dict[str, Any]:
    order: dict[str, Any] = json.loads(payload(name))["data"]["order"]
    return order


def changed(**booking: Any) -> list[str]:
    """What is told when fields of the sample's booking change."""
    after = sample()
    after["order_bookings"][0] |= booking
    return tell(sample(), after).words


def left(told: Told) -> list[str]:
    """The places of the changes that were not told."""
    return [change.path for rest in told.rest for change in differences(rest.before, rest.after).changes]


def test_the_samples_tell_their_story():
    names = ("07-order-payload-pending", "08-order-payload-confirmed", "09-order-payload-processing-cancellation")
    pending, confirmed, cancelling = (sample(name) for name in names)
    cancelled = sample("10-order-payload-cancelled")
    assert tell(pending, confirmed).words == [
        "Order: PENDING → CONFIRMED",
        "Booking BKG26081200417A: PROCESSING_CONFIRMATION → CONFIRMED",
        "Booking BKG26081200417A: ticket codes: 0 → 3",
        "Booking BKG26081200417A: voucher released",
    ]
    assert "Booking BKG26081200417A: CONFIRMED → PROCESSING_CANCELLATION" in tell(confirmed, cancelling).words
    assert "Order: CONFIRMED → CANCELLED" in tell(cancelling, cancelled).words
    assert left(tell(confirmed, cancelled)) == ["/product_cancellation_allowed"]


def test_a_booking_that_comes_or_goes_is_told_whatever_its_place():
    before, after = sample(), sample()
    other = deepcopy(before["order_bookings"][0]) | {"booking_reference": "B-2"}
    after["order_bookings"].insert(0, other)
    words = "Booking B-2 added: Demo Canal Cruise - 60 minutes, 2026-08-20 09:30+02:00, 2 Adult, 1 Child, CONFIRMED"
    assert tell(before, after).words == [words]
    told = tell(after, before)
    assert told.words == ["Booking B-2 is no longer in the order"]
    assert left(told) == []


def test_what_matters_at_the_gate_is_told():
    guests = sample()["order_bookings"][0]["product_type_details"]
    redeemed = [{**guest, "product_type_redemption_status": "REDEEMED"} for guest in guests[:2]]
    assert changed(product_type_details=guests[:1])[0] == "Booking BKG26081200417A: 2 guests removed (3 → 1)"
    assert changed(product_type_details=[*redeemed, guests[2]]) == [
        "Booking BKG26081200417A: redeemed: 2 of 3 (before: 0)"
    ]
    assert changed(booking_travel_date="2026-08-21T10:00:00+02:00", product_availability_id="x") == [
        "Booking BKG26081200417A: travel date 2026-08-20 09:30+02:00 → 2026-08-21 10:00+02:00"
    ]
    assert changed(booking_pricing={"price_total": "20.00", "price_currency_code": "EUR"}) == [
        "Booking BKG26081200417A: amount 63.50 EUR → 20.00 EUR"
    ]
    assert changed(booking_version=2, booking_modified="2026-08-13T10:00:00+02:00") == []


def test_contacts_are_not_named_in_words():
    after = sample()
    after["order_contacts"][0]["contact_email"] = "other@example.com"
    assert tell(sample(), after).words == ["Contact details changed"]


def test_what_no_words_are_for_is_left():
    after = sample() | {"order_language": "nl"}
    told = tell(sample(), after)
    assert (told.words, left(told)) == ([], ["/order_language"])


@given(ORDERS, ORDERS)
def test_every_change_is_told_or_left_and_nothing_else(before, after):
    told = tell(before, after)
    rest = left(told)
    assert all(len(word) < 10 * LONGEST_TEXT for word in told.words)
    if before == after:
        assert (told.words, rest) == ([], [])
    if differences(_without_versions(before), _without_versions(after)).changes:
        assert told.words or rest


@given(ORDERS)
def test_any_order_can_be_summarized(order):
    summary = summarize(order)
    assert all(booking.guests is None or booking.guests >= 0 for booking in summary.bookings)


def _without_versions(order: dict[str, Any]) -> dict[str, Any]:
    order = {name: value for name, value in order.items() if name not in NEVER_TOLD}
    if isinstance(bookings := order.get("order_bookings"), list):
        order["order_bookings"] = [
            {name: value for name, value in booking.items() if name not in NEVER_TOLD_OF_BOOKINGS}
            if isinstance(booking, dict)
            else booking
            for booking in bookings
        ]
    return order


def test_no_more_bookings_are_shown_than_may_be():
    summary = summarize({"order_bookings": [{"booking_reference": str(number)} for number in range(MOST_BOOKINGS + 1)]})
    assert (len(summary.bookings), summary.more_bookings) == (MOST_BOOKINGS, True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("2026-08-20T09:30:00+02:00", "2026-08-20 09:30+02:00"),
        ("2026-08-20t09:30:00z", "2026-08-20 09:30+00:00"),
        ("2026-08-20", "2026-08-20"),
        ("soon", "soon"),
        ("T", "T"),
        (20260820, "20260820"),
        ({}, None),
        ("", None),
    ],
)
def test_a_travel_date_is_shown_with_the_offset_of_its_place(value, shown):
    assert summarize({"order_bookings": [{"booking_travel_date": value}]}).bookings[0].travels == shown

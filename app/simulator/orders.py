"""Orders of a made-up reseller, walked through their lives. Pure: the same seed and day give the same orders."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from faker import Faker

LOCALES = ["en_GB", "nl_NL", "de_DE", "fr_FR", "it_IT", "es_ES"]
OPEN_ORDERS = 12
"""How many orders take their steps in turn."""

PRODUCTS = (
    ("Canal Cruise - 60 minutes", "18.50"),
    ("Museum of Modern Sculpture - timed entry", "22.50"),
    ("Hop-on Hop-off Bus - 24 hours", "29.00"),
    ("Botanical Garden - day ticket", "12.00"),
    ("Lighthouse and Harbour Tour", "16.75"),
    ("Observation Deck - skip the line", "34.00"),
    ("Old Brewery Tour with tasting", "21.00"),
    ("Aquarium - family day", "26.50"),
)
GUESTS = (("ADULT", "Adult", 18, 99, "1.00"), ("CHILD", "Child", 4, 17, "0.60"), ("SENIOR", "Senior", 65, 99, "0.85"))
VAT_PERCENT = 9


@dataclass(frozen=True, slots=True)
class Step:
    """A moment in the life of an order: what Prioticket would call the event, and the order as it is then."""

    event: str
    reference: str
    order: dict[str, Any]
    at: datetime


@dataclass(slots=True)
class _Life:
    order: dict[str, Any]
    at: datetime
    steps: list[str] = field(default_factory=list)


def lives(seed: int, day: datetime) -> Iterator[Step]:
    """Steps of many orders without end, those of one order in order and those of several interleaved.

    Args:
        seed: Different seeds have different orders.
        day: When the first order is made.
    """
    random = Random(seed)  # noqa: S311 - it makes tickets up, and must make the same ones again
    faker = Faker(LOCALES)
    faker.seed_instance(seed)
    numbers = iter(range(1, 10**9))
    living: list[_Life] = []
    at = day
    while True:
        at += timedelta(seconds=random.randint(1, 40))
        if len(living) < OPEN_ORDERS:
            living.append(_new(random, faker, prefix=f"{day:%y%m%d}{seed % 10**6:06d}", number=next(numbers), at=at))
        life = random.choice(living)
        life.at = max(at, life.at + timedelta(seconds=1))
        event = life.steps.pop(0)
        STEPS[event](life, random)
        yield Step(EVENT_NAMES[event], life.order["order_reference"], deepcopy(life.order), life.at)
        if not life.steps:
            living.remove(life)


def _new(random: Random, faker: Faker, *, prefix: str, number: int, at: datetime) -> _Life:
    reference = f"PRI{prefix}{number:05d}"
    bookings = [_booking(random, reference, place, at) for place in range(random.choice((1, 1, 1, 2, 3)))]
    total = sum(round(float(each["booking_pricing"]["price_total"]) * 100) for each in bookings)
    stamp = _stamp(at)
    first, last = faker.first_name(), faker.last_name()
    order = {
        "order_platform_id": "1",
        "order_reseller_id": "1300",
        "order_distributor_id": "501",
        "order_distributor_name": "Simulated Distributor",
        "order_reference": reference,
        "order_external_reference": f"SIM-{number:06d}",
        "order_status": "ORDER_PENDING",
        "order_settlement_type": "EXTERNAL",
        "order_channel": "PARTNER",
        "order_language": random.choice(("en", "nl", "de", "fr")),
        "order_version": 0,
        "order_archived": False,
        "order_contacts": [
            {
                "contact_uid": faker.uuid4(),
                "contact_version": 1,
                "contact_type": "BOOKER",
                "contact_name_first": first,
                "contact_name_last": last,
                "contact_email": faker.ascii_safe_email(),
                "contact_phone": faker.phone_number(),
                "contact_created": stamp,
                "contact_modified": stamp,
            }
        ],
        "order_pricing": _price(total),
        "order_created": stamp,
        "order_modified": stamp,
        "order_view_type": "DISTRIBUTOR",
        "order_bookings": bookings,
    }
    return _Life(order, at, _path(random, len(bookings)))


def _path(random: Random, bookings: int) -> list[str]:
    path = ["create", "confirm", "release"]
    if random.random() < 0.3:  # noqa: PLR2004 - a share
        path.append("amend")
    chance = random.random()
    if bookings > 1 and chance < 0.3:  # noqa: PLR2004
        return [*path, "cancel_one", "redeem"]
    if chance < 0.25:  # noqa: PLR2004
        return [*path, "ask_to_cancel", "cancel"]
    return [*path, "redeem"]


def _booking(random: Random, reference: str, place: int, at: datetime) -> dict[str, Any]:
    title, price = random.choice(PRODUCTS)
    letter = "ABC"[place]
    travels = (at + timedelta(days=random.randint(1, 30))).replace(hour=random.randint(9, 17), minute=30, second=0)
    guests = [random.choice(GUESTS) for _ in range(random.randint(1, 4))]
    cents = [round(float(price) * float(share) * 100) for *_, share in guests]
    stamp = _stamp(at)
    product = str(62000 + PRODUCTS.index((title, price)))
    return {
        "booking_reference": f"BKG{reference[3:]}{letter}",
        "booking_external_reference": f"SIM-{reference[3:]}-{place + 1}",
        "booking_status": "BOOKING_PROCESSING_CONFIRMATION",
        "booking_version": 0,
        "booking_voucher_released": False,
        "booking_travel_date": _stamp(travels),
        "booking_pricing": _price(sum(cents)),
        "booking_created": stamp,
        "booking_modified": stamp,
        "product_id": product,
        "product_title": title,
        "product_supplier_name": "Simulated Supplier",
        "product_admission_type": "TIME_POINT",
        "product_currency_code": "EUR",
        "product_cancellation_allowed": True,
        "product_type_details": [
            {
                "product_type": kind,
                "product_type_id": f"{product}{number}",
                "product_type_label": label,
                "product_type_age_from": youngest,
                "product_type_age_to": oldest,
                "product_type_count": 1,
                "product_type_pax": 1,
                "product_type_code": "",
                "product_type_status": "PENDING",
                "product_type_redemption_status": "PENDING",
                "product_type_pricing": _price(cents[number]),
            }
            for number, (kind, label, youngest, oldest, _) in enumerate(guests)
        ],
    }


def _change(life: _Life, status: str, booking: str | None = None) -> None:
    """A new version of the order, and of its bookings that are not cancelled."""
    stamp = _stamp(life.at)
    life.order |= {"order_status": status, "order_version": life.order["order_version"] + 1, "order_modified": stamp}
    for each in _live(life):
        each |= {"booking_version": each["booking_version"] + 1, "booking_modified": stamp}
        if booking is not None:
            each["booking_status"] = booking


def _create(life: _Life, _: Random) -> None:
    _change(life, "ORDER_PENDING")


def _confirm(life: _Life, random: Random) -> None:
    _change(life, "ORDER_CONFIRMED", "BOOKING_CONFIRMED")
    life.order["order_confirmed"] = _stamp(life.at)
    for booking in _live(life):
        for guest in booking["product_type_details"]:
            guest |= {"product_type_status": "CONFIRMED", "product_type_code": f"SIM{random.getrandbits(40):010X}"}


def _release(life: _Life, _: Random) -> None:
    _change(life, "ORDER_CONFIRMED")
    for booking in _live(life):
        booking["booking_voucher_released"] = True


def _amend(life: _Life, random: Random) -> None:
    _change(life, "ORDER_UPDATED", "BOOKING_UPDATED")
    booking = random.choice(_live(life))
    moved = datetime.fromisoformat(booking["booking_travel_date"]) + timedelta(days=random.randint(1, 5))
    booking["booking_travel_date"] = _stamp(moved)


def _cancel_one(life: _Life, random: Random) -> None:
    booking = random.choice(_live(life))
    _change(life, "ORDER_UPDATED")
    booking["booking_status"] = "BOOKING_CANCELLED"


def _ask_to_cancel(life: _Life, _: Random) -> None:
    _change(life, "ORDER_CONFIRMED", "BOOKING_PROCESSING_CANCELLATION")


def _cancel(life: _Life, _: Random) -> None:
    _change(life, "ORDER_CANCELLED", "BOOKING_CANCELLED")
    life.order["order_cancellation_date_time"] = _stamp(life.at)


def _redeem(life: _Life, _: Random) -> None:
    _change(life, life.order["order_status"])
    for booking in _live(life):
        for guest in booking["product_type_details"]:
            guest["product_type_redemption_status"] = "REDEEMED"


STEPS = {
    "create": _create,
    "confirm": _confirm,
    "release": _release,
    "amend": _amend,
    "cancel_one": _cancel_one,
    "ask_to_cancel": _ask_to_cancel,
    "cancel": _cancel,
    "redeem": _redeem,
}
EVENT_NAMES = {
    "create": "ORDER_CREATE",
    "confirm": "ORDER_UPDATE",
    "release": "VOUCHER_RELEASE",
    "amend": "ORDER_UPDATE",
    "cancel_one": "ORDER_CANCEL_PARTIAL",
    "ask_to_cancel": "ORDER_UPDATE",
    "cancel": "ORDER_CANCEL",
    "redeem": "REDEMPTION",
}


def _live(life: _Life) -> list[dict[str, Any]]:
    return [each for each in life.order["order_bookings"] if each["booking_status"] != "BOOKING_CANCELLED"]


def _price(cents: int) -> dict[str, Any]:
    tax = round(cents * VAT_PERCENT / (100 + VAT_PERCENT))
    return {
        "price_type": "PURCHASE_GROSS",
        "price_currency_code": "EUR",
        "price_subtotal": _amount(cents),
        "price_taxes": [{"tax_id": "12", "tax_name": "VAT", "tax_amount": _amount(tax)}],
        "price_fees": [],
        "price_total": _amount(cents),
    }


def _amount(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="seconds")

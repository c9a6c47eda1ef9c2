"""The lives of a made-up reseller's orders. Pure: the same seed and day give the same orders."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from faker import Faker

from app.simulator.sales import move, new_order, stamp

LOCALES = ["en_GB", "nl_NL", "de_DE", "fr_FR", "it_IT", "es_ES"]
OPEN_ORDERS = 12
"""How many orders are under way at a time."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step in the life of an order: the name of Prioticket's event, and the order after it."""

    event: str
    reference: str
    order: dict[str, Any]
    at: datetime


@dataclass(slots=True)
class _Life:
    order: dict[str, Any]
    at: datetime
    steps: list[str] = field(default_factory=list)
    waits_until: datetime | None = None


def lives(seed: int, day: datetime, *, now: Callable[[], datetime] | None = None) -> Iterator[Step]:
    """The steps of many orders, without end. Steps of one order come in order, mixed with those of other orders.

    Args:
        seed: Different seeds give different orders.
        day: When the first order is made.
        now: If given, steps happen when they are asked for, and some orders live as in `ODD`.
    """
    random = Random(seed)  # noqa: S311 - it makes tickets up, and the same ones for the same seed
    faker = Faker(LOCALES)
    faker.seed_instance(seed)
    numbers = iter(range(1, 10**9))
    living: list[_Life] = []
    at = day
    while True:
        at = now() if now else at + timedelta(seconds=random.randint(1, 40))
        ready = [life for life in living if life.waits_until is None or life.waits_until <= at]
        if len(ready) < OPEN_ORDERS:
            prefix, number = f"{day:%y%m%d}{seed % 10**6:06d}", next(numbers)
            ready.append(_new(random, faker, prefix=prefix, number=number, at=at, odd=now is not None))
            living.append(ready[-1])
        life = random.choice(ready)
        life.at = at if now else max(at, life.at + timedelta(seconds=1))
        event = life.steps.pop(0)
        STEPS[event](life, random)
        yield Step(EVENT_NAMES[event], life.order["order_reference"], deepcopy(life.order), life.at)
        if not life.steps:
            living.remove(life)


def _new(random: Random, faker: Faker, *, prefix: str, number: int, at: datetime, odd: bool) -> _Life:
    reference = f"PRI{prefix}{number:05d}"
    if odd and number % 2:
        bookings, guests, steps = ODD[number // 2 % len(ODD)]
        order = new_order(random, faker, reference=reference, at=at, bookings=bookings, guests=guests)
        return _Life(order, at, [*steps])
    order = new_order(random, faker, reference=reference, at=at)
    return _Life(order, at, _path(random, len(order["order_bookings"])))


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


def _change(life: _Life, status: str, booking: str | None = None) -> None:
    """Makes a new version of the order and of its bookings that are not cancelled."""
    now = stamp(life.at)
    life.order |= {"order_status": status, "order_version": life.order["order_version"] + 1, "order_modified": now}
    for live in _live(life):
        live |= {"booking_version": live["booking_version"] + 1, "booking_modified": now}
        if booking is not None:
            live["booking_status"] = booking


def _create(life: _Life, _: Random) -> None:
    _change(life, "ORDER_PENDING")


def _confirm(life: _Life, random: Random) -> None:
    _change(life, "ORDER_CONFIRMED", "BOOKING_CONFIRMED")
    life.order["order_confirmed"] = stamp(life.at)
    for booking in _live(life):
        booking["booking_confirmed"] = stamp(life.at)
        booking["booking_supplier_reference"] = f"SUP-{random.getrandbits(24):08d}"
        for guest in booking["product_type_details"]:
            guest["product_type_code"] = f"SIM{random.getrandbits(40):010X}"


def _release(life: _Life, _: Random) -> None:
    _change(life, "ORDER_CONFIRMED")
    for booking in _live(life):
        booking["booking_voucher_released"] = True


def _amend(life: _Life, random: Random) -> None:
    _change(life, "ORDER_UPDATED", "BOOKING_UPDATED")
    booking = random.choice(_live(life))
    moved = datetime.fromisoformat(booking["booking_travel_date"]) + timedelta(days=random.randint(1, 5))
    move(booking, moved)


def _cancel_one(life: _Life, random: Random) -> None:
    booking = random.choice(_live(life))
    _change(life, "ORDER_UPDATED")
    _cancelled(booking, life.at)


def _ask_to_cancel(life: _Life, _: Random) -> None:
    _change(life, "ORDER_CONFIRMED", "BOOKING_PROCESSING_CANCELLATION")


def _cancel(life: _Life, _: Random) -> None:
    bookings = _live(life)
    _change(life, "ORDER_CANCELLED")
    life.order["order_cancellation_date_time"] = stamp(life.at)
    for booking in bookings:
        _cancelled(booking, life.at)


def _cancelled(booking: dict[str, Any], at: datetime) -> None:
    booking |= {
        "booking_status": "BOOKING_CANCELLED",
        "booking_cancelled": stamp(at),
        "product_cancellation_allowed": False,
    }
    for guest in booking["product_type_details"]:
        guest |= {"product_type_status": "CANCELLED", "product_type_redemption_status": "CANCELLED"}


def _redeem(life: _Life, _: Random) -> None:
    _change(life, life.order["order_status"])
    for booking in _live(life):
        for guest in booking["product_type_details"]:
            guest["product_type_redemption_status"] = "REDEEMED"


def _pay(life: _Life, random: Random) -> None:
    _change(life, life.order["order_status"])
    life.order["order_payments"] = [_payment(life, random, "PURCHASE")]


def _refund(life: _Life, random: Random) -> None:
    """Adds a payment, and changes neither the order's version nor its time, as nothing promises that they change."""
    life.order["order_payments"].insert(0, _payment(life, random, "REFUND"))


def _payment(life: _Life, random: Random, kind: str) -> dict[str, Any]:
    return {
        "payment_id": str(UUID(int=random.getrandbits(128), version=4)),
        "payment_type": kind,
        "payment_status": "PAID" if kind == "PURCHASE" else "REFUNDED",
        "payment_amount": life.order["order_pricing"]["price_total"],
        "payment_currency_code": "EUR",
        "payment_created": stamp(life.at),
        "payment_order_reference": life.order["order_reference"],
        "payment_order_version": life.order["order_version"],
    }


def _contact(life: _Life, random: Random) -> None:
    """Changes a contact, and not the order's version."""
    contact = life.order["order_contacts"][0]
    contact |= {
        "contact_version": contact["contact_version"] + 1,
        "contact_email": f"guest{random.randint(1, 999)}@example.org",
        "contact_modified": stamp(life.at),
    }
    life.order["order_modified"] = stamp(life.at)


def _cancel_quietly(life: _Life, random: Random) -> None:
    """Cancels one booking of an order that stays confirmed."""
    booking = random.choice(_live(life))
    _change(life, "ORDER_CONFIRMED")
    _cancelled(booking, life.at)


def _fail(life: _Life, random: Random) -> None:
    _change(life, "ORDER_PENDING")
    random.choice(_live(life))["booking_status"] = "BOOKING_FAILED"


def _create_and_wait(life: _Life, random: Random) -> None:
    _create(life, random)
    life.waits_until = life.at + timedelta(hours=1)


def _archive(life: _Life, _: Random) -> None:
    _change(life, life.order["order_status"])
    life.order["order_archived"] = True


def _redact(life: _Life, _: Random) -> None:
    _change(life, life.order["order_status"])
    life.order |= {"order_redacted": True, "order_contacts": []}


ODD: tuple[tuple[int | None, int | None, tuple[str, ...]], ...] = (
    (None, None, ("create", "confirm", "pay", "refund")),
    (None, None, ("create", "confirm", "contact", "redeem")),
    (3, None, ("create", "confirm", "cancel_as_create")),
    (3, None, ("create", "confirm", "cancel_as_partial")),
    (None, None, ("create", "fail")),
    (None, None, ("create_and_wait", "confirm")),
    (None, None, ("create", "confirm", "redeem", "archive", "redact")),
    (1, 500, ("create", "confirm")),
)
"""Lives that a receiver may get wrong: numbers of bookings and of guests in each, and the steps."""

STEPS = {
    "create": _create,
    "confirm": _confirm,
    "release": _release,
    "amend": _amend,
    "cancel_one": _cancel_one,
    "ask_to_cancel": _ask_to_cancel,
    "cancel": _cancel,
    "redeem": _redeem,
    "pay": _pay,
    "refund": _refund,
    "contact": _contact,
    "cancel_as_create": _cancel_quietly,
    "cancel_as_partial": _cancel_quietly,
    "fail": _fail,
    "create_and_wait": _create_and_wait,
    "archive": _archive,
    "redact": _redact,
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
    "pay": "PAYMENT_CREATE",
    "refund": "PAYMENT_REFUND",
    "contact": "ORDER_UPDATE",
    "cancel_as_create": "ORDER_CREATE",
    "cancel_as_partial": "ORDER_CANCEL_PARTIAL",
    "fail": "ORDER_UPDATE",
    "create_and_wait": "ORDER_CREATE",
    "archive": "ORDER_UPDATE",
    "redact": "ORDER_UPDATE",
}


def _live(life: _Life) -> list[dict[str, Any]]:
    return [each for each in life.order["order_bookings"] if each["booking_status"] != "BOOKING_CANCELLED"]

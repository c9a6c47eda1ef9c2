"""What an order says, as far as a person needs it. Each field may be absent, and may hold anything."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from app.prioticket.payloads import ENDS, LONGEST_TEXT

MOST_BOOKINGS = 100
MOST_GUESTS = 100_000

REDEEMED = "REDEEMED"
TRUE, FALSE = ("true", "1"), ("false", "0")
"""Booleans may come as texts."""


class Booking(NamedTuple):
    """A booking; None is what it does not say.

    Attributes:
        status: Without the word BOOKING before it.
        end: How it ends, in the words of `ENDS`; None if it goes ahead.
        travels: When, with the offset of the place.
        kinds: The guests by kind, such as `2 Adult, 1 Child`.
        redeemed: How many guests have come.
        codes: How many guests have the code of a ticket.
    """

    reference: str | None
    status: str | None
    end: str | None
    product: str | None
    travels: str | None
    guests: int | None
    kinds: str | None
    redeemed: int
    codes: int
    voucher: bool | None
    total: str | None


class Summary(NamedTuple):
    """An order; None is what it does not say.

    Attributes:
        status: Without the word ORDER before it.
        total: The amount with its currency.
        bookings: At most `MOST_BOOKINGS`.
        more_bookings: Whether there are more.
    """

    status: str | None
    external_reference: str | None
    distributor: str | None
    total: str | None
    bookings: list[Booking]
    more_bookings: bool


def summarize(order: Mapping[str, Any]) -> Summary:
    """What an order says that was read from JSON."""
    found = list(islice(map(read_booking, bookings_of(order).values()), MOST_BOOKINGS + 1))
    return Summary(
        status=word(order.get("order_status"), "ORDER_"),
        external_reference=text_of(order.get("order_external_reference")),
        distributor=text_of(order.get("order_distributor_name")),
        total=_total(order.get("order_pricing")),
        bookings=found[:MOST_BOOKINGS],
        more_bookings=len(found) > MOST_BOOKINGS,
    )


def bookings_of(order: Mapping[str, Any]) -> dict[str, Any]:
    """The bookings by their references; by their places, those without one and further ones of the same."""
    bookings = order.get("order_bookings")
    found: dict[str, Any] = {}
    for place, booking in enumerate(bookings if isinstance(bookings, list) else (), 1):
        name = text_of(booking.get("booking_reference")) if isinstance(booking, dict) else None
        if name is None or name in found:
            name = f"no. {place}"
        while name in found:
            name += "'"
        found[name] = booking
    return found


def read_booking(value: object) -> Booking:
    """What a booking says."""
    booking = value if isinstance(value, dict) else {}
    status = booking.get("booking_status")
    guests = list(_guests(booking.get("product_type_details")))
    kinds = Counter[str]()
    for kind, number, _ in guests:
        kinds[kind] += number
    price = booking.get("booking_pricing")
    return Booking(
        reference=text_of(booking.get("booking_reference")),
        status=word(status, "BOOKING_"),
        end=ENDS.get(status) if isinstance(status, str) else None,
        product=text_of(booking.get("product_title")) or text_of(booking.get("product_id")),
        travels=_time(booking.get("booking_travel_date") or booking.get("product_availability_from_date_time")),
        guests=sum(kinds.values()) if guests else None,
        kinds=", ".join(f"{number} {kind}" for kind, number in kinds.items())[:LONGEST_TEXT] or None,
        redeemed=sum(number for _, number, of in guests if of.get("product_type_redemption_status") == REDEEMED),
        codes=sum(number for _, number, of in guests if text_of(of.get("product_type_code"))),
        voucher=_truth(booking.get("booking_voucher_released")),
        total=_total(price, text_of(booking.get("product_currency_code"))),
    )


def word(status: object, beginning: str) -> str | None:
    """A status without the beginning that all of its kind have."""
    text = text_of(status)
    return text and (text.removeprefix(beginning) or text)


def text_of(value: object) -> str | None:
    """A text or a number as text, cut if it is long; None for anything else, and if it is empty."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return str(value)[:LONGEST_TEXT].strip() or None
    except ValueError:  # more than 4300 digits
        return None


def _guests(details: object) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Kind, number and the fields of each entry."""
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict):
            kind = text_of(detail.get("product_type_label")) or text_of(detail.get("product_type")) or "guest"
            yield kind, _number(detail.get("product_type_count")), detail


def _number(value: object) -> int:
    """How many guests an entry stands for: one if it does not say so."""
    text = text_of(value) or ""
    return min(int(text), MOST_GUESTS) if text.isascii() and text.isdigit() else 1


def _total(pricing: object, currency: str | None = None) -> str | None:
    if not isinstance(pricing, dict) or (total := text_of(pricing.get("price_total"))) is None:
        return None
    return " ".join(filter(None, (total, text_of(pricing.get("price_currency_code")) or currency)))


def _time(value: object) -> str | None:
    """To the minute; as it came, if it is not a time."""
    text = text_of(value)
    if text is None or "T" not in text.upper():
        return text
    try:
        return datetime.fromisoformat(text.upper()).isoformat(" ", "minutes")
    except ValueError:
        return text


def _truth(value: object) -> bool | None:
    text = str(value).lower() if isinstance(value, bool | int | str) else ""
    return True if text in TRUE else False if text in FALSE else None

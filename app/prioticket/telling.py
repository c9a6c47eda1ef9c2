"""What happened to an order between two versions of it, in words."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from app.prioticket.summary import Booking, Summary, bookings_of, read_booking, summarize

NEVER_TOLD = ("order_version", "order_modified")
NEVER_TOLD_OF_BOOKINGS = ("booking_version", "booking_modified")
"""They change with every version."""

WITH_STATUS = ("order_confirmed", "order_cancellation_date_time")
WITH_BOOKING_STATUS = ("booking_confirmed", "booking_cancelled", "booking_cancellation_date_time")
WITH_STATUS_OF_GUESTS = ("product_type_status", "product_type_redemption_status")
WITH_TRAVEL_DATE = (
    "booking_travel_date",
    "product_availability_id",
    "product_availability_from_date_time",
    "product_availability_to_date_time",
)
"""What changes with a field whose change was told."""

GUESTS = "product_type_details"


class Rest:
    """The fields of two versions of a thing, without those whose change was told.

    Attributes:
        name: Such as `Booking B-2`; empty for the order.
    """

    def __init__(self, name: str, before: Mapping[str, Any], after: Mapping[str, Any], *never: str) -> None:
        self.name = name
        self.before, self.after = dict(before), dict(after)
        self.drop(*never)

    def drop(self, *names: str) -> None:
        for name in names:
            self.before.pop(name, None)
            self.after.pop(name, None)

    def differ(self, name: str) -> bool:
        return bool(self.before.get(name) != self.after.get(name))


class Told(NamedTuple):
    """The changes in words, and what the words leave out of the order and of each booking."""

    words: list[str]
    rest: list[Rest]


def tell(before: Mapping[str, Any], after: Mapping[str, Any]) -> Told:
    """What happened between two versions that were read from JSON. The words hold texts of the order as they came."""
    rest = [Rest("", before, after, *NEVER_TOLD)]
    words = list(_of_order(summarize(before), summarize(after), rest[0]))
    words += _of_bookings(rest)
    return Told(words, rest)


def _of_order(was: Summary, now: Summary, rest: Rest) -> Iterator[str]:
    if was.status != now.status:
        rest.drop("order_status", *WITH_STATUS)
        yield f"Order: {_arrow(was.status, now.status)}"
    if was.total != now.total:
        rest.drop("order_pricing")
        yield f"Total: {_arrow(was.total, now.total)}"
    if rest.differ("order_contacts"):  # whose, and how, are no words for a list
        rest.drop("order_contacts")
        yield "Contact details changed"
    payments = _number_of("order_payments", rest.before), _number_of("order_payments", rest.after)
    if payments[0] != payments[1]:
        rest.drop("order_payments")
        yield f"{_more(payments[1] - payments[0], 'payment')} ({payments[0]} → {payments[1]})"


def _of_bookings(rest: list[Rest]) -> Iterator[str]:
    was, now = bookings_of(rest[0].before), bookings_of(rest[0].after)
    if not was and not now:
        return
    rest[0].drop("order_bookings")
    for name in dict.fromkeys((*was, *now)):
        if name not in was:
            yield f"Booking {name} added{_described(read_booking(now[name]))}"
        elif name not in now:
            yield f"Booking {name} is no longer in the order"
        elif isinstance(was[name], dict) and isinstance(now[name], dict):
            rest.append(Rest(f"Booking {name}", was[name], now[name], *NEVER_TOLD_OF_BOOKINGS))
            for change in _of_booking(read_booking(was[name]), read_booking(now[name]), rest[-1]):
                yield f"Booking {name}: {change}"
        else:
            rest.append(Rest("", {f"Booking {name}": was[name]}, {f"Booking {name}": now[name]}))


def _of_booking(was: Booking, now: Booking, rest: Rest) -> Iterator[str]:
    if was.status != now.status:
        rest.drop("booking_status", *WITH_BOOKING_STATUS)
        for fields in (rest.before, rest.after):
            fields[GUESTS] = _without_statuses(fields.get(GUESTS))
        yield _arrow(was.status, now.status)
    if was.product != now.product:
        rest.drop("product_title", "product_id")
        yield f"product {_arrow(was.product, now.product)}"
    if was.travels != now.travels:
        rest.drop(*WITH_TRAVEL_DATE)
        yield f"travel date {_arrow(was.travels, now.travels)}"
    guests = list(_of_guests(was, now))
    if guests:
        rest.drop(GUESTS)
        yield from guests
    if was.voucher != now.voucher:
        rest.drop("booking_voucher_released")
        yield "voucher released" if now.voucher else "voucher not released any more"
    if was.total != now.total:
        rest.drop("booking_pricing")
        yield f"amount {_arrow(was.total, now.total)}"


def _of_guests(was: Booking, now: Booking) -> Iterator[str]:
    number = (now.guests or 0) - (was.guests or 0)
    if number:
        yield f"{_more(number, 'guest')} ({was.guests or 0} → {now.guests or 0})"
    elif was.kinds != now.kinds:
        yield f"guests {_arrow(was.kinds, now.kinds)}"
    if was.redeemed != now.redeemed:
        yield f"redeemed: {now.redeemed} of {now.guests or 0} (before: {was.redeemed})"
    if was.codes != now.codes:
        yield f"ticket codes: {was.codes} → {now.codes}"


def _without_statuses(details: object) -> object:
    if not isinstance(details, list):
        return details
    return [
        {name: value for name, value in detail.items() if name not in WITH_STATUS_OF_GUESTS}
        if isinstance(detail, dict)
        else detail
        for detail in details
    ]


def _described(booking: Booking) -> str:
    said = (booking.product, booking.travels, booking.kinds, booking.status)
    return "".join(f", {each}" for each in said if each).replace(",", ":", 1)


def _number_of(name: str, fields: Mapping[str, Any]) -> int:
    entries = fields.get(name)
    return len(entries) if isinstance(entries, list) else 0


def _more(number: int, what: str) -> str:
    return f"{abs(number)} {what}{'' if abs(number) == 1 else 's'} {'added' if number > 0 else 'removed'}"


def _arrow(was: str | None, now: str | None) -> str:
    return f"{was or 'nothing'} → {now or 'nothing'}"

"""Reads Prioticket's envelope: strict about JSON and the envelope, tolerant about everything in it.

Little is known of Prioticket's payloads, so a field that cannot be read costs only that field, never the event.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from app.web.body import without_mark

DEEPEST = 1024
"""How deep brackets may be nested: orjson's bound, and more than a hundred times what an order needs."""

LONGEST_TEXT = 255
"""The most characters of a text that is shown or that a column keeps: references may be so long. The body holds all."""

LARGEST_VERSION = 2**63 - 1

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
"""PostgreSQL takes no NUL and UTF-8 no lone surrogate; the others must not reach a terminal or a log line."""

UNKNOWN = "UNKNOWN"
SHAPES = {(True, False): "notification", (False, True): "object", (True, True): "both"}
"""By whether there is a notification, and whether there is the changed object."""

BEING_CANCELLED, CANCELLED, FAILED = "being cancelled", "cancelled", "failed"
ENDS = {
    "BOOKING_PROCESSING_CANCELLATION": BEING_CANCELLED,
    "BOOKING_CANCELLED": CANCELLED,
    "BOOKING_RESERVATION_CANCELLED": CANCELLED,
    "BOOKING_RESERVATION_EXPIRED": CANCELLED,
    "BOOKING_FAILED": FAILED,
}
"""How a booking ends, by its status. A booking with any other status counts as going ahead."""


class NotJSON(ValueError):
    """The bytes are not JSON in UTF-8; the text says why."""


class NoEnvelope(ValueError):
    """It is JSON, but not an envelope with `data`; the text says what it is instead."""


class Payload(NamedTuple):
    """When the notification was created, which has no column; and the values of columns, in the order of `NewEvent`."""

    notification_created: datetime | None
    type: str
    event_name: str | None
    reference: str | None
    order_version: int | None
    order_modified: datetime | None
    notification_id: str | None
    api_version: str | None
    shape: str | None

    def columns(self) -> dict[str, Any]:
        """By name."""
        columns = self._asdict()
        del columns["notification_created"]
        return columns


class OrderState(NamedTuple):
    """Which state of which order it is, as the columns of its event have it."""

    reference: str | None
    version: int | None
    modified: datetime | None


def state_of(order: Mapping[str, Any]) -> OrderState:
    """The state of an order that was read from JSON."""
    return OrderState(
        own_reference("order", order), _version(order.get("order_version")), _time(order.get("order_modified"))
    )


def parse_payload(content: bytes) -> Payload:
    """What a decoded body says.

    The type is what the order in it says has happened. Without an order it is the event name of the notification;
    without that too, it is the name of the object in capitals, such as `PAYMENT`.

    Shapes: `notification` (A), `object` (B, the changed order, payment or product itself), `both`, or None if
    `data` holds neither. `kind` is not trusted, since a published order says `location`: only the keys count.

    Raises:
        NotJSON: 400.
        NoEnvelope: 422.
    """
    envelope = parse_json(content)
    if not isinstance(envelope, dict):
        raise NoEnvelope("the body is JSON but not an object")
    data = envelope.get("data")
    if not isinstance(data, dict):
        what = "an error object" if "error" in envelope else "an object without an envelope's `data`"
        raise NoEnvelope(f"the body is {what}")
    notification = _object(data.get("notification"))
    name, changed = changed_object(data)
    order = changed if name == "order" else {}
    announced = _text(notification.get("notification_event"))
    event_type = (_order_type(order) if order else None) or announced or _text(name.upper()) or _kind(data) or UNKNOWN
    return Payload(
        notification_created=_time(notification.get("notification_created")),
        type=event_type,
        event_name=announced if announced != event_type else None,
        reference=_reference(name, changed) or _item(notification.get("notification_item_id")),
        order_version=_version(order.get("order_version")),
        order_modified=_time(order.get("order_modified")),
        notification_id=_text(notification.get("notification_id")),
        api_version=_text(envelope.get("api_version")),
        shape=SHAPES.get((bool(notification), bool(name))),
    )


def changed_object(data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and content of the object in `data`; names other than `order` are by analogy, UNKNOWN."""
    # An order first: Prioticket adds fields within a version, and one of them may hold an object.
    order = data.get("order")
    if isinstance(order, dict):
        return "order", order
    for name, value in data.items():
        if name != "notification" and isinstance(value, dict):
            return name, value
    return "", {}


def own_reference(name: str, changed: Mapping[str, Any]) -> str | None:
    """`order_reference`; for other objects, by analogy, `payment_id`, `contact_uid` and so on."""
    for ending in ("reference", "id", "uid"):
        if found := _text(changed.get(f"{name}_{ending}")):
            return found
    return None


def parse_json(content: bytes) -> Any:
    """The value. Duplicate names: the last one counts, as everywhere. A whole number over 64 bits becomes a float.

    Raises:
        NotJSON: not JSON by RFC 8259 (so no NaN and no trailing comma), not UTF-8, empty, or deeper than `DEEPEST`.
    """
    content = without_mark(content)
    if not content.strip():
        raise NotJSON("the body is empty")
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        return _parse_odd_json(content, str(error))


def _parse_odd_json(content: bytes, refusal: str) -> Any:
    """The value of valid JSON that the fast parser cannot hold: lone surrogates, thousands of digits.

    Each of these costs only its field. If this parser fails too, the refusal has the fast parser's words.
    """
    if "depth" in refusal:
        raise NotJSON(f"the body is nested deeper than {DEEPEST} levels")
    try:
        return json.loads(content.decode(), parse_constant=_refuse_constant, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise NotJSON(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError):
        raise NotJSON(refusal) from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)  # Python makes no integer of more than 4300 digits


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _order_type(order: Mapping[str, Any]) -> str | None:
    """What an order says has happened: the one place that decides it. docs/receiving.md has the table.

    The order's own status hides what happened to a single booking, so the bookings come first.
    """
    status = _text(order.get("order_status"))
    bookings = order.get("order_bookings")
    if not isinstance(bookings, list):
        return status
    ends = set()
    for booking in bookings:
        of_booking = booking.get("booking_status") if isinstance(booking, dict) else None
        ends.add(ENDS.get(of_booking) if isinstance(of_booking, str) else None)
    if BEING_CANCELLED in ends:
        return "ORDER_PROCESSING_CANCELLATION"
    if CANCELLED in ends:
        return "ORDER_CANCEL_PARTIAL" if None in ends else "ORDER_CANCELLED"
    if FAILED in ends and status != "ORDER_CANCELLED":
        return "ORDER_CANCEL_BOOKING_FAILED"
    return status


def _kind(data: Mapping[str, Any]) -> str | None:
    kind = _text(data.get("kind"))
    return _text(kind.upper()) if kind else None  # capitals may be longer


def _reference(name: str, changed: Mapping[str, Any]) -> str | None:
    """The reference of an order; for a payment, and by analogy for another object, its order's, otherwise its own."""
    if not changed:
        return None
    of_order = None if name == "order" else _text(changed.get(f"{name}_order_reference"))
    return of_order or own_reference(name, changed)


def _item(item: object) -> str | None:
    """The reference that a notification names; by analogy with orders, an object's `order_reference`."""
    return _text(item.get("order_reference") if isinstance(item, dict) else item)


def _text(value: object) -> str | None:
    """The text of a value that should be text; a number may come where text is documented."""
    if isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable():
        return value.strip() or None  # as nearly all are
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        try:
            value = str(value)
        except ValueError:  # more than 4300 digits
            return None
    text = value[: LONGEST_TEXT * 2]
    if not text.isprintable():
        text = UNPRINTABLE.sub("", text)
    return text[:LONGEST_TEXT].strip() or None


def _version(value: object) -> int | None:
    """A whole number, which may come as text."""
    if value is None or isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    if isinstance(value, float) and value != number:
        return None
    return number if abs(number) <= LARGEST_VERSION else None


def _time(value: object) -> datetime | None:
    """The instant of an RFC 3339 time; None without an offset or `Z`."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value.strip().upper())  # RFC 3339, section 5.6: t and z may be small
        return at.astimezone(UTC) if at.tzinfo else None
    except (ValueError, OverflowError):
        return None

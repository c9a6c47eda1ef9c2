import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.prioticket.payloads import DEEPEST, LONGEST_TEXT, NoEnvelope, NotJSON, Payload, parse_payload
from tests.conftest import PAYLOADS, payload

NOTIFICATION = "01-notification-order-create"
ORDER = "10-order-payload-cancelled"
BOTH = "12-GUESS-notification-with-order"

NOTIFICATION_ID = "7c0a4a52-31f4-4a0e-9d1e-5f3b0f6a1c"
PRI = "PRI26081200417"
PAYMENT = "3b8f0c0e-6a9d-4f57-8b39-0d6f5b1f7e55"

SAMPLES = [
    # file                                     type                            shape           reference version id
    (NOTIFICATION, "ORDER_CREATE", "notification", PRI, None, "01"),
    ("02-notification-order-cancel-partial", "ORDER_CANCEL_PARTIAL", "notification", PRI, None, "02"),
    ("03-notification-voucher-release", "VOUCHER_RELEASE", "notification", PRI, None, "03"),
    ("04-notification-redemption", "REDEMPTION", "notification", PRI, None, "04"),
    ("05-notification-payment-refund", "PAYMENT_REFUND", "notification", PAYMENT, None, "05"),
    ("06-notification-product-update", "PRODUCT_UPDATE", "notification", "62525", None, "06"),
    ("07-order-payload-pending", "ORDER_PENDING", "object", PRI, 1, None),
    ("08-order-payload-confirmed", "ORDER_CONFIRMED", "object", PRI, 1, None),
    ("09-order-payload-processing-cancellation", "ORDER_PROCESSING_CANCELLATION", "object", PRI, 2, None),
    (ORDER, "ORDER_CANCELLED", "object", PRI, 3, None),
    (BOTH, "ORDER_CONFIRMED", "both", PRI, 1, "12"),
]

ODD_VALUES = {
    "null": "null",
    "a number": "7.5",
    "a flag": "true",
    "a list": "[1, {}]",
    "an object": '{"a": []}',
    "NUL text": r'"\u0000"',
    "text around a NUL": r'"A\u0000B"',
    "a lone surrogate": r'"\ud800"',
    "a long text": '"' + "\N{GREEK SMALL LETTER IOTA WITH DIALYTIKA AND TONOS}" * 5000 + '"',
    "10^400": "1" + "0" * 400,
    "1e400": "1e400",
    "5000 digits": "9" * 5000,
    "deep nesting": "[" * 100 + "]" * 100,
}
odd_values = pytest.mark.parametrize("odd", ODD_VALUES.values(), ids=ODD_VALUES)

UNSTORABLE = re.compile(r"[\x00-\x1f\ud800-\udfff]")

Path = tuple[str | int, ...]


def envelope(**data: object) -> bytes:
    return json.dumps({"api_version": "3.8.0", "data": data}).encode()


def changed(sample: str, path: Path, raw: str) -> bytes:
    """The sample with the value at the path replaced by a piece of JSON."""
    whole = json.loads(payload(sample))
    inner: Any = whole
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = "@here@"
    return json.dumps(whole).replace('"@here@"', raw).encode()


def paths(value: object) -> list[Path]:
    if isinstance(value, dict):
        return [(key, *rest) for key, inner in value.items() for rest in ((), *paths(inner))]
    if isinstance(value, list):
        return [(place, *rest) for place, inner in enumerate(value) for rest in ((), *paths(inner))]
    return []


PLACES = [
    (file.stem, path)
    for file in sorted(PAYLOADS.glob("*.json"))
    for path in paths(json.loads(file.read_bytes()))
    if path != ("data",) and not file.stem.startswith("11-")
]


def is_storable(found: Payload) -> bool:
    texts = (found.type, found.event_name, found.reference, found.notification_id, found.api_version, found.shape)
    for text in texts:
        if text is not None and (not 0 < len(text) <= LONGEST_TEXT or UNSTORABLE.search(text)):
            return False
    version_fits = found.order_version is None or -(2**63) < found.order_version < 2**63
    return version_fits and (found.order_modified is None or found.order_modified.tzinfo is UTC)


# What is JSON


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n\t",
        b"\xef\xbb\xbf",
        b"{",
        b'{"data": {}',
        b"nothing",
        b'{"data": {"a": NaN}}',
        b'{"data": {"a": Infinity}}',
        b'{"data": {"a": -Infinity}}',
        b'{"data": {"a": "\\ud800", "b": NaN}}',
        b'{"data": {},}',
        b'{"data": [1,]}',
        b'{"data": {} /* why */}',
        b'{"data": {}} // why',
        b"{'data': {}}",
        b"{data: {}}",
        b'{"data": {"a": 01}}',
        b'{"data": {"a": +1}}',
        b'{"data": {"a": .5}}',
        b'{"data": {"a": 0x10}}',
        b'{"data": {"a": "line\nfeed"}}',
        b'{"data": {"a": "\\x41"}}',
        b'{"data": {}} {"data": {}}',
        b'{"data": {}}\x00',
        b'\xef\xbb\xbf\xef\xbb\xbf{"data": {}}',
        b'{"data": {"a": "\xff"}}',
        b'{"data": {"a": "\xed\xa0\x80"}}',
        '{"data": {}}'.encode("utf-16"),
        '{"data": {}}'.encode("utf-16-le"),
        '{"data": {}}'.encode("utf-32"),
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": "\\ud800", "data": ' + b"[" * 100_000,
        b"1" * 5000 + b"x",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_not_json_is_refused(body):
    with pytest.raises(NotJSON):
        parse_payload(body)


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"data": {}}',
        b' \r\n\t{"data": {}}\n',
        b'{"data": {"a": "\\ud800"}}',
        b'{"data": {"\\udfff": 1}}',
        b'{"data": {"a": "\\u0000"}}',
        b'{"data": {"a": ' + b"9" * 5000 + b"}}",
        b'{"data": {"a": -' + b"9" * 5000 + b".5e-3}}",
        b'{"data": {"a": 1e400}}',
        b'{"data": {"a": ' + b"[" * (DEEPEST - 2) + b"]" * (DEEPEST - 2) + b"}}",
        '{"data": {"a": "żółć 🎟"}}'.encode(),
    ],
    ids=lambda body: repr(body[:30]),
)
def test_valid_json_that_is_odd_is_accepted(body):
    assert parse_payload(body).type == "UNKNOWN"


def test_the_refusal_of_deep_nesting_says_how_deep_it_may_be():
    with pytest.raises(NotJSON, match=f"deeper than {DEEPEST} levels"):
        parse_payload(b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1))


def test_of_a_repeated_name_the_last_one_counts():
    found = parse_payload(b'{"data": 1, "api_version": "1", "data": {"kind": "x"}, "api_version": "2"}')
    assert (found.api_version, found.type) == ("2", "X")


@pytest.mark.slow
@given(st.binary() | st.text().map(str.encode))
@example(payload("11-error-body"))
def test_any_bytes_are_read_or_refused(body):
    try:
        found = parse_payload(body)
    except (NotJSON, NoEnvelope):
        return
    assert is_storable(found)


@given(st.sampled_from([NOTIFICATION, BOTH]), st.data())
def test_a_sample_damaged_anywhere_is_read_or_refused(sample, data):
    body = bytearray(payload(sample))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        found = parse_payload(bytes(body))
    except (NotJSON, NoEnvelope):
        return
    assert is_storable(found)


# What is an envelope


@pytest.mark.parametrize("body", [b"null", b"true", b"1", b'"data"', b"[]", b'[{"data": {}}]'])
def test_json_that_is_no_object_is_no_envelope(body):
    with pytest.raises(NoEnvelope, match="not an object"):
        parse_payload(body)


@pytest.mark.parametrize("inner", ["null", "[]", '""', "0", "false", '"notification"', "[{}]"])
def test_an_envelope_whose_data_is_no_object_is_refused(inner):
    with pytest.raises(NoEnvelope, match="without an envelope's `data`"):
        parse_payload(b'{"data": %s}' % inner.encode())


def test_an_object_without_data_is_refused():
    with pytest.raises(NoEnvelope):
        parse_payload(b'{"api_version": "3.8.0", "Data": {}}')


def test_an_error_object_is_refused_as_one():
    with pytest.raises(NoEnvelope, match="an error object"):
        parse_payload(payload("11-error-body"))


def text() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=()), max_size=20)  # surrogates too


def json_values() -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text()
    return st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(names(), inner), max_leaves=20)


def names() -> st.SearchStrategy[str]:
    known = ("kind", "notification", "notification_id", "notification_event", "notification_item_id")
    return text() | st.sampled_from((*known, "order", "order_reference", "order_version", "order_bookings", "payment"))


@pytest.mark.slow
@given(st.dictionaries(names(), json_values()), st.dictionaries(text(), json_values()))
def test_every_object_with_a_data_object_is_accepted(data, around):
    assert is_storable(parse_payload(json.dumps({**around, "data": data}).encode()))


# What is found in it


@pytest.mark.parametrize(("sample", "expected"), [(sample, tuple(expected)) for sample, *expected in SAMPLES])
def test_a_sample_has_its_type_shape_reference_version_and_id(sample, expected):
    found = parse_payload(payload(sample))
    number = found.notification_id.removeprefix(NOTIFICATION_ID) if found.notification_id else None
    assert (found.type, found.shape, found.reference, found.order_version, number) == expected
    assert found.api_version == "3.8.0"


def test_every_sample_is_in_the_table_or_refused():
    names = {file.stem for file in PAYLOADS.glob("*.json")}
    assert names == {sample for sample, *_ in SAMPLES} | {"11-error-body"}


@pytest.mark.parametrize("kind", ["location", "order", "notification", None, 5, [], {"a": 1}])
def test_the_kind_is_not_believed(kind):
    order = {"order_reference": "R", "order_status": "ORDER_CONFIRMED"}
    found = parse_payload(envelope(order=order, kind=kind))
    assert (found.type, found.shape, found.reference) == ("ORDER_CONFIRMED", "object", "R")


@pytest.mark.parametrize("stranger", ["links", "meta", "payment"])
def test_an_unknown_object_beside_the_order_does_not_hide_it(stranger):
    found = parse_payload(envelope(**{stranger: {"a": 1}, "order": {"order_reference": "R", "order_version": 2}}))
    assert (found.type, found.reference, found.order_version) == ("ORDER", "R", 2)


@pytest.mark.parametrize(
    ("data", "type_", "reference"),
    [
        ({"payment": {"payment_reference": "P"}}, "PAYMENT", "P"),
        ({"payment": {"payment_id": "P", "payment_order_reference": "R"}}, "PAYMENT", "R"),
        ({"payment": {"payment_id": "P", "payment_order_reference": None}}, "PAYMENT", "P"),
        ({"contact": {"contact_uid": "C"}}, "CONTACT", "C"),
        ({"product": {"product_id": 62525}}, "PRODUCT", "62525"),
        ({"novelty": {"novelty_id": "N"}}, "NOVELTY", "N"),
        ({"order": {}}, "ORDER", None),
    ],
)
def test_an_object_without_an_event_name_gives_the_type(data, type_, reference):
    found = parse_payload(envelope(**data))
    assert (found.type, found.shape, found.reference) == (type_, "object", reference)


@pytest.mark.parametrize(
    ("data", "type_"),
    [({}, "UNKNOWN"), ({"kind": "holiday"}, "HOLIDAY"), ({"kind": 5}, "5"), ({"notification": {}}, "UNKNOWN")],
)
def test_data_with_nothing_known_in_it_has_no_shape(data, type_):
    found = parse_payload(envelope(**data))
    assert (found.type, found.shape, found.reference) == (type_, None, None)


def test_an_unknown_event_is_the_type():
    assert parse_payload(envelope(notification={"notification_event": "GUEST_SNEEZE"})).type == "GUEST_SNEEZE"


def of_bookings(status: str | None, bookings: list[str]) -> dict[str, Any]:
    statuses = [{"booking_status": each and f"BOOKING_{each}"} for each in bookings]
    return {"order_reference": "R", "order_status": status, "order_bookings": statuses}


@pytest.mark.parametrize(
    ("bookings", "status", "type_"),
    [
        (["PROCESSING_CANCELLATION"], "ORDER_CONFIRMED", "ORDER_PROCESSING_CANCELLATION"),
        (["CONFIRMED", "PROCESSING_CANCELLATION"], "ORDER_CANCELLED", "ORDER_PROCESSING_CANCELLATION"),
        (["CANCELLED", "PROCESSING_CANCELLATION", "FAILED"], None, "ORDER_PROCESSING_CANCELLATION"),
        (["CANCELLED"], "ORDER_CONFIRMED", "ORDER_CANCELLED"),
        (["CANCELLED", "FAILED"], "ORDER_CONFIRMED", "ORDER_CANCELLED"),
        (["RESERVATION_EXPIRED", "RESERVATION_CANCELLED"], "ORDER_PENDING", "ORDER_CANCELLED"),
        (["FAILED"], "ORDER_CANCELLED", "ORDER_CANCELLED"),
        (["CANCELLED", "CONFIRMED"], "ORDER_CONFIRMED", "ORDER_CANCEL_PARTIAL"),
        (["CONFIRMED", "CANCELLED", "FAILED"], "ORDER_CONFIRMED", "ORDER_CANCEL_PARTIAL"),
        (["CONFIRMED", "RESERVATION_EXPIRED"], "ORDER_UPDATED", "ORDER_CANCEL_PARTIAL"),
        (["CANCELLED", "NOVELTY"], "ORDER_CANCELLED", "ORDER_CANCEL_PARTIAL"),
        (["CANCELLED", None], None, "ORDER_CANCEL_PARTIAL"),
        (["FAILED"], "ORDER_PENDING", "ORDER_CANCEL_BOOKING_FAILED"),
        (["FAILED", "CONFIRMED"], None, "ORDER_CANCEL_BOOKING_FAILED"),
        (["CONFIRMED", "UPDATED", "NOVELTY"], "ORDER_UPDATED", "ORDER_UPDATED"),
        (["CONFIRMED"], "ORDER_CANCELLED", "ORDER_CANCELLED"),
        ([], "ORDER_REVIEW", "ORDER_REVIEW"),
        (["CONFIRMED"], None, "ORDER"),
    ],
)
def test_the_type_of_an_order_is_what_its_bookings_say_then_its_status(bookings, status, type_):
    assert parse_payload(envelope(order=of_bookings(status, bookings))).type == type_


@pytest.mark.parametrize(
    ("status", "bookings", "type_", "event_name"),
    [
        ("ORDER_CONFIRMED", ["CONFIRMED", "CANCELLED"], "ORDER_CANCEL_PARTIAL", "ORDER_CREATE"),
        ("ORDER_CONFIRMED", ["CONFIRMED"], "ORDER_CONFIRMED", "ORDER_CREATE"),
        (None, [], "ORDER_CREATE", None),
        ("ORDER_CREATE", [], "ORDER_CREATE", None),
    ],
)
def test_an_event_name_is_kept_beside_what_the_order_says(status, bookings, type_, event_name):
    announced = {"notification_event": "ORDER_CREATE"}
    found = parse_payload(envelope(notification=announced, order=of_bookings(status, bookings)))
    assert (found.type, found.event_name) == (type_, event_name)


def test_another_object_than_an_order_leaves_the_event_name_as_the_type():
    found = parse_payload(envelope(notification={"notification_event": "PAYMENT_REFUND"}, payment={"payment_id": "P"}))
    assert (found.type, found.event_name, found.reference) == ("PAYMENT_REFUND", None, "P")


@pytest.mark.parametrize(
    ("given_", "version"),
    [
        (3, 3),
        ("3", 3),
        (" 3 ", 3),
        (3.0, 3),
        (-1, -1),
        (2**63 - 1, 2**63 - 1),
        (2**63, None),
        (10**400, None),
        ("three", None),
        ("", None),
        ("3.5", None),
        (3.5, None),
        (True, None),
        ([3], None),
        ({"version": 3}, None),
        (None, None),
    ],
)
def test_a_version_is_a_whole_number_that_may_come_as_text(given_, version):
    assert parse_payload(envelope(order={"order_version": given_})).order_version == version


@pytest.mark.parametrize(
    ("given_", "modified"),
    [
        ("2026-08-12T10:15:32+02:00", datetime(2026, 8, 12, 8, 15, 32, tzinfo=UTC)),
        ("2026-08-12T10:15:32Z", datetime(2026, 8, 12, 10, 15, 32, tzinfo=UTC)),
        ("2026-08-12t10:15:32z", datetime(2026, 8, 12, 10, 15, 32, tzinfo=UTC)),
        ("2026-08-12 10:15:32+00:00", datetime(2026, 8, 12, 10, 15, 32, tzinfo=UTC)),
        ("2026-08-12T10:15:32.123Z", datetime(2026, 8, 12, 10, 15, 32, 123000, tzinfo=UTC)),
        ("2026-08-12T10:15:32.1234567+02:00", datetime(2026, 8, 12, 8, 15, 32, 123456, tzinfo=UTC)),
        ("2026-08-12T10:15:32", None),
        ("2026-08-12", None),
        ("2026-02-30T10:15:32Z", None),
        ("0001-01-01T00:00:00+02:00", None),
        ("9999-12-31T23:59:59-02:00", None),
        ("yesterday", None),
        ("", None),
        (1786522532, None),
        (True, None),
        ([], None),
        (None, None),
    ],
)
def test_a_modified_time_is_an_instant_or_nothing(given_, modified):
    assert parse_payload(envelope(order={"order_modified": given_})).order_modified == modified


@pytest.mark.parametrize(
    ("given_", "reference"),
    [
        ("R", "R"),
        (62525, "62525"),
        (" R ", "R"),
        ("A\0B\nC", "ABC"),
        ("", None),
        ("  ", None),
        (True, None),
        (1.5, None),
        (2**64 - 1, str(2**64 - 1)),
        (2**64, None),
    ],
)
def test_a_reference_is_text_or_a_whole_number_and_printable(given_, reference):
    assert parse_payload(envelope(notification={"notification_item_id": given_})).reference == reference


def test_a_long_text_is_cut_in_its_column():
    assert parse_payload(envelope(order={"order_reference": "R" * 255})).reference == "R" * 255
    assert parse_payload(envelope(order={"order_reference": "R" * 5000})).reference == "R" * LONGEST_TEXT


FIELDS = [
    (NOTIFICATION, "api_version", ("api_version",)),
    (NOTIFICATION, "type", ("data", "notification", "notification_event")),
    (NOTIFICATION, "reference", ("data", "notification", "notification_item_id")),
    (NOTIFICATION, "notification_id", ("data", "notification", "notification_id")),
    (ORDER, "type", ("data", "order", "order_status")),
    (ORDER, "reference", ("data", "order", "order_reference")),
    (ORDER, "order_version", ("data", "order", "order_version")),
    (ORDER, "order_modified", ("data", "order", "order_modified")),
]


@odd_values
@pytest.mark.parametrize(("sample", "column", "path"), FIELDS)
def test_a_field_of_the_wrong_type_costs_that_field_only(sample, column, path, odd):
    whole, damaged = parse_payload(payload(sample)), parse_payload(changed(sample, path, odd))
    assert damaged._replace(**{column: getattr(whole, column)}) == whole
    assert is_storable(damaged)


@odd_values
@pytest.mark.parametrize(
    "path", [("data", "order", "order_bookings"), ("data", "order", "order_bookings", 0, "booking_status")]
)
def test_bookings_of_the_wrong_type_leave_the_order_as_it_is(path, odd):
    whole, damaged = parse_payload(payload(ORDER)), parse_payload(changed(ORDER, path, odd))
    assert damaged == whole


@given(st.sampled_from(PLACES), st.sampled_from(list(ODD_VALUES.values())))
def test_any_odd_value_anywhere_in_a_sample_leaves_it_storable(place, odd):
    sample, path = place
    assert is_storable(parse_payload(changed(sample, path, odd)))


@pytest.mark.parametrize(
    ("item", "reference"), [("P1", "P1"), ({"order_reference": "P1"}, "P1"), ({}, None), ([], None)]
)
def test_a_notification_may_name_its_order_in_an_object(item, reference):
    notification = {"notification_event": "ORDER_UPDATE", "notification_item_id": item}
    payload = parse_payload(envelope(notification=notification))
    assert (payload.reference, payload.shape) == (reference, "notification")

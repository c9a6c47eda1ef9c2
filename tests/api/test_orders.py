import json

import pytest

from app.events.differences import LONGEST_VALUE, MOST_CHANGES, Change, differences
from tests.api.test_events import fill
from tests.conftest import WEBHOOK, basic_header, bearer_header

READER = bearer_header()


def order(version: int, **more) -> bytes:
    values = {"order_reference": "PRI/1 %41", "order_version": version, "order_status": "ORDER_CONFIRMED", **more}
    return json.dumps({"data": {"kind": "order", "order": values}}).encode()


def notification(name: str) -> bytes:
    values = {"notification_id": name, "notification_event": name, "notification_item_id": "PRI/1 %41"}
    return json.dumps({"data": {"kind": "notification", "notification": values}}).encode()


async def arrive(client, *bodies: bytes) -> None:
    for body in bodies:
        assert (await client.post(WEBHOOK, content=body, headers=basic_header())).status_code == 200


async def shown(client, reference: str = "PRI/1 %41"):
    reply = await client.get("/api/orders/" + reference.replace("%", "%25").replace(" ", "%20"), headers=READER)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_events_stand_in_the_orders_own_order(client):
    await arrive(client, notification("A"), order(1), order(3), notification("B"), order(2), order(4))
    events = (await shown(client))["events"]
    assert [(each["order_version"], each["notification_id"]) for each in events] == [
        (None, "A"),
        (1, None),
        (2, None),
        (3, None),
        (None, "B"),
        (4, None),
    ]
    assert [each["late"] for each in events] == [False, False, True, False, False, False]


async def test_versions_that_are_equal_stand_by_their_own_time(client):
    times = ("2026-08-12T10:00:00Z", "2026-08-12T12:00:00+02:00", "2026-08-12T09:00:00Z")
    await arrive(client, *(order(1, order_modified=at, n=number) for number, at in enumerate(times)))
    found = await shown(client)
    assert [each["order_modified"] for each in found["events"]] == [
        "2026-08-12T09:00:00Z",
        "2026-08-12T10:00:00Z",
        "2026-08-12T10:00:00Z",
    ]
    assert [each["late"] for each in found["events"]] == [True, False, False]
    assert found["state"]["n"] == 1


async def test_copies_are_marked(client):
    await arrive(client, order(1), order(2), order(1))
    assert [each["twice"] for each in (await shown(client))["events"]] == [True, False]


async def test_the_newest_state_and_what_changed_are_shown(client):
    cancelled = order(2, order_status="ORDER_CANCELLED", gone=None)
    await arrive(client, cancelled, notification("A"), order(1, guests=[1, 2]))
    found = await shown(client)
    assert found["state"]["order_status"] == "ORDER_CANCELLED"
    assert found["state_event_id"] == found["events"][1]["id"]
    assert [each["changes"] is None for each in found["events"]] == [True, False, True]
    assert [(each["path"], each["kind"], each["old"], each["new"]) for each in found["events"][1]["changes"]] == [
        ("/order_version", "changed", 1, 2),
        ("/order_status", "changed", "ORDER_CONFIRMED", "ORDER_CANCELLED"),
        ("/guests", "removed", [1, 2], None),
    ]


async def test_changes_are_told_in_words(client):
    booking = {"booking_reference": "B-2", "booking_status": "BOOKING_CONFIRMED", "product_id": "1"}
    cancelled = booking | {"booking_status": "BOOKING_CANCELLED", "booking_language": "nl"}
    other = booking | {"booking_reference": "B-1"}
    await arrive(client, order(1, order_bookings=[booking]), order(2, order_bookings=[other, cancelled], a={"b": 1}))
    assert [event["words"] for event in (await shown(client))["events"]] == [
        None,
        [
            "Booking B-2: CONFIRMED → CANCELLED",
            "Booking B-1 added: 1, CONFIRMED",
            '/a: {"b":1} added',
            'Booking B-2: booking_language: "nl" added',
        ],
    ]


async def test_a_thousand_changes_are_cut_in_words_too(client):
    await arrive(client, order(1), order(2, **{f"field_{number}": 1 for number in range(1000)}))
    words = (await shown(client))["events"][1]["words"]
    assert (len(words), words[-1]) == (51, "and more")


async def test_an_order_whose_reference_turns_the_direction_of_text_is_shown(client):
    await arrive(client, json.dumps({"data": {"order": {"order_reference": "PRI\u202e9"}}}).encode())
    assert (await shown(client, "PRI\u202e9"))["reference"] == "PRI\u202e9"


async def test_a_payment_stands_among_the_events_of_its_order_and_is_compared_with_itself_only(client):
    payments = [
        {"payment_id": "P", "payment_order_reference": "PRI/1 %41", "payment_amount": amount} for amount in ("5", "6")
    ]
    bodies = [json.dumps({"data": {"payment": each}}).encode() for each in payments]
    await arrive(client, order(1), bodies[0], order(2), bodies[1])
    found = await shown(client)
    assert [each["type"] for each in found["events"]] == ["ORDER_CONFIRMED", "PAYMENT", "ORDER_CONFIRMED", "PAYMENT"]
    paths = [each["changes"] and [change["path"] for change in each["changes"]] for each in found["events"]]
    assert paths == [None, None, ["/order_version"], ["/payment_amount"]]
    assert (found["state"]["order_version"], found["state_event_id"]) == (2, found["events"][2]["id"])


async def test_without_an_order_the_state_is_that_of_the_newest_object(client):
    await arrive(client, json.dumps({"data": {"contact": {"contact_uid": "PRI/1 %41"}}}).encode())
    assert (await shown(client))["state"] == {"contact_uid": "PRI/1 %41"}


async def test_no_more_bodies_are_read_than_may_be_and_the_answer_says_so(client, monkeypatch):
    monkeypatch.setattr("app.api.orders.MOST_BODIES", 2)
    monkeypatch.setattr("app.api.orders.MOST_EVENTS", 3)
    await arrive(client, *(order(version) for version in range(1, 6)))
    found = await shown(client)
    assert [each["order_version"] for each in found["events"]] == [3, 4, 5]
    assert [each["changes"] is None for each in found["events"]] == [True, True, False]
    assert (found["more_events"], found["compared"], found["not_compared"]) == (True, 2, 1)


async def test_a_slash_in_a_reference_may_be_encoded_or_not(client):
    await arrive(client, order(1))
    for path in ("PRI/1 %2541", "PRI%2F1%20%2541"):
        reply = await client.get(f"/api/orders/{path}", headers=READER)
        assert reply.json()["reference"] == "PRI/1 %41"


@pytest.mark.parametrize("reference", ["PRI2", "%00", "PRI%2F", "pri%2F1%20%2541"])
async def test_an_unknown_reference_is_404(client, reference):
    await arrive(client, order(1))
    reply = await client.get(f"/api/orders/{reference}", headers=READER)
    assert (reply.status_code, reply.json()["error"]) == (404, "NOT_FOUND")


async def test_a_body_that_no_json_can_repeat_is_shown_as_far_as_it_can(client):
    await arrive(client, order(1).replace(b"ORDER_CONFIRMED", rb"\ud800"), order(2))
    found = await shown(client)
    assert found["events"][1]["changes"][1] == {
        "path": "/order_status",
        "kind": "changed",
        "old": "?",
        "new": "ORDER_CONFIRMED",
        "shortened": False,
    }


async def test_a_body_that_cannot_be_read_any_more_costs_its_comparison_only(client, engine):
    await fill(engine, {"reference": "PRI9", "shape": "object", "order_version": 1, "body": b"{"})
    found = await shown(client, "PRI9")
    assert (found["state"], found["events"][0]["changes"]) == (None, None)


def test_names_are_escaped_in_paths():
    assert differences({"a/b~": 1}, {"a/b~": 2}).changes[0].path == "/a~1b~0"


def test_null_and_absent_mean_the_same():
    assert differences({"a": None, "b": [1, None]}, {"b": [1]}).changes == []


def test_true_is_not_one():
    assert differences({"a": 1}, {"a": True}).changes == [Change("/a", "changed", 1, True, shortened=False)]


def test_a_long_value_is_not_shown():
    long = "x" * LONGEST_VALUE
    assert differences({"a": "b"}, {"a": long}).changes == [Change("/a", "changed", "b", None, shortened=True)]


def test_changes_are_bounded():
    found = differences({}, {str(number): number for number in range(MOST_CHANGES + 1)})
    assert (len(found.changes), found.more) == (MOST_CHANGES, True)


async def test_the_first_to_arrive_is_never_late_however_odd_its_version_and_time(client):
    await arrive(client, order(-5, order_modified="0001-01-01T00:00:00Z"), order(-7))
    assert [(event["order_version"], event["late"]) for event in (await shown(client))["events"]] == [
        (-7, True),
        (-5, False),
    ]

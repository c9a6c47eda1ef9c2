import json
import re
from datetime import UTC, datetime
from threading import current_thread, main_thread
from uuid import UUID

import pytest
from sqlalchemy import insert, update

from app.database.writing import writing
from app.deliveries.operations import drop
from app.deliveries.tables import Delivery
from app.events.fetches import Fetch, FetchCause
from app.events.ids import new_id
from app.events.tables import Event
from app.prioticket.summary import summarize
from app.settings.clients import Scope
from tests.api.test_events import NOON, fill
from tests.api.test_orders import arrive, notification, order
from tests.conftest import bearer_header
from tests.deliveries.workers import Workers

PAGE = "/console/orders/PRI%2F1%20%2541"
HOSTILE = '<script>alert("1")</script>\u202e\u2028x'


@pytest.fixture
async def erp(engine, desk) -> Workers:
    """Workers of the destinations of the settings."""
    workers = Workers(engine)
    workers.now = datetime.now(UTC)
    await workers.register("erp", "new")
    return workers


def booking(status: str, **more) -> dict[str, object]:
    guests = [{"product_type_label": "Adult", "product_type_count": 2}]
    return {
        "booking_reference": "B-2",
        "booking_status": f"BOOKING_{status}",
        "product_title": "Canal Cruise",
        "booking_travel_date": "2026-08-20T09:30:00+02:00",
        "product_type_details": guests,
        **more,
    }


async def audit(client) -> list[tuple[str, str, str, str | None]]:
    actions = (await client.get("/api/audit", headers=bearer_header())).json()["actions"]
    return [(each["action"], each["kind"], each["channel"], each["reason"]) for each in actions]


async def test_an_order_is_summarized_beside_the_loop_that_receives_webhooks(desk, monkeypatch):
    threads = []

    def noted(order):
        threads.append(current_thread())
        return summarize(order)

    monkeypatch.setattr("app.api.stories.summarize", noted)
    await arrive(desk.client, order(1, order_bookings=[booking("CONFIRMED")]))
    assert "Canal Cruise" in await desk.see(PAGE)
    assert threads
    assert main_thread() not in threads


async def test_an_order_tells_its_story_in_its_own_order(desk):
    confirmed, cancelled = (
        order(1, order_bookings=[booking("CONFIRMED")]),
        order(3, order_bookings=[booking("CANCELLED")]),
    )
    await arrive(desk.client, confirmed, cancelled, order(2, order_bookings=[booking("UPDATED")]), confirmed)
    shown = await desk.see(PAGE)
    places = [shown.index(f"Version {version}:") for version in (1, 2, 3)]
    assert places == sorted(places)
    assert "Booking B-2: UPDATED → CANCELLED" in shown
    for part in ("Canal Cruise", "2026-08-20 09:30+02:00", "2 Adult", ">late<", ">newest<", "copies: 1"):
        assert part in shown
    assert ("read", "order", "console", None) in await audit(desk.client)


async def test_a_notification_stands_beside_the_order(desk):
    await arrive(desk.client, notification("ORDER_UPDATE"))
    shown = await desk.see(PAGE)
    assert "A notification without the order itself." in shown
    assert "Only notifications without the order itself have arrived." in shown


async def test_without_the_scope_to_read_the_timeline_has_no_contents_and_nothing_was_read(signed_in):
    onlooker = await signed_in("onlooker")
    await arrive(onlooker.client, order(1, order_bookings=[booking("CONFIRMED")]), order(2))
    shown = await onlooker.see(PAGE)
    assert "Version 2:" in shown
    for hidden in ("Canal Cruise", "B-2", "Replay from here on", "Erase this order"):
        assert hidden not in shown
    assert [each[0] for each in await audit(onlooker.client)] == ["sign_in"]


async def test_what_an_order_says_is_shown_as_text(desk):
    status, title = f"BOOKING_{HOSTILE}", HOSTILE
    await arrive(
        desk.client,
        order(1, order_bookings=[booking("CONFIRMED")], order_external_reference=HOSTILE),
        order(2, order_bookings=[booking("", booking_status=status, product_title=title)], **{HOSTILE: HOSTILE}),
    )
    shown = await desk.see(PAGE)
    assert "<script>alert" not in shown
    assert "\u202e" not in shown
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;\\u202e\\u2028x" in shown


@pytest.mark.parametrize("state", [None, [], "x", 7, {"order_bookings": 1}, {"order_bookings": [None, [], {"a": {}}]}])
async def test_an_order_that_is_odd_has_a_page(desk, state):
    body = {"data": {"order": {"order_reference": "PRI9", "x": state, **(state if isinstance(state, dict) else {})}}}
    await arrive(desk.client, json.dumps(body).encode())
    assert "PRI9" in await desk.see("/console/orders/PRI9")


async def test_nobody_is_up_to_date_while_no_worker_has_looked_at_the_newest_event(desk, erp):
    await arrive(desk.client, order(1))
    await erp.dispatch({"erp": ["*"]})
    (claim,) = (await erp.turn()).claims
    await erp.turn(erp.ended(claim, 200))
    assert "Has the newest event." in await desk.see(PAGE)
    await arrive(desk.client, order(2))
    shown = await desk.see(PAGE)
    assert "Has the newest event." not in shown
    assert "No worker has looked at the newest event yet." in shown
    assert "No worker has looked at it yet, so it has no deliveries." in shown
    await erp.dispatch({"erp": ["OTHER"]})
    assert "Has the newest event." in await desk.see(PAGE)


async def test_the_status_of_an_order_cannot_turn_the_text_around_it(desk):
    await arrive(desk.client, order(1, order_status="ORDER_A\u202eB"))
    assert "\u202e" not in await desk.see(PAGE)


async def test_why_a_destination_lacks_an_order_stands_on_top(desk, erp, engine):
    await arrive(desk.client, order(1), order(2))
    await erp.dispatch({"erp": ["*"]})
    shown = await desk.see(PAGE)
    assert re.search(r"On its way\..*This delivery</a> is first.*waiting behind it: 1", shown, re.DOTALL)
    assert "No event was for it." in shown  # of the other destination
    (claim,) = (await erp.turn()).claims
    await erp.turn(erp.ended(claim, 500))
    shown = await desk.see(PAGE)
    assert "Failing: attempt 1 met 500" in shown
    assert "the delivery of an earlier event" in shown


async def test_an_unknown_order_says_what_to_do(desk):
    shown = await desk.see("/console/orders/NOTHING", status=404)
    assert "look among the quarantined events" in shown


async def test_an_order_is_replayed_from_one_event_on(desk, erp):
    await arrive(desk.client, order(1), order(3), order(2))
    shown = await desk.see(PAGE)
    _, second, _ = re.findall(r'name="first" value="([\w-]+)"', shown)
    assert "Delivers 2 events, this one and those after it," in shown
    reply = await desk.send(PAGE, first=second, to="erp", reason="gate 4")
    assert "The replay is running." in await desk.see(reply.headers["Location"])
    assert (await audit(desk.client))[0] == ("replay", "replay", "console", "gate 4")
    found = (await desk.client.get("/api/replays", headers=bearer_header("operator", Scope.REPLAY))).json()
    assert [(each["destination"], each["events"]) for each in found["replays"]] == [("erp", 2)]


@pytest.mark.parametrize("fields", [{}, {"to": "erp"}, {"first": "x", "to": "erp"}])
async def test_a_replay_of_nothing_is_refused(desk, erp, fields):
    await arrive(desk.client, order(1))
    await desk.send(PAGE, status=422, **fields)


async def test_nobody_replays_without_the_scope(signed_in):
    onlooker = await signed_in("onlooker")
    await arrive(onlooker.client, order(1))
    await onlooker.send(PAGE, status=403, first="x", to="erp")


async def test_an_order_is_erased_when_its_reference_was_typed(desk, stored):
    await arrive(desk.client, order(1), order(2))
    fields = {"reference": "PRI/1 %41", "expected": "PRI/1 %41", "reason": "Ticket 4711", "now": "true"}
    await desk.send("/console/erasures", status=422, typed="PRI/1", **fields)
    assert all(event.erased_at is None for event in await stored())
    reply = await desk.send("/console/erasures", status=200, typed="PRI/1 %41", **fields)
    assert "Erased: 2 events" in reply.text
    assert all(event.erased_at and event.body == b"" for event in await stored())
    assert (await audit(desk.client))[0] == ("erase", "erasure", "console", "Ticket 4711")
    assert ">erased<" in await desk.see(PAGE)


async def test_five_hundred_events_are_one_page(desk, engine):
    await fill(engine, *({"reference": "PRI9", "order_version": number} for number in range(501)))
    shown = await desk.see("/console/orders/PRI9")
    assert shown.count("<h3>Version") == 500
    assert "Only the latest are shown." in shown


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        ("done", None, "The order was fetched for it"),
        ("refused", "404: no such order", "not fetched"),
        ("due", None, "The order is fetched at"),
    ],
)
async def test_a_notification_stands_beside_what_was_fetched_for_it(desk, engine, status, error, words):
    note, snapshot = (
        UUID(each)
        for each in await fill(
            engine, {"reference": "PRI9", "shape": "notification"}, {"reference": "PRI9", "shape": "object"}
        )
    )
    fetch = {"id": new_id(), "reference": "PRI9", "status": status, "due_at": NOON, "error": error}
    async with writing(engine) as connection:
        await connection.execute(insert(Fetch).values(**fetch, snapshot_id=snapshot if status == "done" else None))
        await connection.execute(insert(FetchCause).values(event_id=note, fetch_id=fetch["id"]))
        fetched = {"origin": "fetched", "cause": note}
        await connection.execute(update(Event).where(Event.id == snapshot).values(fetched))
    shown = await desk.see("/console/orders/PRI9")
    assert words in shown
    assert (error or words) in shown
    assert f'because of <a href="/console/events/{note}">this notification</a>' in shown
    assert words in await desk.see(f"/console/events/{note}")


async def test_each_destination_says_what_it_lacks_and_why(desk, erp):
    await arrive(desk.client, order(1), order(2))
    await erp.dispatch({"erp": ["*"], "new": ["*"]})
    await erp.pause(paused=True)
    assert "It is paused: nothing is sent to it." in await desk.see(PAGE)
    await erp.pause(paused=False)
    (claim,) = (await erp.turn()).claims
    (claim,) = (await erp.turn(erp.ended(claim, 200))).claims
    assert re.search(r'#event-[\w-]+">version 1</a>', await desk.see(PAGE))
    await erp.turn(erp.ended(claim, 200))
    shown = await desk.see(PAGE)
    assert "Has the newest event." in shown
    assert shown.index("On its way.") < shown.index("Has the newest event.")  # what is behind comes first


async def test_what_was_given_up_is_told(desk, erp):
    await arrive(desk.client, order(1))
    await erp.dispatch()
    async with writing(erp.engine) as connection:
        gone = {"status": "dead", "due_at": None, "attempts": 20, "finished_at": erp.now}
        await connection.execute(update(Delivery).values(gone))
    assert "All attempts failed: it is not tried again." in await desk.see(PAGE)
    (delivery,) = await erp.deliveries()
    async with writing(erp.engine) as connection:
        await drop(connection, delivery.id, now=erp.now)
    assert "Dropped: it is not sent again." in await desk.see(PAGE)

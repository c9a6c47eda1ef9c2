import gzip
import json
from datetime import UTC, datetime

import pytest

from tests.api.test_events import fill
from tests.api.test_orders import arrive, order
from tests.conftest import SECRET, WEBHOOK, basic_header, bearer_header, payload
from tests.console.conftest import sign_in
from tests.console.test_orders import HOSTILE, audit, erp

__all__ = ["erp"]
PLAIN_TEXT = {**basic_header(), "Content-Type": "text/plain"}


async def refuse(client, body: bytes, **headers: str) -> None:
    reply = await client.post(WEBHOOK, content=body, headers={**PLAIN_TEXT, **headers})
    assert reply.status_code in (400, 415, 422)


async def newest(stored) -> str:
    return f"/console/events/{(await stored())[-1].id}"


async def test_the_list_shows_what_became_of_each_event_and_keeps_its_filters(desk, erp, engine):
    await arrive(desk.client, order(1), order(2))
    await erp.dispatch({"erp": ["*"], "new": ["ORDER_*"]})
    shown = await desk.see("/console/events", type="ORDER_CONFIRMED", limit="1", client="")
    assert "/console/events?type=ORDER_CONFIRMED&amp;limit=1&amp;cursor=" in shown
    assert '<option value="ORDER_CONFIRMED">' in shown
    assert "/console/replays/new?type=ORDER_CONFIRMED" in shown
    assert "priohook events export --type ORDER_CONFIRMED" in shown
    row = shown[shown.index("<caption>Newest first") :]
    assert row.index("erp") < row.index("waiting") < row.index("new")


async def test_what_is_typed_into_the_filters_stays_text_and_is_quoted_for_a_shell(desk):
    shown = await desk.see("/console/events", reference="'; rm -rf \"<b>")
    assert "<b>" not in shown
    assert "priohook events export --reference &#39;&#39;&#34;&#39;&#34;&#39;; rm -rf &#34;&lt;b&gt;&#39;" in shown


@pytest.mark.parametrize("page", ["events", "deliveries", "audit", "replays/new"])
async def test_filters_say_that_their_times_are_utc_for_those_in_lists_are_local(desk, page):
    shown = (await desk.see(f"/console/{page}")).lower()
    assert "since (utc)" in shown
    assert "until (utc)" in shown


@pytest.mark.parametrize(
    ("page", "query", "said"),
    [
        ("events", "since=soon", "write 2026-08-12"),
        ("events", "status=odd", "accepted"),
        ("events", "cursor=x", "leave"),
        ("deliveries", "limit=0", "greater than"),
        ("audit", "nonsense=1", "Known: "),
        ("replays/new", "rate=fast", "number"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_400_and_a_page_that_says_what_does(desk, page, query, said):
    shown = await desk.see(f"/console/{page}?{query}", status=400)
    assert query.partition("=")[0] in shown
    assert said in shown
    assert f'<a href="/console/{page}">begin without filters</a>' in shown


async def test_a_page_that_needs_its_filters_does_not_offer_to_begin_without(desk):
    assert "begin without" not in await desk.see("/console/deliveries/group?destination=erp&answer=x", status=400)


async def test_an_event_shows_where_it_came_from_and_where_it_stands(desk, stored):
    await arrive(desk.client, order(1), order(3), order(2))
    one, three, two = await stored()
    shown = await desk.see(f"/console/events/{two.id}")
    assert ">late<" in shown
    for part in (f'rel="prev" href="/console/events/{one.id}"', f'rel="next" href="/console/events/{three.id}"'):
        assert part in shown
    assert f'<a href="/console/events/{three.id}">superseded by a newer one</a>' in shown
    assert two.request_id in shown
    assert f"priohook events show {two.id}" in shown
    assert f"http://priohook/api/events/{two.id}/body" in shown


async def test_a_body_is_shown_when_it_is_asked_for_and_the_audit_knows(desk, stored):
    await arrive(desk.client, order(1), order(2, n=1.50).replace(b"1.5", b"1.50"))
    address = await newest(stored)
    assert "order_version" not in await desk.see(address)
    assert [each[0] for each in await audit(desk.client)] == ["sign_in"]
    shown = await desk.see(address, contents="true", reason="gate 4")
    assert "&#34;n&#34;: 1.50" in shown
    assert "/n: 1.5 added" in shown
    assert "000000  7b 22" in shown
    assert (await audit(desk.client))[0] == ("read", "event", "console", "gate 4")


async def test_the_audit_names_both_bodies_that_were_compared(desk, stored):
    await arrive(desk.client, order(1), order(2))
    one, two = await stored()
    await desk.see(f"/console/events/{two.id}", contents="true")
    entry = (await desk.client.get("/api/audit", headers=bearer_header())).json()["actions"][0]
    assert entry["event_id"] == str(two.id)
    assert entry["details"] == {"bodies": 2, "compared_with": str(one.id)}


async def test_an_address_cannot_turn_the_text_of_a_problem(desk):
    assert "\u202e" not in await desk.see("/console/events?%E2%80%AEdecnuonna=1", status=400)


async def test_a_body_is_downloaded_as_a_file(desk, stored):
    await arrive(desk.client, order(1))
    reply = await desk.client.get(f"{await newest(stored)}/body")
    assert (reply.status_code, reply.content) == (200, order(1))
    assert reply.headers["Content-Disposition"].startswith("attachment;")
    assert (await audit(desk.client))[0] == ("read", "event", "console", None)


async def test_without_the_scope_to_read_no_body_is_shown(signed_in, stored):
    onlooker = await signed_in("onlooker")
    await arrive(onlooker.client, order(1))
    address = await newest(stored)
    shown = await onlooker.see(address)
    assert "accept-encoding" not in shown
    assert "Show the body" not in shown
    assert "Replay it" not in shown
    await onlooker.see(address, status=403, contents="true")
    await onlooker.see(f"{address}/body", status=403)
    await onlooker.send(f"{address}/replay", status=403)
    await onlooker.send(f"{address}/release", status=403)
    await onlooker.send("/console/quarantine", status=403, because="415")
    await onlooker.send("/console/erasures", status=403, ids="x", typed="x", expected="x")
    assert [each[0] for each in await audit(onlooker.client)] == ["sign_in"]


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b'{"data": {"order": oops}}', ["<mark>o</mark>", "Where it is wrong"]),
        (b'{"data": {"order": "', ["<mark>the end</mark>"]),
        (b'{"data": "a\xffb"}', ["<mark>\ufffd</mark>"]),
        (b"\x00\x01\x02\xfe\xff" * 1000, ["00 01 02 fe ff", '<details class="more" open>']),
        (b"", ["0 B stored"]),
        (HOSTILE.encode(), ["&lt;script&gt;", "\\u202e"]),
        (b"[" * 100_000, ["longer than what is shown"]),
        (rb'{"a": "\ud800"}', ["\\ud800"]),
    ],
)
async def test_whatever_was_refused_can_be_looked_at(desk, stored, body, parts):
    reply = await desk.client.post(WEBHOOK, content=body, headers=basic_header())
    assert reply.status_code in (400, 422)
    shown = await desk.see(await newest(stored), contents="true")
    assert "<script>alert" not in shown
    for part in parts:
        assert part in shown


async def test_a_compressed_body_is_shown_decompressed(desk, stored):
    headers = {**basic_header(), "Content-Encoding": "gzip"}
    await desk.client.post(WEBHOOK, content=gzip.compress(order(1)), headers=headers)
    shown = await desk.see(await newest(stored), contents="true")
    assert "compressed with gzip" in shown
    assert "&#34;order_version&#34;: 1" in shown
    assert "000000  1f 8b" in shown


async def test_an_event_that_was_refused_says_why_and_what_it_would_become_and_is_let_in(desk, stored):
    await refuse(desk.client, payload("10-order-payload-cancelled"))
    address = await newest(stored)
    shown = await desk.see(address)
    assert "The content type is not JSON." in shown
    for part in ("If you let it in now", "ORDER_CANCELLED", "PRI26081200417"):
        assert part in shown
    assert (await stored())[0].status == "quarantined"
    reply = await desk.send(f"{address}/release", reason="its sender was misconfigured")
    assert "The event is accepted" in await desk.see(reply.headers["Location"])
    assert (await stored())[0].status == "accepted"
    assert (await audit(desk.client))[0] == ("release", "event", "console", "its sender was misconfigured")


async def test_what_is_a_copy_says_so_before_it_is_released(desk, stored):
    await arrive(desk.client, order(1))
    await refuse(desk.client, order(1))
    first, second = await stored()
    shown = await desk.see(f"/console/events/{second.id}")
    assert f'It is a copy of <a href="/console/events/{first.id}">' in shown
    reply = await desk.send(f"/console/events/{second.id}/release")
    assert "It is a copy of an event" in await desk.see(reply.headers["Location"])


async def test_what_still_cannot_be_read_is_not_offered(desk, stored):
    await refuse(desk.client, b"{")
    address = await newest(stored)
    shown = await desk.see(address)
    assert "It cannot be let in" in shown
    assert "Judge it again" not in shown
    await desk.send(f"{address}/release", status=409)


async def test_what_was_refused_is_grouped_by_reason_and_let_in_at_once(desk, stored):
    for number in range(3):
        await refuse(desk.client, order(number))
    await desk.client.post(WEBHOOK, content=b"{", headers=basic_header())
    await desk.client.post(WEBHOOK, content=b"[1,", headers=basic_header())
    shown = await desk.see("/console/events?status=quarantined")
    assert "Judge 3 events again" in shown
    assert "Judge 2 events again" in shown  # whose details differ
    because = "415: The content type is not JSON. Send Content-Type: application/json."
    assert f"priohook events release --because &#39;{because}&#39;" in shown
    reply = await desk.send("/console/quarantine", status=200, because=because, reason="fixed")
    assert "Judged again: 3 events" in reply.text
    assert [event.status for event in await stored()] == ["accepted"] * 3 + ["quarantined"] * 2
    assert [each[0] for each in await audit(desk.client)] == ["release"] * 3 + ["sign_in"]
    reply = await desk.send("/console/quarantine", status=200, because="400: The body is not JSON.")
    main = reply.text[reply.text.index("<h1>") :]
    assert main.count("1 event: <bdi>The body is not JSON.") == 2, main[:3000]
    assert "ReleasedSome" not in reply.text


async def test_many_are_let_in_step_by_step(desk, stored, monkeypatch):
    monkeypatch.setattr("app.api.quarantine.AT_ONCE", 2)
    for number in range(3):
        await refuse(desk.client, order(number))
    reply = await desk.send("/console/quarantine", status=200, because="415")
    second = (await stored())[1]
    assert f'name="after" value="{second.id}"' in reply.text
    reply = await desk.send("/console/quarantine", status=200, because="415", after=str(second.id))
    assert "Go on" not in reply.text
    assert {event.status for event in await stored()} == {"accepted"}


async def test_nothing_in_quarantine_is_said(desk):
    assert "every webhook was accepted" in await desk.see("/console/events?status=quarantined")


async def test_an_event_is_replayed_to_one_destination_or_all(desk, erp, stored):
    await arrive(desk.client, order(1))
    address = await newest(stored)
    reply = await desk.send(f"{address}/replay", to="erp", reason="again")
    assert "New deliveries were made" in await desk.see(reply.headers["Location"])
    await desk.send(f"{address}/replay")
    assert sorted(each.destination for each in await erp.deliveries()) == ["erp", "erp", "new"]
    assert (await audit(desk.client))[1] == ("replay", "event", "console", "again")
    await desk.send(f"{address}/replay", status=422, to="nowhere")
    await desk.send(f"{address}/replay", status=422, to=["erp"] * 21)


async def test_an_erased_event_says_so(desk, stored):
    await arrive(desk.client, order(1))
    address = await newest(stored)
    event_id = address.rpartition("/")[2]
    await desk.send("/console/erasures", status=200, ids=event_id, expected="PRI/1 %41", typed="PRI/1 %41", now="true")
    shown = await desk.see(address)
    assert "It was erased" in shown
    assert "Show the body" not in shown
    assert "It was erased" in await desk.see(address, contents="true")


async def test_headers_are_shown_as_text(desk, stored):
    await desk.client.post(WEBHOOK, content=order(1), headers=[*basic_header().items(), ("X-Odd", b"<img src=x>\x85")])
    shown = await desk.see(await newest(stored))
    assert "&lt;img src=x&gt;\\x85" in shown


@pytest.mark.parametrize("event_id", ["x", "00000000-0000-7000-8000-000000000000"])
async def test_an_unknown_event_is_404(desk, event_id):
    shown = await desk.see(f"/console/events/{event_id}", status=404)
    assert "GET /api" not in shown


async def test_what_is_looked_for_is_found(desk, erp, engine, stored):
    noon = datetime(2026, 8, 12, 12, tzinfo=UTC)
    first, second = await fill(
        engine,
        {"reference": "PRI/1 %41", "notification_id": "note-1", "received_at": noon},
        {"type": "ORDER_CREATE", "received_at": noon.replace(hour=13)},
    )
    replay = await erp.start()
    await erp.advance()
    delivery = str((await erp.deliveries())[0].id)
    places = {
        "PRI/1 %41": "/console/orders/PRI%2F1%20%2541",
        "note-1": f"/console/events/{first}",
        second: f"/console/events/{second}",
        second[:9].upper(): f"/console/events/{second}",
        str(replay): f"/console/replays/{replay}",
        delivery: f"/console/deliveries/{delivery}",
        delivery.replace("-", "")[:30]: f"/console/deliveries/{delivery}",
        "ORDER_CRE": "/console/events?q=ORDER_CRE",
        "0000000": "/console/events?q=0000000",
        "a" * 300: "/console/events?q=" + "a" * 255,
        "": "/console/events",
        "\0": "/console/events",
    }
    for wanted, place in places.items():
        reply = await desk.client.get("/console/find", params={"q": wanted})
        assert (reply.status_code, reply.headers["Location"]) == (303, place)


async def test_the_types_of_the_list_are_those_that_exist(desk, engine):
    await fill(engine, *({"type": name} for name in ("B", "A", "B", None, "<C>")))
    shown = await desk.see("/console/events")
    options = shown[shown.index("<datalist") : shown.index("</datalist>")]
    assert (
        json.dumps([each for each in ("A", "B", "&lt;C&gt;") if f'value="{each}"' in options])
        == '["A", "B", "&lt;C&gt;"]'
    )


async def test_what_was_not_found_may_never_have_arrived(sqlite_url, start):
    prioticket = {"base_url": "https://sandbox.example", "client_id": "a", "client_secret": SECRET, "api_key": "b"}
    async with start(sqlite_url, prioticket=prioticket) as client:
        await sign_in(client, "desk")
        shown = (await client.get("/console/events", params={"q": "PRI 9"})).text
        assert "priohook prioticket order &#39;PRI 9&#39; --store" in shown


async def test_what_was_refused_is_let_in_by_the_filters_of_the_list(desk, engine, stored):
    refused = {"status": "quarantined", "reason": "415: odd", "body": order(1)}
    last_night = {"received_at": datetime(2026, 8, 12, 2, tzinfo=UTC)}
    await fill(engine, refused, refused | last_night, refused | last_night | {"client": "other"})
    shown = await desk.see("/console/events?status=quarantined&until=2026-08-12T06:00&client=prioticket")
    assert "Judge 1 event again" in shown
    command = (
        "priohook events release --because &#39;415: odd&#39; --client prioticket --until 2026-08-12T06:00:00+00:00"
    )
    assert command in shown
    assert 'name="until" value="2026-08-12T06:00:00+00:00"' in shown
    await desk.send(
        "/console/quarantine", status=200, because="415: odd", client="prioticket", until="2026-08-12T06:00:00+00:00"
    )
    assert sorted((event.client, event.received_at.hour, event.status) for event in await stored()) == [
        ("other", 2, "quarantined"),
        ("prioticket", 2, "accepted"),
        ("prioticket", 12, "quarantined"),
    ]
    assert "Why events were refused" not in await desk.see("/console/events?status=quarantined&q=415")


async def test_what_is_not_delivered_is_erased_only_when_that_was_ticked(desk, erp, stored):
    await arrive(desk.client, order(1))
    await erp.dispatch()
    event_id = (await newest(stored)).rpartition("/")[2]
    await desk.send("/console/erasures", status=409, ids=event_id, expected="x", typed="x")
    assert (await stored())[0].erased_at is None

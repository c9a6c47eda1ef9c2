import re
from datetime import timedelta
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from sqlalchemy import update

from app.database.writing import writing
from app.deliveries.tables import Delivery
from tests.conftest import bearer_header

HOSTILE = '<script>alert("1")</script>\u202e\'"'


async def actions(browser) -> list[tuple[str, str, str, str | None]]:
    """What the audit has of deliveries and destinations, the newest first."""
    found = (await browser.client.get("/api/audit", headers=bearer_header())).json()["actions"]
    return [
        (each["action"], each["channel"], each["client"], each["reason"])
        for each in found
        if each["kind"] in ("delivery", "destination")
    ]


@pytest.fixture
async def held(workers):
    """Three deliveries of one reference, of which the first has failed: their ids."""
    for _ in range(3):
        await workers.store("A&B")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    failed = workers.ended(claim, 500, answer=HOSTILE.encode(), error=HOSTILE)
    await workers.turn(failed, limits=workers.limits._replace(max_in_flight=0))
    return [row.id for row in await workers.deliveries()]


async def dead(workers, number: int = 1) -> list[str]:
    """The ids of deliveries that are dead."""
    for each in range(number):
        await workers.store(f"D{each}")
    await workers.dispatch()
    while {row.status for row in await workers.deliveries()} != {"dead"}:
        ended = [workers.ended(claim, 503) for claim in (await workers.turn()).claims]
        await workers.turn(*ended, limits=workers.limits._replace(max_in_flight=0))
        workers.wait(9 * 3600)
    return [str(row.id) for row in await workers.deliveries()]


async def test_the_tabs_count_each_state_and_lead_to_its_deliveries(desk, held):
    page = await desk.see("/console/deliveries")
    counts = dict(re.findall(r">(\w[\w ]*) <span class=\"count\">(\d+)</span>", page))
    assert counts == {"Failing": "1", "Waiting": "2", "In flight": "0", "Dead": "0", "Dropped": "0"}
    failing = await desk.see("/console/deliveries?failing=true")
    assert str(held[0]) in failing
    assert "/console/deliveries/groups" in failing
    waiting = await desk.see("/console/deliveries?phase=waiting")
    assert waiting.count("waits behind <a") == 2
    assert f'href="/console/deliveries/{held[0]}"' in waiting
    assert "No delivery is dead." in await desk.see("/console/deliveries?status=dead")


async def test_empty_fields_of_the_filters_filter_nothing(desk, held):
    page = await desk.see("/console/deliveries?destination=&reference=A%26B&replay_id=&since=&until=")
    assert page.count("<tr>") == 4
    assert 'class="count"' not in page
    assert "No delivery matches" in await desk.see("/console/deliveries?reference=C")


async def test_older_pages_are_reached_by_links(desk, held):
    page, seen = await desk.see("/console/deliveries?limit=2&destination=erp"), []
    while True:
        seen += re.findall(r'data-name="Made"><a href="/console/deliveries/([\w-]+)"', page)
        older = re.search(r'rel="next" href="([^"]+)"', page)
        if older is None:
            break
        page = await desk.see(older[1].replace("&amp;", "&"))
    assert seen == [str(each) for each in held[::-1]]


async def test_a_delivery_says_how_it_stands_and_what_waits_behind_it(desk, held):
    first, second, _ = held
    page = await desk.see(f"/console/deliveries/{first}")
    assert "1 attempt failed. It waits for attempt 2" in page
    assert "2 deliveries wait behind it." in page
    assert f'href="/console/deliveries/{second}"' in page
    assert f"priohook deliveries retry {first}" in page
    waits = await desk.see(f"/console/deliveries/{second}")
    assert f'waits behind <a href="/console/deliveries/{first}"' in re.sub(r"\s+", " ", waits)
    assert "/retry" not in waits


async def test_what_a_consumer_answered_is_text(desk, held):
    page = await desk.see(f"/console/deliveries/{held[0]}")
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;\\u202e" in page


async def test_a_delivery_is_retried_and_dropped_with_a_reason(desk, held, workers):
    first, second, _ = held
    done = await desk.send(f"/console/deliveries/{first}/retry", reason="It is repaired.")
    assert "The delivery is tried again." in await desk.see(done.headers["Location"])
    await desk.send(f"/console/deliveries/{first}/drop", reason="")
    assert [row.status for row in await workers.deliveries()] == ["dropped", "pending", "pending"]
    assert [row.due_at is None for row in await workers.deliveries()] == [True, False, True]
    assert "Nobody delivers it any more" in await desk.see(f"/console/deliveries/{first}")
    assert await actions(desk) == [
        ("drop", "console", "desk", None),
        ("retry", "console", "desk", "It is repaired."),
    ]
    assert "due since" in await desk.see(f"/console/deliveries/{second}")


async def test_a_dead_delivery_is_pending_again_after_a_retry(desk, workers):
    (only,) = await dead(workers)
    page = await desk.see(f"/console/deliveries/{only}")
    assert "20 attempts failed" in page
    assert "with all its 20 attempts" in page
    assert page.count('data-name="Number"') == 20
    await desk.send(f"/console/deliveries/{only}/retry")
    assert [row.status for row in await workers.deliveries()] == ["pending"]


async def test_what_cannot_be_done_is_said(desk, held, workers):
    refused = await desk.send(f"/console/deliveries/{held[1]}/retry", status=409)
    assert "Its page leads to the one that goes first" in refused.text
    assert await actions(desk) == []
    await desk.see("/console/deliveries/nothing", status=404)
    await desk.send(f"/console/deliveries/{workers.limits.name}/drop", status=404)


async def test_a_client_that_may_not_act_sees_no_button_and_is_refused(signed_in, held):
    onlooker = await signed_in("onlooker")
    page = await onlooker.see(f"/console/deliveries/{held[0]}")
    assert "<summary>Retry" not in page
    assert "alert" not in page.partition("<h2>Attempts")[2].partition("needs the scope")[2]
    assert "needs the scope <code>events:read</code>" in page
    for act in ("retry", "drop"):
        await onlooker.send(f"/console/deliveries/{held[0]}/{act}", status=403)


async def test_groups_lead_from_what_went_wrong_to_a_plan(desk, workers):
    await dead(workers, 3)
    page = await desk.see("/console/deliveries/groups?destination=erp")
    (address,) = re.findall(r'href="(/console/deliveries/group\?[^"]+)"', page)
    plan = await desk.see(address.replace("&amp;", "&"))
    assert "3 dead deliveries to" in plan
    command = "priohook deliveries retry --destination erp --outcome refused --answer 503 --type ORDER_UPDATE"
    assert command in plan
    assert "No delivery fails and none is dead" in await desk.see("/console/deliveries/groups?destination=new")


GROUP = {"destination": "erp", "status": "dead", "outcome": "refused", "answer": "503"}


async def test_a_group_is_retried(desk, workers):
    await dead(workers, 3)
    done = await desk.send("/console/deliveries/group/retry", form=GROUP, reason="It is up again.")
    assert "are pending again" in await desk.see(done.headers["Location"])
    assert "Nothing is left of this group." in await desk.see(done.headers["Location"])
    assert [row.status for row in await workers.deliveries()] == ["pending"] * 3
    assert await actions(desk) == [("retry", "console", "desk", "It is up again.")]
    found = (await desk.client.get("/api/audit", headers=bearer_header())).json()["actions"][0]
    assert found["details"] == {"status": "dead", "outcome": "refused", "answer": 503, "deliveries": 3}


async def test_a_large_group_is_changed_in_steps_and_the_page_says_what_is_left(desk, workers, monkeypatch):
    monkeypatch.setattr("app.api.groups.CHANGED_WITHIN", timedelta(0))
    monkeypatch.setattr("app.deliveries.operations.BATCH", 2)
    monkeypatch.setattr("app.deliveries.batches.BATCH", 2)
    await dead(workers, 3)
    done = await desk.send("/console/deliveries/group/retry", form=GROUP)
    page = await desk.see(done.headers["Location"])
    assert "Some of this group are pending again" in page
    assert "1 dead delivery to" in page
    done = await desk.send("/console/deliveries/group/retry", form=GROUP)
    assert "Nothing is left of this group." in await desk.see(done.headers["Location"])


async def test_a_group_is_dropped_only_after_its_destination_was_typed(desk, workers):
    await dead(workers, 2)
    for typed in ("", "ERP"):
        await desk.send("/console/deliveries/group/drop", status=422, form=GROUP, typed=typed)
    assert [row.status for row in await workers.deliveries()] == ["dead"] * 2
    await desk.send("/console/deliveries/group/drop", form=GROUP, typed="erp")
    assert [row.status for row in await workers.deliveries()] == ["dropped"] * 2


async def test_a_group_of_what_is_tried_again_is_dropped_and_what_waits_goes_on(desk, held, workers):
    group = {"destination": "erp", "status": "pending", "outcome": "refused", "answer": "500"}
    page = await desk.see(f"/console/deliveries/group?{urlencode(group)}")
    assert "1 pending delivery to" in page
    assert "/group/retry" not in page
    await desk.send("/console/deliveries/group/drop", form=group, typed="erp")
    assert [row.status for row in await workers.deliveries()] == ["dropped", "pending", "pending"]


async def test_all_that_is_pending_is_dropped(desk, held, workers):
    await desk.send("/console/deliveries/group/drop", form={"destination": "erp", "status": "pending"}, typed="erp")
    assert {row.status for row in await workers.deliveries()} == {"dropped"}


async def test_what_a_group_is_narrowed_to_is_what_its_forms_change(desk, engine, workers):
    replay = uuid4()
    await dead(workers, 1)
    async with writing(engine) as connection:
        await connection.execute(update(Delivery).values(replay_id=replay))
    group = {**GROUP, "type": "ORDER_UPDATE", "replay": str(replay)}
    page = await desk.see(f"/console/deliveries/group?{urlencode(group)}")
    assert "1 dead delivery to" in page
    forms = page.split("<form")[-2:]
    for form in forms:
        fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))
        assert {name: value for name, value in fields.items() if name != "form_token"} == group


async def test_an_answer_that_no_consumer_gives_is_400(desk):
    await desk.see("/console/deliveries/group?destination=erp&answer=99999999999999999999", status=400)


async def test_a_group_of_no_destination_is_404_and_one_of_no_such_status_is_refused(desk):
    await desk.send("/console/deliveries/group/retry", status=404, destination="other")
    await desk.send("/console/deliveries/group/retry", status=422)
    await desk.see("/console/deliveries/group?destination=erp&status=delivered", status=400)


async def test_a_client_that_may_not_act_cannot_change_a_group(signed_in, workers):
    await dead(workers, 1)
    onlooker = await signed_in("onlooker")
    assert "<summary>" not in await onlooker.see("/console/deliveries/group?destination=erp")
    for act in ("retry", "drop"):
        await onlooker.send(f"/console/deliveries/group/{act}", status=403, form=GROUP, typed="erp")


async def test_a_type_that_is_hostile_is_text_and_breaks_no_page(desk, workers):
    await workers.store(HOSTILE, type=HOSTILE)
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 400), limits=workers.limits._replace(max_in_flight=0))
    (delivery,) = await workers.deliveries()
    for address in ("/console/deliveries", "/console/deliveries/groups", f"/console/deliveries/{delivery.id}"):
        page = await desk.see(address)
        assert "<script>alert" not in page
        assert "\u202e" not in page

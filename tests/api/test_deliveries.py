import re
from uuid import UUID, uuid4

import pytest

from app.deliveries.queries import DeliveryFilter, list_deliveries
from app.settings.clients import Scope
from tests.conftest import bearer_header
from tests.deliveries.test_indexes import assert_uses, full  # noqa: F401

OPERATOR = bearer_header("operator", Scope.REPLAY)
DESTINATIONS = {"erp": {"url": "https://erp.example/hook?key=secret"}, "new": {"url": "https://new.example"}}


@pytest.fixture
async def api(database_url, start):
    async with start(database_url, destinations=DESTINATIONS) as client:
        client.headers.update(OPERATOR)
        yield client


@pytest.fixture
async def dead(workers) -> str:
    """The id of a delivery whose destination answered 500 as often as it is tried."""
    await workers.store("A")
    await workers.dispatch()
    for _ in range(20):
        (claim,) = (await workers.turn()).claims
        await workers.turn(workers.ended(claim, 500, answer=b"broken \xff"))
        workers.wait(9 * 3600)
    (delivery,) = await workers.deliveries()
    return str(delivery.id)


async def ids(api, **query) -> list[UUID]:
    reply = await api.get("/api/deliveries", params=query)
    assert reply.status_code == 200, reply.text
    return [UUID(each["event_id"]) for each in reply.json()["deliveries"]]


async def test_deliveries_are_listed_and_narrowed(api, workers):
    first, second = await workers.store("A"), await workers.store("B")
    await workers.dispatch()
    assert await ids(api) == [second, first]
    assert await ids(api, reference="A") == [first]
    assert await ids(api, event_id=str(second), status="pending") == [second]
    assert await ids(api, destination="erp", status="dropped") == []


async def test_pages_of_deliveries_are_the_whole_list(api, workers):
    events = [await workers.store() for _ in range(5)]
    await workers.dispatch()
    found, following = [], "/api/deliveries?limit=2&destination=erp"
    while following:
        page = (await api.get(following)).json()
        found += [UUID(each["event_id"]) for each in page["deliveries"]]
        following = page["next"]
    assert found == events[::-1]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("query", ["status=lost", "event_id=1", "limit=0", "event=1", "destination=%00"])
async def test_a_parameter_that_cannot_be_used_is_400(api, query):
    assert (await api.get(f"/api/deliveries?{query}")).status_code == 400


async def test_a_delivery_is_shown_with_its_attempts(api, dead):
    shown = (await api.get(f"/api/deliveries/{dead}")).json()
    assert (shown["delivery"]["status"], shown["delivery"]["last_status"]) == ("dead", 500)
    assert [each["number"] for each in shown["attempts"]] == list(range(1, 21))
    assert shown["attempts"][0]["answer"] == "broken \ufffd"


async def test_a_dead_delivery_is_tried_again_or_dropped(api, dead):
    assert (await api.post(f"/api/deliveries/{dead}/retry")).json()["status"] == "pending"
    assert (await api.post(f"/api/deliveries/{dead}/drop")).json()["status"] == "dropped"
    again = await api.post(f"/api/deliveries/{dead}/drop")
    assert (again.status_code, again.json()["error"]) == (409, "CONFLICT")


async def test_one_that_waits_behind_another_is_not_retried_and_the_answer_says_where_that_is(api, workers):
    for _ in range(2):
        await workers.store("A&B")
    await workers.dispatch()
    (waiting,) = [row.id for row in await workers.deliveries() if row.due_at is None]
    reply = await api.post(f"/api/deliveries/{waiting}/retry")
    assert reply.status_code == 409
    where = re.search(r"GET (\S+)", reply.json()["error_description"])
    assert where
    listed = (await api.get(where[1])).json()["deliveries"]
    assert [each["due_at"] is None for each in listed] == [True, False]


@pytest.mark.parametrize("url", ["/{}", "/{}/retry", "/{}/drop"])
async def test_an_unknown_delivery_is_404(api, url):
    method = "POST" if url[3:] else "GET"
    for delivery_id in (uuid4(), "nothing"):
        assert (await api.request(method, "/api/deliveries" + url.format(delivery_id))).status_code == 404


async def test_destinations_have_queues_and_no_urls(api, workers):
    await workers.store()
    await workers.dispatch()
    await workers.store()
    reply = await api.get("/api/destinations")
    assert reply.json()["undispatched"] == 1
    erp, new = reply.json()["destinations"]
    assert (erp["name"], erp["pending"], erp["configured"]) == ("erp", 1, True)
    assert (new["name"], new["since"], new["dead"]) == ("new", None, 0)
    assert "secret" not in reply.text


async def test_a_destination_is_paused_and_resumed(api, workers):
    paused = await api.post("/api/destinations/erp/pause", json={"reason": "Upgrade."})
    assert (paused.status_code, paused.json()["paused_reason"]) == (200, "Upgrade.")
    assert (await workers.destination()).paused_at is not None
    assert (await api.post("/api/destinations/erp/resume")).json()["paused_at"] is None


async def test_a_pause_without_a_reason_says_who_asked(api):
    paused = await api.post("/api/destinations/new/pause")
    assert paused.json()["paused_reason"] == "Paused by operator over the API."


@pytest.mark.parametrize("name", ["other", "erp/", "%00", "ERP"])
@pytest.mark.parametrize("control", ["pause", "resume"])
async def test_an_unknown_destination_is_404(api, name, control):
    assert (await api.post(f"/api/destinations/{name}/{control}")).status_code == 404


async def test_a_destination_that_is_a_url_can_be_paused(api, workers):
    await workers.register("http://laptop:8080/hook")
    paused = await api.post("/api/destinations/http:%2F%2Flaptop:8080/hook/pause")
    assert paused.json()["name"] == "http://laptop:8080/hook"


async def test_a_body_may_begin_with_a_byte_order_mark(api, workers):
    await workers.register("erp")
    content = b'\xef\xbb\xbf{"reason": "moving"}'
    reply = await api.post("/api/destinations/erp/pause", content=content, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["paused_reason"]) == (200, "moving")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 422),
        (b'{"reason": ""}', "application/json", 422),
        (b'{"url": "http://169.254.169.254"}', "application/json", 422),
        (b"{}", "text/plain", 415),
        (b" " * (1024 * 1024 + 1), "application/json", 413),
    ],
)
async def test_a_body_that_cannot_be_used_is_refused(api, content, content_type, status):
    reply = await api.post("/api/destinations/erp/pause", content=content, headers={"Content-Type": content_type})
    assert reply.status_code == status
    assert reply.json()["error_reference"] == reply.headers["X-Request-Id"]


async def test_each_list_of_deliveries_has_its_index(full):  # noqa: F811
    async with full.engine.connect() as connection:
        for narrowed, index in (
            (DeliveryFilter(destination="other"), r"ix_deliveries_d\w*"),
            (DeliveryFilter(status="dropped"), "ix_deliveries_dropped"),
        ):
            await assert_uses(full, list_deliveries(connection, narrowed, limit=50), index)


async def test_a_reader_sees_no_deliveries(api):
    for url in ("/api/deliveries", "/api/destinations", "/api/replays"):
        assert (await api.get(url, headers=bearer_header())).status_code == 403


async def test_failures_are_listed_in_groups_with_an_example(api, dead):
    (group,) = (await api.get("/api/deliveries/groups")).json()["groups"]
    assert (group["destination"], group["status"], group["deliveries"]) == ("erp", "dead", 1)
    assert (group["last_result"], group["last_status"], group["type"]) == ("refused", 500, "ORDER_UPDATE")
    assert group["first"] == dead
    assert (await api.get("/api/deliveries/groups?destination=new")).json() == {"groups": []}

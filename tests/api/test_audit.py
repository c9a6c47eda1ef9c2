import pytest
from sqlalchemy import text

from app.settings.clients import Scope
from tests.conftest import WEBHOOK, basic_header, bearer_header, payload

OPERATOR = bearer_header("operator", Scope.READ, Scope.REPLAY)
ORDER = payload("08-order-payload-confirmed")
REFUSE = {
    "sqlite": "CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'refused'); END",
    "postgresql": "ALTER TABLE audit ADD CONSTRAINT refuse CHECK (position < 0) NOT VALID",
}
ALLOW = {"sqlite": "DROP TRIGGER refuse", "postgresql": "ALTER TABLE audit DROP CONSTRAINT refuse"}


@pytest.fixture
async def api(client):
    client.headers.update(OPERATOR)
    return client


async def post(api) -> str:
    reply = await api.post(WEBHOOK, content=ORDER, headers=basic_header())
    return str(reply.headers["Event-Id"])


async def actions(api, **query):
    reply = await api.get("/api/audit", params=query)
    assert reply.status_code == 200, reply.text
    return [each["position"] for each in reply.json()["actions"]]


@pytest.fixture
async def refusing(engine):
    """The database takes no rows of the audit."""
    async with engine.begin() as connection:
        await connection.execute(text(REFUSE[engine.dialect.name]))
    yield
    async with engine.begin() as connection:
        await connection.execute(text(ALLOW[engine.dialect.name]))


@pytest.mark.usefixtures("refusing")
async def test_no_body_goes_out_without_its_row(api):
    event_id = await post(api)
    reference = (await api.get(f"/api/events/{event_id}")).json()["reference"]
    for path in (f"/api/events/{event_id}/body", f"/api/orders/{reference}"):
        reply = await api.get(path)
        assert (reply.status_code, b"order_contacts" in reply.content) == (500, False)


@pytest.mark.usefixtures("refusing")
async def test_nothing_is_done_without_its_row(api, workers):
    await post(api)
    await workers.dispatch()
    (delivery,) = (await api.get("/api/deliveries")).json()["deliveries"]
    assert (await api.post(f"/api/deliveries/{delivery['id']}/drop")).status_code == 500
    assert (await api.post("/api/destinations/erp/pause")).status_code == 500
    (after,) = (await api.get("/api/deliveries")).json()["deliveries"]
    assert after["status"] == "pending"
    assert (await api.get("/api/destinations")).json()["destinations"][0]["paused_at"] is None


async def test_an_acknowledgement_writes_no_row(api):
    await post(api)
    assert await actions(api) == []


async def test_what_sends_no_body_is_no_reading(api):
    path = f"/api/events/{await post(api)}/body"
    tag = (await api.get(path)).headers["ETag"]
    assert (await api.head(path)).status_code == 200
    assert (await api.get(path, headers={"If-None-Match": tag})).status_code == 304
    assert await actions(api) == [1]


async def test_pages_continue_each_other(api):
    path = f"/api/events/{await post(api)}/body"
    for _ in range(5):
        await api.get(path)
    first = (await api.get("/api/audit", params={"limit": 2, "action": "read"})).json()
    second = (await api.get(first["next"])).json()
    last = (await api.get(second["next"])).json()
    pages = [[each["position"] for each in page["actions"]] for page in (first, second, last)]
    assert (pages, last["next"]) == ([[5, 4], [3, 2], [1]], None)


async def test_filters_select_actions(api):
    event_id = await post(api)
    reference = (await api.get(f"/api/events/{event_id}")).json()["reference"]
    await api.get(f"/api/events/{event_id}/body", params={"reason": "ticket 7"})
    await api.get(f"/api/orders/{reference}")
    assert await actions(api, event_id=event_id) == await actions(api, kind="event") == [1]
    assert await actions(api, reference=reference) == [2, 1]
    assert await actions(api, target=reference, client="operator", channel="api") == [2]
    assert await actions(api, channel="cli") == await actions(api, until="2026-01-01") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("query", [{"action": "dance"}, {"unknown": "1"}, {"cursor": "1"}, {"since": "yesterday"}])
async def test_a_filter_that_is_not_one_is_400(api, query):
    assert (await api.get("/api/audit", params=query)).status_code == 400


async def test_an_action_is_logged_with_its_place_in_the_chain_and_without_its_reason(database_url, start, lines):
    async with start(database_url) as api:
        api.headers.update(OPERATOR)
        await api.get(f"/api/events/{await post(api)}/body", params={"reason": "for Jan"})
        (row,) = (await api.get("/api/audit")).json()["actions"]
    (line,) = [each for each in lines() if each["event"] == "action"]
    assert [line[name] for name in ("action", "position", "hash")] == ["read", 1, row["hash"]]
    assert "Jan" not in str(line)

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from app.api.plans import MOST_PLANS
from app.events.ids import new_id
from app.settings.clients import Scope
from tests.conftest import bearer_header

OPERATOR = bearer_header("operator", Scope.REPLAY)
WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'events'::regclass")
UNKNOWN = "01987f6e-0000-7000-8000-0000000000ff"  # a fixed one: each test process must name the tests alike
DESTINATIONS = {"erp": {"url": "https://erp.example"}}


@pytest.fixture
async def api(database_url, start):
    async with start(database_url, destinations=DESTINATIONS) as client:
        client.headers.update(OPERATOR)
        yield client


@pytest.fixture
async def three(workers) -> list[str]:
    """Two events of one type, one of another, and one in quarantine that is not counted."""
    await workers.store(status="quarantined", reason="400", type=None)
    types = ("ORDER_CREATE", "ORDER_CANCEL", "ORDER_CREATE")
    return [str(await workers.store("A", type=each)) for each in types]


async def test_a_dry_run_is_the_plan_alone(api, workers, three):
    reply = await api.post("/api/replays", json={"filter": {}, "dry_run": True, "rate": 10})
    assert reply.status_code == 200
    assert reply.json()["plan"] | {"oldest": 0, "newest": 0} == {
        "events": 3,
        "types": {"ORDER_CANCEL": 1, "ORDER_CREATE": 2},
        "oldest": 0,
        "newest": 0,
        "quarantined": 1,
        "erased": 0,
    }
    assert (reply.json()["to"], reply.json()["seconds"], reply.json()["replay"]) == ("erp", 0.3, None)
    assert await workers.replays() == []


async def test_a_replay_is_started_only_if_as_many_events_match_as_the_plan_said(api, workers, three):
    reply = await api.post("/api/replays", json={"filter": {}, "expected": 4})
    assert (reply.status_code, reply.json()["error_description"]) == (409, "Nothing was started. Look at the new plan.")
    assert await workers.replays() == []
    assert (await api.post("/api/replays", json={"filter": {}, "expected": 3})).status_code == 202


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_no_more_plans_than_a_few_are_counted_at_once(api, workers, three):
    wanted = {"filter": {}, "dry_run": True}
    async with workers.engine.connect() as locking, workers.engine.connect() as looking:
        await locking.execute(text("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
        counting = [asyncio.create_task(api.post("/api/replays", json=wanted)) for _ in range(MOST_PLANS)]
        async with asyncio.timeout(60):
            while await looking.scalar(WAITING) < MOST_PLANS:  # noqa: ASYNC110 - of the database
                await asyncio.sleep(0.05)
        reply = await api.post("/api/replays", json=wanted)
        assert (reply.status_code, reply.json()["error_message"]) == (503, "Other replays are being planned.")
        assert reply.headers["Retry-After"]
        await locking.rollback()
        assert {(await each).status_code for each in counting} == {200}
    assert (await api.post("/api/replays", json=wanted)).status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        {f"field{number}": 1 for number in range(1000)},
        {"filter": {f"field{number}": 1 for number in range(1000)}},
    ],
)
async def test_fields_beyond_those_there_are_are_not_even_looked_at(api, wanted):
    reply = await api.post("/api/replays", json=wanted)
    assert reply.status_code == 422
    assert reply.json()["error_message"].endswith("has too many fields.")


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ({"filter": {"type": "ORDER_CREATE", "since": "2026-08-12", "status": "accepted"}}, [0, 2]),
        ({"ids": [2, 1]}, [1, 2]),
    ],
)
async def test_a_replay_is_started_and_workers_carry_it_out(api, workers, three, wanted, places):
    if "ids" in wanted:
        wanted = {"ids": [three[place] for place in wanted["ids"]]}
    reply = await api.post("/api/replays", json={**wanted, "to": "erp", "rate": 1000})
    assert reply.status_code == 202
    assert reply.headers["Location"] == f"/api/replays/{reply.json()['replay']['id']}"
    while (await workers.advance()).made:
        workers.wait(1)
    assert [str(each.event_id) for each in await workers.deliveries()] == [three[place] for place in places]
    shown = (await api.get(reply.headers["Location"])).json()
    assert (shown["made"], shown["pending"], shown["status"]) == (2, 2, "running")


async def test_a_replay_is_paused_resumed_and_cancelled(api, three):
    at = (await api.post("/api/replays", json={"filter": {}})).headers["Location"]
    for control, status in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        reply = await api.post(f"{at}/{control}")
        assert (reply.status_code, reply.json()["status"]) == (200, status)
    for control in ("pause", "resume", "cancel"):
        reply = await api.post(f"{at}/{control}")
        assert (reply.status_code, reply.json()["error"]) == (409, "CONFLICT")
        assert reply.json()["error_message"].endswith(" is cancelled.")
        assert reply.json()["error_description"] == "POST /api/replays starts a new one."


async def test_replays_are_listed_newest_first_in_pages(api, three):
    made = [(await api.post("/api/replays", json={"filter": {}})).json()["replay"]["id"] for _ in range(3)]
    found, following = [], "/api/replays?limit=2"
    while following:
        page = (await api.get(following)).json()
        found += [each["id"] for each in page["replays"]]
        following = page["next"]
    assert found == made[::-1]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "either filter or ids"),
        ({"filter": {}, "ids": [str(new_id())]}, "not both"),
        ({"ids": []}, "field ids"),
        ({"ids": ["nothing"]}, "field ids.0"),
        ({"ids": [str(new_id())] * 10_001}, "field ids"),
        ({"filter": {"typ": "A"}}, "field filter.typ"),
        ({"filter": {"since": 1}}, "field filter.since"),
        ({"filter": {}, "rate": 0}, "field rate"),
        ({"filter": {}, "to": "other"}, "no destination other"),
        ({"filter": {}, "to": "http://169.254.169.254/"}, "no destination http"),
        ({"filter": {}, "url": "http://169.254.169.254/"}, "field url"),
    ],
)
async def test_what_cannot_be_asked_for_is_422_and_named(api, three, wanted, message):
    reply = await api.post("/api/replays", json=wanted)
    assert (reply.status_code, reply.json()["error"]) == (422, "UNPROCESSABLE_ENTITY")
    assert message in reply.json()["error_message"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"filter": {"type": "NONE"}}, "No accepted event"),
        ({"filter": {"status": "quarantined"}}, "Quarantined events are not replayed."),
        ({"ids": [UNKNOWN]}, f"Unknown event id: {UNKNOWN}."),
        ({"ids": [UNKNOWN, str(new_id())]}, f"Unknown event id: {UNKNOWN} and 1 more."),
    ],
)
async def test_nothing_to_replay_is_409_and_says_why(api, three, wanted, message):
    reply = await api.post("/api/replays", json=wanted)
    assert (reply.status_code, message in reply.json()["error_message"]) == (409, True)


async def test_with_several_destinations_one_must_be_named(database_url, start, three):
    two = {"a": {"url": "https://a.example"}, "b": {"url": "https://b.example"}}
    async with start(database_url, destinations=two) as api:
        reply = await api.post("/api/replays", json={"filter": {}}, headers=OPERATOR)
        assert reply.status_code == 422
        named = await api.post("/api/replays", json={"filter": {}, "to": "b"}, headers=OPERATOR)
        assert named.json()["replay"]["destination"] == "b"


async def test_a_body_that_does_not_arrive_in_time_is_408(database_url, serve):
    async def receive():
        await asyncio.Event().wait()

    async with serve(database_url, body_timeout=timedelta(seconds=0.05)) as app:
        sent = []

        async def send(message):
            sent.append(message)

        headers = [(b"authorization", OPERATOR["Authorization"].encode())]
        scope = {"type": "http", "method": "POST", "path": "/api/replays", "query_string": b"", "headers": headers}
        async with asyncio.timeout(9):  # less than the default
            await app(scope, receive, send)
    assert sent[0]["status"] == 408


async def test_an_unknown_replay_is_404(api):
    for replay_id in (uuid4(), "nothing"):
        assert (await api.get(f"/api/replays/{replay_id}")).status_code == 404
        assert (await api.post(f"/api/replays/{replay_id}/cancel")).status_code == 404


async def test_the_urls_of_one_path_share_their_allow(api):
    reply = await api.delete("/api/replays")
    assert (reply.status_code, reply.headers["Allow"]) == (405, "GET, HEAD, POST")

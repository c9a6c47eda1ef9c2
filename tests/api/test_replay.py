import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import update

from app.api.replay import MOST_WAITING
from app.database.writing import writing
from app.deliveries.registering import register
from app.deliveries.tables import AttemptResult, Destination
from app.settings.clients import Scope
from tests.conftest import bearer_header

OPERATOR = bearer_header("operator", Scope.REPLAY)
DESTINATIONS = {
    "erp": {"url": "https://erp.example", "events": ["ORDER_*"], "timeout": 0.1},
    "crm": {"url": "https://crm.example", "events": ["CONTACT_*"]},
}


@pytest.fixture
async def api(database_url, start):
    async with start(database_url, destinations=DESTINATIONS) as client:
        client.headers.update(OPERATOR)
        yield client


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A worker of a busy machine has its turn before a wait ends."""
    monkeypatch.setattr("app.api.replay.MARGIN", timedelta(minutes=1))


@pytest.fixture
def short(monkeypatch):
    """Waits take some seconds, in which a worker of a busy machine has its turn."""
    monkeypatch.setattr("app.api.replay.MARGIN", timedelta(seconds=3))


async def answering(workers, status, **more):
    """A worker that takes one delivery, and whose destination answers so; `later` for no answer yet."""
    claims: list[Any] = []
    while not claims:
        await asyncio.sleep(0.02)
        workers.now = datetime.now(UTC)
        claims = list((await workers.turn()).claims)
    if status != "later":
        await workers.turn(workers.ended(claims[0], status, **more))


async def waited(api, workers, event_id, outcome=None, **more):
    worker = asyncio.create_task(answering(workers, outcome, **more))
    reply = await api.post(f"/api/events/{event_id}/replay?wait=true")
    await worker
    return reply


async def test_a_replay_goes_to_every_destination_that_wants_the_type(api, workers):
    event_id = await workers.store("A")
    reply = await api.post(f"/api/events/{event_id}/replay")
    assert reply.status_code == 202
    (delivery,) = reply.json()["deliveries"]
    assert (delivery["destination"], delivery["event_id"], delivery["status"]) == ("erp", str(event_id), "pending")
    assert delivery["replay_id"] is not None


async def test_a_replay_goes_where_it_is_told(api, workers):
    event_id = await workers.store("A")
    reply = await api.post(f"/api/events/{event_id}/replay?to=crm&to=erp")
    assert [each["destination"] for each in reply.json()["deliveries"]] == ["crm", "erp"]


async def test_each_replay_is_a_new_delivery_behind_the_others_of_its_reference(api, workers):
    event_id = await workers.store("A")
    for _ in range(2):
        assert (await api.post(f"/api/events/{event_id}/replay")).status_code == 202
    first, second = await workers.deliveries()
    assert (first.due_at is None) != (second.due_at is None)


async def test_the_replay_ends_with_its_delivery(api, workers):
    event_id = await workers.store("A")
    reply = await waited(api, workers, event_id, 200)
    workers.wait(2)
    await workers.advance()
    shown = await api.get(f"/api/replays/{reply.json()['deliveries'][0]['replay_id']}")
    assert (shown.json()["status"], shown.json()["delivered_or_dropped"]) == ("done", 1)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ((204, None, AttemptResult.DELIVERED), 200),
        ((500, None, AttemptResult.REFUSED), 502),
        ((404, None, AttemptResult.REFUSED), 502),
        ((None, "OSError: refused", AttemptResult.UNREACHABLE), 502),
        ((None, "It did not answer within 1 seconds.", AttemptResult.TIMED_OUT), 504),
    ],
)
async def test_a_replay_that_waits_tells_what_the_destination_did_200_502_or_504(api, workers, outcome, expected):
    status, error, result = outcome
    reply = await waited(api, workers, await workers.store("A"), status, error=error, result=result)
    assert reply.status_code == expected
    assert (await workers.deliveries())[0].status == ("delivered" if expected == 200 else "pending")


async def test_a_bad_answer_names_the_destination_and_where_to_look(api, workers):
    reply = await waited(api, workers, await workers.store("A"), 500)
    (delivery,) = await workers.deliveries()
    assert (reply.json()["error"], reply.json()["error_message"]) == ("BAD_GATEWAY", "Destination erp answered 500.")
    assert f"/api/deliveries/{delivery.id}" in reply.json()["error_description"]


async def test_no_more_requests_than_a_few_wait_at_once_and_the_next_makes_nothing(api, workers):
    event_id = await workers.store("A")
    url = f"/api/events/{event_id}/replay?wait=true"
    waiting = [asyncio.create_task(api.post(url)) for _ in range(MOST_WAITING)]
    try:
        async with asyncio.timeout(60):
            while len(await workers.deliveries()) < MOST_WAITING:  # noqa: ASYNC110 - of the database
                await asyncio.sleep(0.05)
        reply = await api.post(url)
        assert (reply.status_code, reply.json()["error_message"]) == (503, "Too many requests wait for a destination.")
        assert len(await workers.deliveries()) == MOST_WAITING
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_destination_that_has_not_answered_yet_is_504(api, workers, short):
    reply = await waited(api, workers, await workers.store("A"), "later")
    assert reply.status_code == 504


async def test_a_delivery_that_no_worker_took_is_our_own_trouble(api, workers, short):
    reply = await api.post(f"/api/events/{await workers.store('A')}/replay?wait=true")
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "10")


async def test_a_destination_that_has_failed_for_long_is_502_at_once(api, workers):
    event_id = await workers.store("A")
    async with writing(workers.engine) as connection:
        await connection.execute(update(Destination).values(failing_since=workers.now, probe_at=workers.now))
    reply = await api.post(f"/api/events/{event_id}/replay?wait=true")
    assert (reply.status_code, "has failed since" in reply.json()["error_message"]) == (502, True)
    assert len(await workers.deliveries()) == 1


async def test_nobody_waits_for_a_paused_destination(api, workers):
    event_id = await workers.store("A")
    await workers.pause(paused=True)
    reply = await api.post(f"/api/events/{event_id}/replay?wait=true")
    assert (reply.status_code, "paused" in reply.json()["error_message"]) == (409, True)
    assert await workers.deliveries() == []
    assert (await api.post(f"/api/events/{event_id}/replay")).status_code == 202


async def test_a_replay_of_a_quarantined_event_is_409(api, workers):
    event_id = await workers.store(status="quarantined", reason="400")
    reply = await api.post(f"/api/events/{event_id}/replay")
    assert (reply.status_code, f"/api/events/{event_id}/release" in reply.json()["error_description"]) == (409, True)


async def test_an_event_that_nothing_wants_is_409(api, workers):
    event_id = await workers.store(type="PRODUCT_UPDATE")
    reply = await api.post(f"/api/events/{event_id}/replay")
    assert (reply.status_code, "No destination wants" in reply.json()["error_message"]) == (409, True)


@pytest.mark.parametrize("to", ["other", "http://169.254.169.254/", "python:os:system"])
async def test_a_request_can_name_known_destinations_only(api, workers, to):
    reply = await api.post(f"/api/events/{await workers.store('A')}/replay", params={"to": to})
    assert (reply.status_code, reply.json()["error"]) == (422, "UNPROCESSABLE_ENTITY")
    assert await workers.deliveries() == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("query", ["wait=perhaps", "to=", "to=erp&wait=true&wait=true", "url=http://a"])
async def test_a_parameter_that_cannot_be_used_is_400(api, workers, query):
    assert (await api.post(f"/api/events/{await workers.store('A')}/replay?{query}")).status_code == 400


async def test_an_unknown_event_is_404(api):
    for event_id in (uuid4(), "nothing"):
        assert (await api.post(f"/api/events/{event_id}/replay")).status_code == 404


async def test_a_destination_with_a_url_of_its_own_is_an_operators_and_no_requests(api, workers):
    event_id = await workers.store("A")
    await with_url(workers, "https://laptop.example#1")
    reply = await api.post(f"/api/events/{event_id}/replay?to=https%3A%2F%2Flaptop.example%231")
    assert reply.status_code == 422
    filtered = {"filter": {}, "to": "https://laptop.example#1"}
    assert (await api.post("/api/replays", json=filtered)).status_code == 422
    assert await workers.deliveries() == []


async def test_what_waits_behind_a_failing_delivery_is_502(api, workers, short):
    event_id = await workers.store("A")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 500))
    reply = await api.post(f"/api/events/{event_id}/replay?wait=true")
    assert reply.status_code == 502
    assert "an earlier delivery of A" in reply.json()["error_message"]


async def with_url(workers, name):
    async with writing(workers.engine) as connection:
        await register(connection, [name], now=workers.now)
        await connection.execute(
            update(Destination).where(Destination.name == name).values(url="https://laptop.example/in")
        )

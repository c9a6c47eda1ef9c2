import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

import pytest

from app.api import erasures
from app.events.rows import Row
from app.events.spool_file import SpoolFile
from app.settings.clients import Scope
from tests.conftest import WEBHOOK, basic_header, bearer_header, payload
from tests.events.stores import new_event

OFFICER = bearer_header("officer", Scope.READ, Scope.REPLAY, Scope.ERASE)
ORDER = payload("08-order-payload-confirmed")
DESTINATIONS = {"erp": {"url": "https://erp.example"}}


@pytest.fixture
async def api(database_url, start):
    async with start(database_url) as client:
        client.headers.update(OFFICER)
        yield client


async def post(api, content: bytes = ORDER) -> str:
    reply = await api.post(WEBHOOK, content=content, headers=basic_header())
    assert reply.status_code == 200
    return str(reply.headers["Event-Id"])


async def reference_of(api, event_id: str) -> str:
    return str((await api.get(f"/api/events/{event_id}")).json()["reference"])


async def erase(api, **wanted):
    return await api.post("/api/erasures", json=wanted)


async def test_an_erasure_gives_a_receipt_with_counts_and_hashes(api):
    event_id = await post(api)
    reply = await erase(api, reference=await reference_of(api, event_id))
    assert reply.status_code == 202, reply.text
    receipt = reply.json()
    assert receipt["bodies"] == [{"event_id": event_id, "sha256": sha256(ORDER).hexdigest()}]
    assert [receipt[name] for name in ("events", "erased_before", "bytes", "dropped")] == [1, 0, len(ORDER), 0]
    assert receipt["left"]
    (row,) = (await api.get("/api/audit", params={"action": "erase"})).json()["actions"]
    assert (row["target"], row["details"]["sha256"]) == (receipt["erasure_id"], receipt["sha256"])


async def test_the_body_of_an_erased_event_is_gone(api):
    event_id = await post(api)
    tag = (await api.get(f"/api/events/{event_id}/body")).headers["ETag"]
    await erase(api, ids=[event_id])
    for headers in ({}, {"If-None-Match": tag}):
        reply = await api.get(f"/api/events/{event_id}/body", headers=headers)
        assert (reply.status_code, reply.json()["error"]) == (410, "GONE")
    shown = (await api.get(f"/api/events/{event_id}")).json()
    assert (shown["erased_at"] is not None, shown["headers"]) == (True, [["content-length", str(len(ORDER))]])


async def test_the_order_shows_nothing_of_an_erased_body(api):
    event_id = await post(api)
    reference = await reference_of(api, event_id)
    await erase(api, reference=reference)
    order = (await api.get(f"/api/orders/{reference}")).json()
    assert (order["state"], order["compared"], order["not_compared"], len(order["events"])) == (None, 0, 0, 1)


async def test_a_later_copy_is_answered_with_the_id_and_counted(api):
    event_id = await post(api)
    await erase(api, ids=[event_id])
    assert await post(api) == event_id
    assert (await api.get(f"/api/events/{event_id}")).json()["duplicates"] == 1
    assert (await api.get(f"/api/events/{event_id}/body")).status_code == 410


async def test_an_erased_event_is_not_replayed(database_url, start):
    async with start(database_url, destinations=DESTINATIONS) as api:
        api.headers.update(OFFICER)
        event_id = await post(api)
        await erase(api, ids=[event_id], now=True)
        reply = await api.post(f"/api/events/{event_id}/replay")
        assert (reply.status_code, "was erased" in reply.json()["error_message"]) == (409, True)
        dry = await api.post("/api/replays", json={"filter": {}, "dry_run": True})
        assert (dry.json()["plan"]["events"], dry.json()["plan"]["erased"]) == (0, 1)
        by_id = await api.post("/api/replays", json={"ids": [event_id]})
        assert by_id.status_code == 409


async def test_what_is_not_delivered_is_dropped_only_with_now(api, workers):
    event_id = await post(api)
    await workers.dispatch()
    refused = await erase(api, ids=[event_id])
    assert (refused.status_code, "now: true" in refused.json()["error_description"]) == (409, True)
    assert (await api.get(f"/api/events/{event_id}/body")).status_code == 200
    done = await erase(api, ids=[event_id], now=True)
    assert (done.status_code, done.json()["dropped"]) == (202, 1)


async def test_what_is_being_sent_is_not_erased(api, workers):
    event_id = await post(api)
    workers.now = datetime.now(UTC)
    await workers.dispatch()
    await workers.turn(limits=workers.limits._replace(timeout=timedelta(hours=1)))
    reply = await erase(api, ids=[event_id], now=True)
    assert (reply.status_code, "being sent" in reply.json()["error_message"]) == (409, True)


async def test_what_waits_in_the_spool_is_not_erased_yet(postgres_url, start, tmp_path):
    file, event = SpoolFile.make(tmp_path), new_event("a", reference="R1")
    await file.write([Row(event)])
    async with start(postgres_url, spool=tmp_path) as api:
        api.headers.update(OFFICER)
        replies = [await erase(api, ids=[str(event.id)]), await erase(api, reference="R1")]
    await file.close()
    assert {(reply.status_code, "spool" in reply.json()["error_message"]) for reply in replies} == {(409, True)}


async def test_a_second_erasure_counts_what_was_erased_before(api):
    event_id = await post(api)
    await erase(api, ids=[event_id])
    again = (await erase(api, ids=[event_id, event_id])).json()
    assert (again["events"], again["erased_before"], again["bodies"]) == (0, 1, [])


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ({}, 422),
        ({"reference": "A", "ids": [str(UUID(int=1))]}, 422),
        ({"reference": "unknown"}, 404),
        ({"ids": [str(UUID(int=2))]}, 404),
        ({"ids": []}, 422),
        ({"contact": "jan@example.com"}, 422),
    ],
    ids=json.dumps,
)
async def test_a_request_that_means_no_event_is_refused(api, wanted, status):
    assert (await erase(api, **wanted)).status_code == status


async def test_an_order_of_very_many_events_is_left_to_the_command(api, monkeypatch):
    event_id = await post(api)
    monkeypatch.setattr(erasures, "MOST_EVENTS", 0)
    reply = await erase(api, reference=await reference_of(api, event_id))
    assert (reply.status_code, "priohook erase" in reply.json()["error_description"]) == (422, True)


async def test_a_token_without_the_scope_erases_nothing(api):
    reply = await api.post("/api/erasures", json={}, headers=bearer_header("operator", Scope.REPLAY))
    assert reply.status_code == 403

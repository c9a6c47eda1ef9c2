import pytest

from app.settings.clients import Scope
from tests.conftest import WEBHOOK, basic_header, bearer_header, payload

OPERATOR = bearer_header("operator", Scope.REPLAY)


async def quarantine(client, content: bytes, content_type: str) -> str:
    await client.post(WEBHOOK, content=content, headers=basic_header() | {"Content-Type": content_type})
    page = await client.get("/api/events", params={"status": "quarantined"}, headers=bearer_header())
    return str(page.json()["events"][0]["id"])


async def release(client, event_id: str, headers=OPERATOR):
    return await client.post(f"/api/events/{event_id}/release", headers=headers)


async def test_a_readable_event_is_released(client):
    event_id = await quarantine(client, payload("01-notification-order-create"), "text/plain")
    reply = await release(client, event_id)
    assert (reply.status_code, reply.json()) == (200, {"event_id": event_id, "duplicate": False})
    shown = await client.get(f"/api/events/{event_id}", headers=bearer_header())
    assert shown.json()["status"] == "accepted"


async def test_a_copy_is_counted_on_the_first_one(client):
    content = payload("01-notification-order-create")
    first = (await client.post(WEBHOOK, content=content, headers=basic_header())).headers["Event-Id"]
    reply = await release(client, await quarantine(client, content, "text/plain"))
    assert reply.json() == {"event_id": first, "duplicate": True}


async def test_an_unreadable_event_stays_and_says_why(client):
    reply = await release(client, await quarantine(client, b"{", "application/json"))
    assert (reply.status_code, reply.json()["error"]) == (409, "CONFLICT")
    assert "still refused" in reply.json()["error_message"]


async def test_an_accepted_event_is_not_released(client):
    posted = await client.post(WEBHOOK, content=payload("01-notification-order-create"), headers=basic_header())
    reply = await release(client, posted.headers["Event-Id"])
    assert (reply.status_code, "not quarantined" in reply.json()["error_message"]) == (409, True)


@pytest.mark.parametrize("event_id", ["01987f6e-0000-7000-8000-000000000001", "nothing"])
async def test_an_unknown_event_is_404(client, event_id):
    assert (await release(client, event_id)).status_code == 404


async def test_a_reader_may_not_release(client):
    assert (await release(client, "01987f6e-0000-7000-8000-000000000001", bearer_header())).status_code == 403

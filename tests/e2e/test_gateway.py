"""A stranger with a client's secret can use the API by its description alone, and sees that a consumer is broken."""

import json

import httpx2
import pytest

from tests.conftest import SECRET, WEBHOOK, basic_header, payload
from tests.e2e.conftest import configured
from tests.e2e.consumer import Consumer

CLIENTS = {"prioticket": {"secret": SECRET, "scopes": ["webhooks:send", "events:read", "events:replay"]}}
CANCELLED = payload("02-notification-order-cancel-partial")


@pytest.fixture
def system():
    with Consumer().running() as running:
        yield running


@pytest.fixture
def api(serve, system, tmp_path):
    """A client with a token, at a server with a cancelled order and an error body."""
    database = f"sqlite+aiosqlite:///{tmp_path / 'priohook.db'}"
    erp = {"url": system.url, "timeout": 1, "events": ["NONE"]}
    settings = {"clients": json.dumps(CLIENTS), "destinations": json.dumps({"erp": erp})}
    server = serve(with_worker=True, **configured(database) | settings)
    with httpx2.Client(base_url=server.url, headers=basic_header(), timeout=30) as client:
        client.post(WEBHOOK, content=CANCELLED)
        client.post(WEBHOOK, content=payload("11-error-body"))
        token = client.post("/oauth2/token", data={"grant_type": "client_credentials"}).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def event_id(api: httpx2.Client, **query: str) -> str:
    (event,) = api.get("/api/events", params=query).json()["events"]
    return str(event["id"])


@pytest.mark.parametrize(("answer", "status"), [(200, 200), (500, 502), ("stall", 504)])
def test_a_replay_that_waits_tells_what_the_destination_did_200_502_or_504(api, system, answer, status):
    system.answer = lambda reference, number: answer  # noqa: ARG005
    found = event_id(api, type="ORDER_CANCEL_PARTIAL")
    assert api.get(f"/api/events/{found}/body").content == CANCELLED
    assert api.post(f"/api/events/{found}/replay", params={"to": "erp", "wait": "true"}).status_code == status
    assert system.seen[0].body == CANCELLED

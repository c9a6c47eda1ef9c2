from app.settings.clients import Scope
from tests.conftest import bearer_header

READ = bearer_header("reader", Scope.READ)


async def test_the_status_is_answered_with_what_was_read(client):
    reply = await client.get("/api/status", headers=READ)
    assert reply.status_code == 200
    shown = reply.json()
    assert (shown["well"], shown["findings"]) == (True, [])
    assert shown["readings"]["undispatched"] == {"events": 0, "oldest_at": None}


async def test_a_destination_without_a_worker_is_not_well(database_url, start):
    async with start(database_url, destinations={"erp": {"url": "https://erp.example/in"}}) as client:
        shown = (await client.get("/api/status", headers=READ)).json()
    assert (shown["well"], [each["name"] for each in shown["findings"]]) == (False, ["no_worker"])
    assert shown["findings"][0]["command"] == "priohook worker"


async def test_a_stranger_gets_no_status(client):
    assert (await client.get("/api/status")).status_code == 401

from app.settings.clients import Scope
from tests.conftest import bearer_header

READ = bearer_header("reader", Scope.READ)


async def test_the_status_is_answered_with_what_was_read(client):
    reply = await client.get("/api/status", headers=READ)
    assert reply.status_code == 200
    shown = reply.json()
    assert (shown["well"], shown["findings"]) == (True, [])
    assert shown["readings"]["undispatched"] == {"events": 0, "oldest_at": None}


async def test_a_stranger_gets_no_status(client):
    assert (await client.get("/api/status")).status_code == 401

"""`--json` prints what the API answers for the same thing."""

import asyncio
import json

import pytest

from app.settings.clients import Scope
from tests.conftest import bearer_header
from tests.deliveries.workers import Workers

ERP = {"erp": {"url": "https://erp.example/in"}}
ALL = bearer_header("operator", Scope.READ, Scope.REPLAY)


@pytest.fixture
def ids(working, monkeypatch):
    """The ids of an event and of its delivery, which was tried once."""
    monkeypatch.setenv("PRIOHOOK_DESTINATIONS", json.dumps(ERP))

    async def make(workers: Workers):
        event = await workers.store("A", type="ORDER_CREATE")
        await workers.dispatch()
        turn = await workers.turn()
        await workers.turn(workers.ended(turn.claims[0], 500, answer=b"broken \xff"))
        (delivery,) = await workers.deliveries()
        return event, delivery.id

    return working(make)


@pytest.fixture
def answer(start, database_url):
    """`answer("/api/events")` gives the API's answer without what changes from one moment to the next."""

    async def ask(method, path, **body):
        async with start(database_url, destinations=ERP) as client:
            return (await client.request(method, path, headers=ALL, **body)).raise_for_status().json()

    return lambda path, method="GET", **body: asyncio.run(ask(method, path, **body))


def printed(run, *command):
    done = run(*command, "--json")
    assert done.status == 0
    return [json.loads(line) for line in done.text.splitlines()]


@pytest.mark.parametrize("things", ["events", "deliveries", "destinations", "replays"])
def test_a_list_has_what_the_api_lists(run, ids, answer, things):
    run("replay", "--yes")
    listed = printed(run, things, "list")
    assert listed == answer(f"/api/{things}")[things]
    assert listed


@pytest.mark.parametrize(("things", "which"), [("events", 0), ("deliveries", 1)])
def test_one_is_shown_as_the_api_shows_it(run, ids, answer, things, which):
    assert printed(run, things, "show", str(ids[which])) == [answer(f"/api/{things}/{ids[which]}")]


def test_a_replay_is_planned_and_shown_as_the_api_does(run, ids, answer):
    assert printed(run, "replay", "--dry-run") == [answer("/api/replays", "POST", json={"filter": {}, "dry_run": True})]
    (started,) = printed(run, "replay", "--yes")
    replay_id = started["replay"]["id"]
    assert printed(run, "replays", "show", replay_id) == [started["replay"]] == [answer(f"/api/replays/{replay_id}")]

"""Every URL and every command either leaves a row of the audit or is listed here with the reason why it does not.

A new one fails these tests until it has been decided.
"""

import json
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from app.audit.tables import Action
from app.settings.clients import Scope
from app.web.openapi.operations import Route
from tests.api.test_replay import DESTINATIONS
from tests.cli.conftest import NOON, NOTIFICATION
from tests.conftest import WEBHOOK, basic_header, bearer_header, payload
from tests.deliveries.workers import Workers
from tests.pages import commands
from tests.test_application import application

OFFICER = bearer_header("officer", Scope.READ, Scope.REPLAY, Scope.ERASE)
ORDER = payload("08-order-payload-confirmed")

RECEIVES = "It receives events, which have rows of their own; an acknowledgement waits for one write only."
LISTS = "It shows no body."
OPEN = "It is open to anyone and shows nothing that is stored."
TOKENS = "A token does nothing by itself, and must be given while the database is away; its request has a log line."
OUTSIDE = "It asks or changes another system, and does not use the database."
MAKES = "It prints something new and stores nothing."
SCHEMA = "It must work before the table of the audit is there; the schema's version is in the database."

NOT_AUDITED_URLS = {
    "POST /webhooks/prioticket": RECEIVES,
    "POST /oauth2/token": TOKENS,
    "GET /api/events": LISTS,
    "GET /api/events/{event_id}": LISTS,
    "GET /api/events/stream": LISTS,
    "GET /api/deliveries": LISTS,
    "GET /api/deliveries/groups": LISTS,
    "GET /api/deliveries/{delivery_id}": LISTS,
    "GET /api/destinations": LISTS,
    "GET /api/replays": LISTS,
    "GET /api/replays/{replay_id}": LISTS,
    "GET /api/audit": LISTS,
    "GET /api/alarms": LISTS,
    "GET /api/status": LISTS,
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /openapi.json": OPEN,
    "GET /docs": OPEN,
}
AUDITED_URLS = {
    "GET /api/events/{event_id}/body": Action.READ,
    "GET /api/orders/{reference}": Action.READ,
    "POST /api/events/{event_id}/replay": Action.REPLAY,
    "POST /api/events/{event_id}/release": Action.RELEASE,
    "POST /api/deliveries/{delivery_id}/retry": Action.RETRY,
    "POST /api/deliveries/{delivery_id}/drop": Action.DROP,
    "POST /api/destinations/{name}/pause": Action.PAUSE,
    "POST /api/destinations/{name}/resume": Action.RESUME,
    "POST /api/replays": Action.REPLAY,
    "POST /api/replays/{replay_id}/pause": Action.PAUSE,
    "POST /api/replays/{replay_id}/resume": Action.RESUME,
    "POST /api/replays/{replay_id}/cancel": Action.CANCEL,
    "POST /api/erasures": Action.ERASE,
}
NOT_AUDITED_COMMANDS = {
    "alarms list": LISTS,
    "alarms test": "it sends a message to people, and changes nothing",
    "audit list": LISTS,
    "audit verify": LISTS,
    "bench": OUTSIDE,
    "check": OUTSIDE,
    "listen": "It asks the API, which leaves a row for each body.",
    "clients list": LISTS,
    "clients new": MAKES,
    "deliveries groups": LISTS,
    "deliveries list": LISTS,
    "deliveries show": LISTS,
    "destinations list": LISTS,
    "events list": LISTS,
    "keys new": MAKES,
    "migrate": SCHEMA,
    "orders show": LISTS,
    "prioticket order": OUTSIDE,
    "prioticket webhooks delete": OUTSIDE,
    "prioticket webhooks list": OUTSIDE,
    "prioticket webhooks register": OUTSIDE,
    "prioticket webhooks test": OUTSIDE,
    "refusals list": LISTS,
    "replays list": LISTS,
    "replays show": LISTS,
    "secrets new": MAKES,
    "settings": LISTS,
    "simulate": OUTSIDE,
    "spool list": LISTS,
    "status": LISTS,
}
AUDITED_COMMANDS = {
    "deliveries drop": Action.DROP,
    "deliveries retry": Action.RETRY,
    "destinations pause": Action.PAUSE,
    "destinations remove": Action.REMOVE,
    "destinations resume": Action.RESUME,
    "erase": Action.ERASE,
    "events export": Action.EXPORT,
    "events release": Action.RELEASE,
    "events show": Action.READ,
    "prune": Action.PRUNE,
    "replay": Action.REPLAY,
    "replays cancel": Action.CANCEL,
    "replays pause": Action.PAUSE,
    "replays resume": Action.RESUME,
}
TESTED_ELSEWHERE = {
    "backup": "tests/cli/test_backup.py",
    "destinations test": "tests/cli/test_destinations.py",
    "move": "tests/cli/test_move.py",
    "restore": "tests/cli/test_backup.py",
    "serve": "tests/audit/test_starts.py",
    "worker": "tests/audit/test_starts.py",
    "reconcile": "tests/cli/test_reconcile.py",
    "spool move": "tests/cli/test_spool.py",
}


def test_every_url_is_audited_or_says_why_not():
    routes = [route for route in application().routes if isinstance(route, Route)]
    urls = {f"{route.method} {route.path_format}" for route in routes}
    assert {*AUDITED_URLS, *NOT_AUDITED_URLS} == urls
    assert not AUDITED_URLS.keys() & NOT_AUDITED_URLS.keys()


def test_every_command_is_audited_or_says_why_not():
    names = {name.removeprefix("priohook ") for name, _ in commands()}
    assert {*AUDITED_COMMANDS, *NOT_AUDITED_COMMANDS, *TESTED_ELSEWHERE} == names
    assert len(names) == len(AUDITED_COMMANDS) + len(NOT_AUDITED_COMMANDS) + len(TESTED_ELSEWHERE)


@pytest.fixture
async def api(database_url, start):
    async with start(database_url, destinations=DESTINATIONS) as client:
        client.headers.update(OFFICER)
        yield client


@pytest.fixture
async def things(api, workers: Workers):
    """The ids that URLs name: one event that is accepted, one in quarantine, and so on."""
    posted = await api.post(WEBHOOK, content=ORDER, headers=basic_header())
    text = basic_header() | {"Content-Type": "text/plain"}
    await api.post(WEBHOOK, content=NOTIFICATION, headers=text)
    quarantined = (await api.get("/api/events", params={"status": "quarantined"})).json()["events"][0]
    workers.now = datetime.now(UTC)
    await workers.dispatch({"erp": ["*"]})
    started = await api.post("/api/replays", json={"filter": {}, "to": "erp"})
    (event,) = [each for each in (await api.get("/api/events")).json()["events"] if each["status"] == "accepted"]
    return {
        "event_id": posted.headers["Event-Id"],
        "quarantined": quarantined["id"],
        "reference": event["reference"],
        "delivery_id": (await api.get("/api/deliveries")).json()["deliveries"][0]["id"],
        "replay_id": started.json()["replay"]["id"],
        "name": "erp",
    }


@pytest.mark.parametrize("url", AUDITED_URLS)
async def test_an_audited_url_leaves_exactly_one_row_that_says_who_what_and_why(api, things, url):
    method, path = url.split(" ")
    if path.endswith("/release"):
        things["event_id"] = things["quarantined"]
    bodies = {
        "/api/replays": {"filter": {}, "to": "erp", "reason": "ticket 7"},
        "/api/erasures": {"reference": things["reference"], "now": True, "reason": "ticket 7"},
    }
    body = bodies.get(path)
    if path.endswith("{name}/pause"):
        body = {"reason": "ticket 7"}
    query = {"reason": "ticket 7"} if body is None else {}
    reply = await api.request(method, path.format(**things), json=body, params=query)
    assert reply.status_code in (200, 202), reply.text
    done = (await api.get("/api/audit", params={"until": "9999-01-01"})).json()["actions"]
    assert len(done) == 2  # one more than before: the replay that `things` started
    row = done[0]
    expected = (AUDITED_URLS[url], "api", "officer", "ticket 7", reply.headers["X-Request-Id"])
    assert (row["action"], row["channel"], row["client"], row["reason"], row["request_id"]) == expected
    made = {} if "body" in path else reply.json()
    assert row["target"] in [*things.values(), (made.get("replay") or {}).get("id"), made.get("erasure_id")]
    assert row["address"] == "127.0.0.1"


@pytest.mark.parametrize("url", [url for url in NOT_AUDITED_URLS if url.startswith("GET /api") and "stream" not in url])
async def test_a_url_that_is_not_audited_leaves_no_row(api, things, url):
    reply = await api.get(url.split(" ")[1].format(**things))
    assert reply.status_code == 200
    assert len((await api.get("/api/audit")).json()["actions"]) == 1


async def test_what_was_refused_leaves_no_row(api, things):
    refused = await api.post(f"/api/events/{things['event_id']}/release")
    assert refused.status_code == 409
    assert len((await api.get("/api/audit")).json()["actions"]) == 1


async def ids(workers: Workers):
    """The ids that commands name."""
    event = await workers.store("A", type="ORDER_CREATE")
    refused = await workers.store("B", status="quarantined", reason="415: not JSON", body=NOTIFICATION)
    await workers.dispatch()
    replay = await workers.start(rate=0.01)
    (delivery,) = [row.id for row in await workers.deliveries()]
    return {"event": event, "refused": refused, "replay": replay, "delivery": delivery, "name": "erp"}


@pytest.mark.parametrize("command", AUDITED_COMMANDS)
def test_an_audited_command_leaves_a_row_that_says_who_what_and_why(run, working, command, monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.1 22")
    things = {name: str(each) for name, each in working(ids).items()}
    target = {"deliveries": "delivery", "destinations": "name", "events": "event", "replays": "replay"}.get(
        command.split()[0]
    )
    arguments = [] if target is None else [things[target]]
    if command == "events release":
        arguments = [things["refused"]]
    if command == "replay":
        arguments = ["--to", "http://127.0.0.1:9", "--yes"]
    if command == "events export":
        arguments = []
    if command == "prune":
        monkeypatch.setenv("PRIOHOOK_RETENTION__ATTEMPTS", "90d")
    if command == "erase":
        arguments = ["--reference", "A", "--now", "--yes"]
    if command == "destinations remove":
        run("deliveries", "drop", *arguments and [things["delivery"]])
        run("replays", "cancel", things["replay"])
    done = run(*command.split(), *arguments, "--reason", "ticket 7")
    assert done.status == 0, done.errors
    row = json.loads(run("audit", "list", "--limit", "1", "--json").text)
    expected = (AUDITED_COMMANDS[command], "cli", "ticket 7", "192.0.2.7")
    assert (row["action"], row["channel"], row["reason"], row["address"]) == expected
    assert row["target"] in (
        *things.values(),
        *done.text.split(),
        None if command in ("prune", "events export") else "",
    )
    assert "@" in row["client"]


def test_the_event_shows_what_was_done_with_it(run, working):
    event = str(working(partial(Workers.store, reference="A", received_at=NOON + timedelta(1))))
    run("events", "show", "--body", "--reason", "ticket 7", event)
    shown = run("events", "show", event).text
    assert "read by " in shown
    assert ": ticket 7" in shown
    assert ": ticket 7" in run("orders", "show", "A").text

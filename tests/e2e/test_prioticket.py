"""The commands that ask Prioticket's API, against the simulated one."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from tests.conftest import SECRET, basic_header
from tests.e2e.conftest import API_SECRET, ENDS_WITHIN, configured, environment_for
from tests.e2e.load import statuses

AUTH = basic_header()["Authorization"].removeprefix("Basic ")


async def accepted(url: str, count: int) -> None:
    """Waits until so many events are accepted."""
    async with asyncio.timeout(ENDS_WITHIN):
        while (await statuses(url)).get("accepted", 0) < count:  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.1)


async def test_what_is_registered_is_sent_and_what_is_lost_is_counted(serve, priohook, simulated, sqlite_url):
    api = simulated("--count", "150", "--rate", "100", "--lose", "0.1", "--duplicates", "0.1", "--out-of-order", "0.1")
    settings = configured(sqlite_url, body_timeout="1") | api.settings
    server = serve(**settings)
    done = priohook("prioticket", "webhooks", "register", "--url", server.url, "--no-check", **settings)
    assert done.returncode == 0, done.stderr
    await accepted(sqlite_url, 110)
    listed = priohook("prioticket", "webhooks", "list", "--url", server.url, "--json", **settings)
    (webhook,) = map(json.loads, listed.stdout.splitlines())
    assert (webhook["ours"], webhook["status"], webhook["payload"]) == (True, "ENABLED", True)
    deleted = priohook("prioticket", "webhooks", "delete", "--yes", webhook["id"], **settings)
    assert deleted.stdout == f"{webhook['id']} is deleted.\n"
    result = api.end()
    assert result["lost"] > 0
    assert result["sent"] + result["lost"] <= 150
    assert result["acknowledged"] == result["sent"]
    assert await statuses(sqlite_url) == {"accepted": result["sent"]}
    assert result["tokens"] == 3, "one for each command"
    everything = done.stdout + done.stderr + listed.stdout + listed.stderr + server.stderr
    assert [secret for secret in (API_SECRET, SECRET, AUTH) if secret in everything] == []


def test_register_checks_the_url_and_says_what_is_there_already(serve, priohook, simulated, sqlite_url):
    api = simulated("--behave", "shows_auth=true", "--count", "1")
    settings = configured(sqlite_url, body_timeout="1") | api.settings
    server = serve(**settings)
    register = ("prioticket", "webhooks", "register", "--url", server.url)
    first = priohook(*register, **settings)
    assert first.returncode == 0, first.stdout
    assert "30 rows, 0 differ" in first.stdout
    again = priohook(*register, **settings)
    assert again.returncode == 1
    assert "is registered already" in again.stderr
    assert "--replace" in again.stderr
    replaced = priohook(*register, "--replace", "--no-check", **settings)
    (new,) = [line.removeprefix("webhook_id ") for line in replaced.stdout.splitlines() if "webhook_id" in line]
    listed = priohook("prioticket", "webhooks", "list", **settings).stdout
    assert [line.split("\t")[0] for line in listed.splitlines()] == [new]
    assert AUTH not in listed + first.stdout + replaced.stdout


def test_an_order_is_shown_and_its_bytes_are_exact(serve, priohook, simulated, sqlite_url):
    api = simulated("--count", "40", "--rate", "200", "--fault", "/orders/*=503#1")
    settings = configured(sqlite_url) | api.settings
    server = serve(**settings)
    priohook("prioticket", "webhooks", "register", "--url", server.url, "--no-check", **settings)
    until = monotonic() + ENDS_WITHIN
    while not (events := priohook("events", "list", "--json", **settings).stdout) and monotonic() < until:
        sleep(0.1)
    reference = json.loads(events.splitlines()[-1])["reference"]
    shown = priohook("prioticket", "order", reference, **settings)
    assert shown.returncode == 0, shown.stderr
    assert f"order_reference    {reference}" in shown.stdout
    assert "BOOKING_" in shown.stdout
    assert "it answered 503. Trying again in" in shown.stderr
    exact = priohook("prioticket", "order", reference, "--version", "1", "--json", **settings)
    assert json.loads(exact.stdout)["data"]["order"]["order_version"] == 1
    unknown = priohook("prioticket", "order", "PRI-nothing", **settings)
    assert unknown.returncode == 1
    assert "priohook: Prioticket has no such order, or this account may not see it: 400" in unknown.stderr


def reference_in(priohook: Callable[..., Any], settings: dict[str, str]) -> str:
    """The reference of the first event that arrived."""
    until = monotonic() + ENDS_WITHIN
    while not (events := priohook("events", "list", "--json", **settings).stdout) and monotonic() < until:
        sleep(0.1)
    return str(json.loads(events.splitlines()[-1])["reference"])


def test_an_order_is_stored_as_a_fetched_event_once(serve, priohook, simulated, database_url):
    api = simulated("--count", "3", "--rate", "200")
    settings = configured(database_url) | api.settings
    server = serve(**settings)
    priohook("prioticket", "webhooks", "register", "--url", server.url, "--no-check", **settings)
    reference = reference_in(priohook, settings)
    store = ("prioticket", "order", reference, "--store", "--json")
    first = priohook(*store, **settings)
    assert first.returncode == 0, first.stderr
    event_id = first.stderr.split()[-1].rstrip(".")
    assert first.stderr == f"It is stored as event {event_id}.\n"
    shown = json.loads(priohook("events", "show", event_id, "--json", **settings).stdout)
    assert (shown["origin"], shown["reference"], shown["client"]) == ("fetched", reference, "prioticket")
    assert priohook("events", "show", event_id, "--body", **settings).stdout == first.stdout
    assert priohook(*store, **settings).stderr == f"Event {event_id} has it already.\n"
    assert priohook("erase", "--reference", reference, "--now", "--yes", **settings).returncode == 0
    refused = priohook(*store, **settings)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Events of this order were erased, so it is not fetched again." in refused.stderr


def test_a_sample_that_prioticket_sends_is_found_in_the_database(serve, priohook, simulated, sqlite_url):
    api = simulated("--count", "3", "--rate", "200")
    settings = configured(sqlite_url) | api.settings
    server = serve(**settings)
    settings |= {"public_url": server.url}
    assert priohook("prioticket", "webhooks", "register", "--no-check", **settings).returncode == 0
    reference = reference_in(priohook, settings)
    test = ("prioticket", "webhooks", "test", reference)
    for _ in range(2):  # the second one may be a copy
        done = priohook(*test, **settings)
        assert done.returncode == 0, done.stderr
        assert f"of {reference} arrived after" in done.stdout
    unknown = priohook("prioticket", "webhooks", "test", "PRI-nothing", **settings)
    assert unknown.returncode == 1
    assert "this version may not have them" in unknown.stderr
    (webhook,) = map(json.loads, priohook("prioticket", "webhooks", "list", "--json", **settings).stdout.splitlines())
    assert webhook["ours"]
    priohook("prioticket", "webhooks", "delete", "--yes", webhook["id"], **settings)
    silent = priohook(*test, "--within", "1", **settings)
    assert silent.returncode == 1
    assert f"no event of {reference} arrived within 1 seconds" in silent.stderr


async def test_a_webhook_auth_that_is_encoded_twice_comes_in(serve, priohook, simulated, sqlite_url):
    api = simulated("--double-base64", "--count", "20", "--rate", "100")
    settings = configured(sqlite_url) | api.settings
    server = serve(**settings)
    register = ("prioticket", "webhooks", "register", "--url", server.url)
    wrong = priohook(*register, "--auth-stdin", given="prioticket:not-the-secret-at-all\n", **settings)
    assert "no USERNAME:SECRET of a client that may send" in wrong.stderr
    given = f"prioticket:{SECRET}\n"
    done = priohook(*register, "--auth-stdin", "--no-check", "--no-payload", given=given, **settings)
    assert done.returncode == 0, done.stderr
    await accepted(sqlite_url, 15)
    result = api.end()
    assert result["answered 200"] == result["sent"] > 0
    assert await statuses(sqlite_url) == {"accepted": result["sent"]}


def test_a_prioticket_that_is_not_there_is_told_at_once():
    account = {"prioticket__base_url": "http://127.0.0.1:9", "prioticket__client_id": "demo"}
    settings = account | {"prioticket__client_secret": API_SECRET, "prioticket__rate": "16"}
    environment = environment_for(**settings)
    command = [sys.executable, "-m", "app", "prioticket", "webhooks", "list"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        line = process.stderr.readline()
        process.terminate()
    assert "Prioticket: it cannot be reached" in line
    assert "Trying again in" in line

import json
import tomllib
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from app.auth.clients import clients_from
from app.settings.clients import Scope
from app.settings.model import Settings
from tests.cli.conftest import NOON
from tests.cli.test_refusals import refuse
from tests.conftest import SECRET
from tests.events.stores import new_event
from tests.telemetry.test_tally import line

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)


def test_a_new_client_is_consistent_in_itself(run):
    done = run("clients", "new", "prioticket", "--json")
    made = json.loads(done.text)
    assert done.status == 0
    assert made["sha256"] == sha256(f"prioticket:{made['secret']}".encode()).hexdigest()
    assert b64decode(made["webhook_auth"]).decode() == f"prioticket:{made['secret']}"
    assert made["scopes"] == ["webhooks:send"]


def test_two_clients_have_different_secrets(run):
    secrets = {json.loads(run("clients", "new", "prioticket", "--json").text)["secret"] for _ in range(5)}
    assert len(secrets) == 5
    assert min(map(len, secrets)) >= 32


@pytest.mark.parametrize("name", ["prioticket", "with space", "a.b", 'quo"te', "é", "😀", "back\\slash", "[x]", "0"])
def test_what_is_printed_for_the_configuration_lets_the_client_in(run, tmp_path, name):
    printed = run("clients", "new", name, "--scope", "events:read", "--scope", "console").text
    fields = dict(line.split(None, 1) for line in printed.split("\n\n")[0].splitlines())
    entry = printed.partition("For priohook.toml:\n\n")[2]
    (tmp_path / "priohook.toml").write_text(entry, encoding="utf-8")
    client = clients_from(Settings.load().clients).match(b64decode(fields["webhook_auth"]), now=NOW)
    assert client is not None
    assert (client.name, client.username) == (name, name)
    assert client.scopes == {Scope.READ, Scope.CONSOLE}


def test_a_username_of_its_own_is_in_the_credential_and_in_the_entry(run):
    printed = run("clients", "new", "next year", "--username", "prioticket").text
    entry = tomllib.loads(printed.partition("For priohook.toml:\n\n")[2])
    secret = next(line.split()[1] for line in printed.splitlines() if line.startswith("secret"))
    assert entry["clients"]["next year"]["username"] == "prioticket"
    assert b64encode(f"prioticket:{secret}".encode()).decode() in printed


def test_the_entry_holds_no_secret(run):
    printed = run("clients", "new", "prioticket").text
    secret = next(line.split()[1] for line in printed.splitlines() if line.startswith("secret"))
    assert secret not in printed.partition("For priohook.toml:")[2]


def test_nothing_is_saved(run, tmp_path):
    run("clients", "new", "prioticket")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["with:colon"],
        ["new\nline"],
        ["name", "--username", "with:colon"],
        ["name", "--username", ""],
        ["name", "--scope", "everything"],
    ],
)
def test_a_client_that_http_basic_cannot_carry_is_refused(run, arguments):
    done = run("clients", "new", *arguments)
    assert (done.status, done.written) == (2, b"")
    assert done.errors.splitlines()[-1].strip()


FIRST = """
[clients.prioticket]
secret = "the-secret-of-a-first-start"
scopes = ["webhooks:send"]
"""


def listed(run):
    done = run("clients", "list", "--json")
    assert done.status == 0
    return {row["name"]: row for row in map(json.loads, done.text.splitlines())}


def test_a_list_has_the_clients_of_all_sources_with_their_scopes_and_validity(run, fill, tmp_path, monkeypatch):
    fill(new_event("a", client="old", received_at=NOON), new_event("b", client="old", received_at=NOON - HOUR))
    entry = {"secret": SECRET, "scopes": ["webhooks:send", "console"], "username": "prioticket"}
    times = {"old": {"not_after": "2020-01-01T00:00:00Z"}, "next": {"not_before": "2999-01-01T00:00:00Z"}}
    monkeypatch.setenv("PRIOHOOK_CLIENTS", json.dumps({name: entry | each for name, each in times.items()}))
    (tmp_path / "priohook.toml").write_text('[clients.old]\nusername = "prioticket"\n')
    rows = listed(run)
    assert rows["next"] == {
        "name": "next",
        "username": "prioticket",
        "scopes": "console webhooks:send",
        "state": "not yet valid",
        "source": "environment",
        "not_before": "2999-01-01T00:00:00Z",
        "not_after": None,
        "last_event_at": None,
        "last_success_at": None,
        "last_refusal": None,
    }
    old = rows["old"]
    assert (old["state"], old["source"]) == ("expired", "environment, priohook.toml")
    assert old["last_event_at"] == "2026-08-12T12:00:00Z"
    assert SECRET not in run("clients", "list").text


def test_a_list_says_when_a_client_was_last_let_in_and_last_refused(run, database_url, tmp_path, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", database_url)
    (tmp_path / "priohook.toml").write_text(FIRST)
    refuse(database_url, line(200, client="prioticket"), line(client="prioticket", reason="expired"))
    row = listed(run)["prioticket"]
    assert row["last_success_at"] == "2026-08-12T12:00:00Z"
    refusal = {"at": "2026-08-12T12:01:00Z", "status": 401, "reason": "expired", "address": "192.0.2.1"}
    assert row["last_refusal"] == refusal
    assert "\t2026-08-12 12:01 401 expired 192.0.2.1" in run("clients", "list").text


def test_a_list_has_the_clients_of_a_first_start_too(run, sqlite_url, tmp_path, monkeypatch):
    (tmp_path / "priohook-clients.toml").write_text(FIRST)
    (tmp_path / "priohook.toml").write_text(
        FIRST.replace("clients.prioticket", "clients.later").replace("first", "next")
    )
    rows = listed(run)
    assert {name: row["source"] for name, row in rows.items()} == {
        "later": "priohook.toml",
        "prioticket": "priohook-clients.toml",
    }
    assert rows["prioticket"]["state"] == "valid"


def test_a_client_whose_entries_differ_is_status_1_and_both_places_are_named(run, sqlite_url, tmp_path):
    (tmp_path / "priohook-clients.toml").write_text(FIRST)
    (tmp_path / "priohook.toml").write_text(FIRST.replace("first", "next"))
    for command in (["clients", "list"], ["settings"], ["serve"]):
        done = run(*command)
        assert done.status == 1
        assert "The client prioticket is in the settings and in priohook-clients.toml" in done.errors


def test_a_list_without_a_database_says_what_it_does_not_know(run, tmp_path):
    (tmp_path / "priohook.toml").write_text(FIRST)
    done = run("clients", "list")
    assert (done.status, done.text.split("\t")[0]) == (0, "prioticket")
    assert "last_event_at is unknown: There is no database" in done.errors

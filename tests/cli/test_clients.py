import json
import tomllib
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from app.auth.clients import clients_from
from app.settings import Scope, Settings

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

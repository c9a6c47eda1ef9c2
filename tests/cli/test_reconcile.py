"""The command `reconcile` without a Prioticket; tests/e2e has the runs."""

import json

import pytest

from app.prioticket import again

ACCOUNT = {"BASE_URL": "http://127.0.0.1:9", "CLIENT_ID": "demo", "CLIENT_SECRET": "not-a-real-secret"}


@pytest.fixture
def account(monkeypatch):
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(f"PRIOHOOK_PRIOTICKET__{name}", value)


def test_without_an_account_it_is_wrong_usage(run, fill):
    fill()
    done = run("reconcile", "--since", "24h")
    assert done.status == 2
    assert "is not configured: set base_url" in done.errors


def test_without_a_complete_run_there_is_no_last_one(run, fill, account):
    fill()
    done = run("reconcile", "--since", "last")
    assert done.status == 2
    assert "No run is complete yet" in done.errors


@pytest.mark.parametrize("since", ["yesterday", "0x", ""])
def test_what_is_not_a_time_is_wrong_usage(run, account, since):
    done = run("reconcile", "--since", since)
    assert done.status == 2
    assert "is not a valid time" in done.errors


def test_a_run_is_audited_however_it_ends_and_a_dry_run_is_not(run, fill, account, monkeypatch):
    fill()
    monkeypatch.setattr(again, "FIRST_PAUSE", 0.001)
    for options in (["--dry-run"], []):
        assert run("reconcile", "--since", "24h", "--reason", "ticket 7", *options).status == 1
    (line,) = run("audit", "list", "--json").text.splitlines()
    row = json.loads(line)
    assert (row["action"], row["kind"], row["reason"]) == ("reconcile", "reconciliation", "ticket 7")


def test_a_prioticket_that_is_away_is_told_and_the_run_can_go_on(run, fill, account, monkeypatch):
    fill()
    monkeypatch.setattr(again, "FIRST_PAUSE", 0.001)
    done = run("reconcile", "--since", "24h")
    assert done.status == 1
    assert "The run is not complete: the same command goes on from here." in done.errors
    assert "priohook: Prioticket: it cannot be reached" in done.errors
    assert "Nothing is missing" not in done.text
    assert "Going on with run" in run("reconcile", "--since", "24h").errors

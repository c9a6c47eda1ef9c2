import json
import socket

import pytest

from tests.cli.conftest import COLOURS
from tests.deliveries.workers import Workers

URL = "https://me:pass-word@erp.example/in"


@pytest.fixture
def configured(monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DESTINATIONS", json.dumps({"erp": {"url": URL, "events": ["ORDER_*"]}}))


def listed(run):
    rows = [json.loads(line) for line in run("destinations", "list", "--json").text.splitlines()]
    return {row["name"]: row for row in rows}


def test_a_list_has_the_queue_of_each(run, working, configured):
    async def fill(workers: Workers):
        for reference in ("A", "B", "B"):
            await workers.store(reference)
        await workers.dispatch()

    working(fill)
    row = listed(run)["erp"]
    assert [row[name] for name in ("pending", "due", "in_flight", "dead")] == [3, 2, 0, 0]
    assert row["oldest_pending_at"] is not None
    assert row["configured"] is True


def test_events_without_deliveries_are_counted_beside_the_list(run, working, configured):
    working(lambda workers: workers.store())
    done = run("destinations", "list")
    assert (len(done.text.splitlines()), done.errors) == (1, "Events that have no deliveries yet: 1.\n")


def test_no_password_is_shown(run, working, configured):
    assert "pass-word" not in run("destinations", "list").text + run("destinations", "list", "--json").text
    assert "https://me:***@erp.example/***" in run("destinations", "list").text


def test_one_that_is_configured_no_more_and_one_that_is_new_are_listed(run, working, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DESTINATIONS", json.dumps({"crm": {"url": URL}}))
    working(lambda workers: workers.register("erp"))
    rows = listed(run)
    assert list(rows) == ["crm", "erp"]
    assert rows["erp"]["configured"] is False
    assert "not configured" in run("destinations", "list").text
    assert [rows["crm"][name] for name in ("configured", "pending", "oldest_pending_at")] == [True, 0, None]


def test_a_list_into_a_pipe_is_tabs(run, working, configured):
    (row,) = run("destinations", "list").text.splitlines()
    assert row.split("\t")[0] == "erp"
    assert row.split("\t")[2:] == ["0", "0", "0", "0", "", "https://me:***@erp.example/***", "ORDER_*"]


def test_one_that_holds_a_reference_back_says_since_when_and_by_what(run, working, configured, terminal):
    async def fail(workers: Workers):
        for reference in ("A", "A", "B"):
            await workers.store(reference)
        await workers.dispatch()
        claims = (await workers.turn()).claims
        await workers.turn(*(workers.ended(claim, 500 if claim.reference == "A" else 200) for claim in claims))
        return next(claim.delivery_id for claim in claims if claim.reference == "A")

    poison = working(fail)
    row = listed(run)["erp"]
    assert (row["failing"], row["stuck"][0]["delivery_id"]) == (1, str(poison))
    assert (row["stuck"][0]["reference"], row["stuck"][0]["waiting"]) == ("A", 1)
    assert "\tfailing: A is held back since " in run("destinations", "list").text
    assert f" by {str(poison)[:18]} (500)\t" in run("destinations", "list").text
    terminal(80)
    text = COLOURS.sub("", run("destinations", "list").text)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "failing: A is" in text


def test_pause_keeps_the_reason_and_resume_ends_it(run, working, configured):
    assert run("destinations", "pause", "erp", "--reason", "Moving house.").status == 0
    assert listed(run)["erp"]["paused_reason"] == "Moving house."
    assert ": Moving house.\t" in run("destinations", "list").text
    assert run("destinations", "resume", "erp") == (0, b"erp is resumed.\n", "")
    assert listed(run)["erp"]["paused_at"] is None


def test_a_destination_that_no_worker_has_seen_yet_can_be_paused(run, fill, configured):
    fill()
    assert run("destinations", "pause", "erp").status == 0
    assert listed(run)["erp"]["paused_reason"] == "An operator paused it."


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_an_unknown_destination_is_status_1_and_says_where_the_names_are(run, fill, command):
    fill()
    done = run("destinations", command, "nobody")
    assert done == (
        1,
        b"",
        "Error: There is no destination nobody: `priohook destinations list` shows their names.\n",
    )


def test_one_that_is_configured_is_not_removed(run, working, configured):
    working(lambda workers: workers.register("erp"))
    done = run("destinations", "remove", "--yes", "erp")
    assert done.status == 2
    assert "is in the settings" in done.errors


def test_one_that_left_the_settings_is_removed_with_what_is_pending(run, working):
    async def fill(workers: Workers):
        await workers.store("A")
        await workers.dispatch()

    working(fill)
    refused = run("destinations", "remove", "erp")
    assert (refused.status, "Drop 1 pending delivery to erp" in refused.errors) == (2, True)
    done = run("destinations", "remove", "--yes", "erp")
    assert done.status == 0
    assert "Pending deliveries to erp that were dropped: 1." in done.text
    assert listed(run) == {}
    assert "dropped" in run("deliveries", "list", "--destination", "erp").text
    assert run("destinations", "remove", "erp").status == 2


def test_a_test_event_that_nobody_takes_is_told_and_audited(run, working, monkeypatch):
    working(lambda workers: workers.register("erp"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and not listening
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/in"
        monkeypatch.setenv("PRIOHOOK_DESTINATIONS", json.dumps({"erp": {"url": url}}))
        done = run("destinations", "test", "erp", "--json", "--reason", "Is it up?")
    shown = json.loads(done.text)
    assert (done.status, shown["result"], shown["status"]) == (1, "unreachable", None)
    (row,) = [json.loads(line) for line in run("audit", "list", "--json", "--action", "test").text.splitlines()]
    assert (row["target"], row["reason"], row["channel"]) == ("erp", "Is it up?", "cli")


def test_one_that_is_not_configured_cannot_be_tested(run, working, configured):
    working(lambda workers: workers.register("old"))
    done = run("destinations", "test", "old")
    assert (done.status, "There is no destination old in the settings" in done.errors) == (2, True)

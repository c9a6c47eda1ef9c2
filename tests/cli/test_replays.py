import io
import json
import sys
from threading import Thread
from time import monotonic

import pytest

from app.events.ids import new_id
from tests.cli.conftest import NOON, refused_event
from tests.deliveries.workers import Workers
from tests.events.stores import new_event

URL = "http://127.0.0.1:9/in"


@pytest.fixture(autouse=True)
def configured(monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DESTINATIONS", json.dumps({"erp": {"url": URL}}))


@pytest.fixture
def three(fill):
    """Two accepted events of one day, and a quarantined one."""
    return fill(
        new_event("a", received_at=NOON, type="ORDER_CREATE", reference="A"),
        new_event("b", received_at=NOON.replace(hour=13), type="ORDER_CANCEL", reference="A"),
        refused_event("c", b"no", received_at=NOON.replace(hour=14)),
    )


def replays(run):
    return [json.loads(line) for line in run("replays", "list", "--json").text.splitlines()]


def test_a_dry_run_shows_the_plan_and_starts_nothing(run, three):
    done = run("replay", "--dry-run", "--rate", "0.02")
    assert done.status == 0
    assert done.text.splitlines() == [
        "2 events to erp",
        "          1  ORDER_CANCEL",
        "          1  ORDER_CREATE",
        "oldest   2026-08-12T12:00:00.000+00:00",
        "newest   2026-08-12T13:00:00.000+00:00",
        "takes    0:01:40 at 0.02 a second",
        "Left out: 1 quarantined event. What is released can be replayed.",
    ]
    assert replays(run) == []


def test_a_plan_as_json_is_one_object(run, three):
    shown = json.loads(run("replay", "--dry-run", "--json").text)
    assert (shown["to"], shown["seconds"], shown["replay"]) == ("erp", 2 / 50, None)
    assert (shown["plan"]["events"], shown["plan"]["quarantined"]) == (2, 1)
    assert shown["plan"]["types"] == {"ORDER_CREATE": 1, "ORDER_CANCEL": 1}


def test_without_a_terminal_it_needs_yes(run, three):
    done = run("replay")
    assert done.status == 2
    assert "Replay 2 events to erp? There is no terminal to ask on: give --yes." in done.errors
    assert replays(run) == []


def test_it_starts_a_replay_and_says_how_to_control_it(run, three):
    done = run("replay", "--yes", "--type", "ORDER_CANCEL", "--rate", "20")
    (row,) = replays(run)
    assert done.status == 0
    assert f"`priohook replays show --follow {row['id']}`" in done.text
    assert [row[name] for name in ("status", "destination", "events", "made", "rate")] == ["running", "erp", 1, 0, 20]
    assert row["filter"]["type"] == "ORDER_CANCEL"


def test_with_json_it_says_the_id(run, three):
    started = json.loads(run("replay", "--yes", "--json").text)
    assert replays(run) == [started["replay"]]


def test_nothing_to_replay_is_no_failure_and_starts_nothing(run, three):
    done = run("replay", "--type", "NOTHING")
    assert (done.status, done.text) == (0, "0 events to erp\n")
    assert replays(run) == []


def test_ids_are_read_from_a_file_a_line_each(run, three, tmp_path):
    (tmp_path / "ids").write_text(f"{three[1]}\n\n{three[0]}\n")
    assert json.loads(run("replay", "--dry-run", "--json", "--ids", str(tmp_path / "ids")).text)["plan"]["events"] == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_ids_may_be_written_by_powershell(run, three, tmp_path, encoding):
    text = f"{three[0]}\r\n{three[1]}\r\n".encode(encoding)
    (tmp_path / "ids").write_bytes(b"\xfe\xff" + text if encoding == "utf-16-be" else text)
    assert json.loads(run("replay", "--dry-run", "--json", "--ids", str(tmp_path / "ids")).text)["plan"]["events"] == 2


@pytest.mark.parametrize("content", [b"\xe9\r\n", b"\xff\xfea", b"\x00\x00"])
def test_ids_in_another_encoding_are_a_usage_error(run, three, tmp_path, content):
    (tmp_path / "ids").write_bytes(content)
    done = run("replay", "--dry-run", "--ids", str(tmp_path / "ids"))
    assert (done.status, done.written) == (2, b"")
    assert "--ids takes" in done.errors


def test_ids_are_read_from_standard_input(run, three, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{three[1]}\n"))
    assert json.loads(run("replay", "--dry-run", "--json", "--ids", "-").text)["plan"]["events"] == 1


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        ("quarantined", "1 of these events are quarantined: release them first with `priohook events release`."),
        ("unknown", "Unknown event id: "),
    ],
)
def test_ids_that_cannot_be_replayed_are_status_1(run, three, tmp_path, which, sentence):
    (tmp_path / "ids").write_text(str(three[2] if which == "quarantined" else new_id()))
    done = run("replay", "--yes", "--ids", str(tmp_path / "ids"))
    assert (done.status, done.written) == (1, b"")
    assert done.errors.startswith(f"Error: {sentence}")


def test_quarantined_events_are_refused_with_the_hint_to_release_them(run, three):
    done = run("replay", "--yes", "--status", "quarantined")
    assert done.status == 1
    assert "release them first with `priohook events release`" in done.errors


@pytest.mark.parametrize("text", ["one", "\n\none"])
def test_a_line_that_is_no_id_is_named(run, three, tmp_path, text):
    (tmp_path / "ids").write_text(text)
    done = run("replay", "--ids", str(tmp_path / "ids"))
    assert done.status == 2
    assert f"Line {len(text.splitlines())} is not a valid id" in done.errors


def test_ids_and_a_filter_exclude_each_other(run, three, tmp_path):
    (tmp_path / "ids").write_text(str(three[0]))
    assert run("replay", "--ids", str(tmp_path / "ids"), "--type", "T").status == 2


def test_a_url_of_ones_own_is_a_destination_without_its_password(run, three):
    done = run("replay", "--yes", "--to", "http://me:pass-word@127.0.0.1:9/in")
    assert done.status == 0
    shown = run("replays", "list", "--json").text + run("destinations", "list", "--json").text + done.text
    assert "pass-word" not in shown
    assert replays(run)[0]["destination"].startswith("http://127.0.0.1:9#")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("to", ["crm", "ftp://host/in", "file:///etc/passwd", "python:", ""])
def test_an_unknown_destination_is_status_2_and_lists_the_known_ones(run, three, to):
    done = run("replay", "--yes", "--to", to)
    assert done.status == 2
    assert "is neither a configured destination (erp) nor a valid URL (http(s)://… or python:…)" in done.errors


@pytest.mark.parametrize("known", [{}, {"erp": {"url": URL}, "crm": {"url": URL}}])
def test_where_to_must_be_said_unless_there_is_one_destination(run, three, monkeypatch, known):
    monkeypatch.setenv("PRIOHOOK_DESTINATIONS", json.dumps(known))
    done = run("replay", "--yes")
    assert done.status == 2
    assert "--to" in done.errors
    assert all(name in done.errors for name in known)


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--wait", "--detach"], ["--ids", "no-such-file"]])
def test_a_wrong_use_is_status_2_and_says_what_is_wrong(run, three, arguments):
    done = run("replay", *arguments)
    assert done.status == 2
    assert done.errors.splitlines()[-1].startswith("Error: ")


def test_a_replay_is_paused_resumed_and_cancelled_once(run, three):
    replay_id = json.loads(run("replay", "--yes", "--json").text)["replay"]["id"]
    for command, status in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert run("replays", command, replay_id).status == 0
        assert json.loads(run("replays", "show", replay_id, "--json").text)["status"] == status
    done = run("replays", "cancel", replay_id)
    assert done == (1, b"", f"Error: Replay {replay_id} is cancelled: `priohook replay` starts a new one.\n")


@pytest.mark.parametrize("command", ["show", "pause", "resume", "cancel"])
def test_an_unknown_replay_is_status_1(run, fill, command):
    fill()
    unknown = str(new_id())
    assert run("replays", command, unknown) == (1, b"", f"Error: There is no replay {unknown}.\n")


@pytest.mark.parametrize(("answer", "status"), [(200, 0), (500, 1)])
def test_wait_returns_when_the_replay_has_ended_and_says_whether_all_was_delivered(run, working, answer, status):
    async def carry_out(workers: Workers):
        """Works until the replay is done. Each failure moves the time hours ahead, to the next attempt."""
        until = monotonic() + 15
        while monotonic() < until:
            await workers.advance()
            turn = await workers.turn()
            await workers.turn(*(workers.ended(each, answer) for each in turn.claims))
            workers.wait(9 * 3600)
            if any(row.status == "done" for row in await workers.replays()):
                return

    working(lambda workers: workers.store("A"))
    working_thread = Thread(target=working, args=(carry_out,))
    working_thread.start()
    done = run("replay", "--yes", "--wait")
    working_thread.join()
    assert done.status == status
    assert f"is done: 1 delivery made, {status} of them dead." in done.errors

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from app.database.engines import engine_for
from app.database.writing import writing
from app.events.fetches import Fetch, ask_for
from app.events.ids import new_id
from tests.cli.conftest import COLOURS, NOON, NOTIFICATION, refused_event
from tests.conftest import payload
from tests.events.stores import new_event

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)


@pytest.fixture
def three(fill):
    """The ids of three events, oldest first."""
    return fill(
        new_event("a", received_at=NOON, type="ORDER_CREATE", reference="PRI1"),
        new_event("b", received_at=NOON + HOUR, type="ORDER_CANCEL", reference="PRI1", client="south"),
        refused_event("c", b"not json", received_at=NOON + 2 * HOUR),
    )


def listed(done):
    """The ids in what `events list --json` wrote."""
    return [json.loads(line)["id"] for line in done.text.splitlines()]


def test_a_list_into_a_pipe_is_tabs_and_newest_first(run, three):
    done = run("events", "list")
    rows = [line.split("\t") for line in done.text.splitlines()]
    assert done.status == 0
    assert rows == [
        [str(three[2]), "2026-08-12T14:00:00.000+00:00", "quarantined", "", "", "prioticket", "0"],
        [str(three[1]), "2026-08-12T13:00:00.000+00:00", "accepted", "ORDER_CANCEL", "PRI1", "south", "0"],
        [str(three[0]), "2026-08-12T12:00:00.000+00:00", "accepted", "ORDER_CREATE", "PRI1", "prioticket", "0"],
    ]


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ([], [2, 1, 0]),
        (["--type", "ORDER_CANCEL"], [1]),
        (["--reference", "PRI1"], [1, 0]),
        (["--status", "quarantined"], [2]),
        (["--client", "south"], [1]),
        (["--since", "2026-08-12T13:00"], [2, 1]),
        (["--until", "2026-08-12T15:00+02:00"], [0]),
        (["--since", "2026-08-12", "--until", "2026-08-13"], [2, 1, 0]),
        (["--until", "2026-08-12"], []),
        (["--limit", "1"], [2]),
        (["--reference", "PRI1", "--client", "prioticket"], [0]),
    ],
)
def test_a_list_narrows_to_what_its_options_say(run, three, options, places):
    done = run("events", "list", "--json", *options)
    assert done.status == 0
    assert listed(done) == [str(three[place]) for place in places]


def test_since_a_while_ago_counts_from_now(run, fill):
    old, new = fill(new_event("old", received_at=NOW - 25 * HOUR), new_event("new", received_at=NOW - HOUR))
    assert listed(run("events", "list", "--json", "--since", "24h")) == [str(new)]
    assert listed(run("events", "list", "--json", "--since", "2d")) == [str(new), str(old)]
    assert listed(run("events", "list", "--json", "--until", "90m")) == [str(old)]


def test_the_last_id_of_a_list_continues_it(run, three):
    first = listed(run("events", "list", "--json", "--limit", "2"))
    rest = listed(run("events", "list", "--json", "--limit", "2", "--before", first[-1]))
    assert first + rest == [str(each) for each in reversed(three)]


def test_json_has_every_column_but_the_bytes(run, fill):
    (stored,) = fill(new_event("a", received_at=NOON, type="T", order_version=3, order_modified=NOON))
    assert json.loads(run("events", "list", "--json").text) == {
        "id": str(stored),
        "received_at": "2026-08-12T12:00:00Z",
        "client": "prioticket",
        "status": "accepted",
        "reason": None,
        "type": "T",
        "event_name": None,
        "reference": None,
        "order_version": 3,
        "order_modified": "2026-08-12T12:00:00Z",
        "notification_id": None,
        "api_version": None,
        "shape": None,
        "body_bytes": 12,
        "duplicates": 0,
        "last_duplicate_at": None,
        "released_at": None,
        "origin": "received",
        "cause": None,
        "fetched_for": None,
        "erased_at": None,
    }


@pytest.mark.parametrize("command", ["list", "show"])
@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_nothing_that_a_sender_chose_moves_the_cursor_of_a_terminal(run, fill, command, flag):
    (stored,) = fill(new_event("a", body=b"\x1b[2J", headers=b"x: \x1b[2J\x9b1m", notification_id="n"))
    done = run("events", command, *flag, *([str(stored)] if command == "show" else []))
    assert done.status == 0
    assert not [each for each in done.text if not each.isprintable() and each not in "\n\t"]


EVIL = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e\x7f"
"""C0, C1, a bidi override and DEL."""


def evil_event(**columns):
    return new_event(
        "a", body=EVIL.encode() + b"\xff", headers=f"x: {EVIL[:-2]}".encode("latin-1", "replace"), **columns
    )


@pytest.mark.parametrize("flags", [[], ["--json"], ["--body"]], ids=str)
def test_on_a_terminal_nothing_of_an_event_moves_the_cursor_and_all_of_it_is_told(run, fill, terminal, flags):
    (stored,) = fill(evil_event(notification_id="n"))
    terminal(200)
    text = run("events", "show", str(stored), *flags).text
    assert not [each for each in text if not each.isprintable() and each not in "\n\t"]
    assert ("\\u001b[2J" if "--json" in flags else "\\x1b[2J\\x9b31m\\u202e\\x7f") in text


def test_json_has_what_is_stored_and_not_what_can_be_shown(run, fill):
    fill(new_event("a", type=f"{EVIL} é 😀 \u3000"))
    text = run("events", "list", "--json").text
    assert text.isascii()
    assert text.rstrip("\n").isprintable()
    assert json.loads(text)["type"] == f"{EVIL} é 😀 \u3000"


def test_an_empty_list_is_no_failure(run, fill):
    fill()
    assert run("events", "list") == (0, b"", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--since", "yesterday"],
        ["list", "--since", "24"],
        ["list", "--since", "24w"],
        ["list", "--since", "999999999999d"],
        ["list", "--since", "999999d"],
        ["list", "--until", "2026-13-01"],
        ["list", "--status", "lost"],
        ["list", "--before", "1"],
        ["list", "--limit", "0"],
        ["list", "--limit", "many"],
        ["show"],
        ["show", "1"],
        ["release"],
        ["release", "one"],
        ["release", str(new_id()), "--status", "415"],
        ["release", "--dry-run"],
        ["forget"],
    ],
)
def test_a_wrong_use_is_status_2_and_says_what_is_wrong(run, arguments):
    done = run("events", *arguments)
    assert (done.status, done.written) == (2, b"")
    assert done.errors.splitlines()[-1].startswith("Error: ")


def test_show_shows_the_columns_headers_and_body(run, fill):
    (stored,) = fill(new_event("a", received_at=NOON, body=NOTIFICATION, headers=b"x-one: 1\r\nx-two: 2"))
    shown = run("events", "show", str(stored)).text
    assert f"id                 {stored}\n" in shown
    assert "headers\n  x-one: 1\n  x-two: 2\n" in shown
    assert shown.endswith(NOTIFICATION.decode().rstrip("\n") + "\n" * (1 + NOTIFICATION.endswith(b"\n")))


def test_show_with_json_is_one_object_with_the_headers(run, fill):
    (stored,) = fill(new_event("a", headers=b"x-one: 1\r\nx-one: 2"))
    shown = json.loads(run("events", "show", "--json", str(stored)).text)
    assert (shown["id"], shown["headers"]) == (str(stored), [["x-one", "1"], ["x-one", "2"]])


@pytest.mark.parametrize("body", [b"", b"\n", bytes(range(256)), NOTIFICATION, "é\r\n😀".encode()])
def test_show_with_body_writes_the_exact_bytes(run, fill, body):
    (stored,) = fill(new_event("a", body=body))
    assert run("events", "show", "--body", str(stored)) == (0, body, "")


@pytest.mark.parametrize("command", ["show", "release"])
def test_an_id_that_nobody_has_is_status_1_and_one_sentence(run, fill, command):
    fill()
    unknown = str(new_id())
    done = run("events", command, unknown)
    assert done == (1, b"", f"Error: There is no event {unknown}.\n")


def test_release_accepts_what_can_be_read_now(run, fill):
    (refused,) = fill(refused_event("a", NOTIFICATION))
    assert run("events", "release", str(refused)) == (0, f"Event {refused} is accepted.\n".encode(), "")
    shown = json.loads(run("events", "show", "--json", str(refused)).text)
    assert (shown["status"], shown["type"]) == ("accepted", "ORDER_CREATE")
    assert shown["released_at"] is not None


def test_release_of_what_still_cannot_be_read_is_status_1_and_changes_nothing(run, fill):
    (refused,) = fill(refused_event("a", b"not json"))
    before = run("events", "show", "--json", str(refused))
    done = run("events", "release", str(refused))
    assert (done.status, done.written) == (1, b"")
    assert done.errors.startswith(f"Error: Event {refused} is still refused: ")
    assert run("events", "show", "--json", str(refused)) == before


def test_release_of_a_copy_counts_it_on_the_first(run, fill):
    first, copy = fill(refused_event("a", NOTIFICATION), refused_event("b", NOTIFICATION))
    run("events", "release", str(first))
    done = run("events", "release", str(copy))
    assert done == (0, f"It is a copy of event {first} and is now counted there.\n".encode(), "")
    assert json.loads(run("events", "show", "--json", str(first)).text)["duplicates"] == 1


@pytest.fixture
def quarantined(fill):
    """Three events that can be read, of which the last is a copy of the first, and one that cannot."""
    return fill(
        refused_event("a", NOTIFICATION, received_at=NOON),
        refused_event("b", b"not json", received_at=NOON + HOUR),
        refused_event("c", payload("04-notification-redemption"), received_at=NOON + 2 * HOUR, client="south"),
        refused_event("d", NOTIFICATION, received_at=NOON + 5 * timedelta(minutes=1)),
    )


def test_release_by_filters_shows_the_plan_and_asks(run, quarantined):
    done = run("events", "release", "--status", "415")
    assert (done.status, "Judge 4 events again? There is no terminal" in done.errors) == (2, True)
    assert done.text.startswith("4 quarantined events not judged again yet\n          4  415: The content type")
    assert run("events", "release", "--status", "415", "--dry-run").status == 0
    assert len(listed(run("events", "list", "--json", "--status", "quarantined"))) == 4


def test_release_by_filters_says_what_became_of_all(run, quarantined):
    done = run("events", "release", "--because", "not JSON", "--yes")
    assert done.status == 1
    assert done.text.endswith("\nAccepted: 2. Copies of accepted ones: 1. Still refused: 1.\n")
    assert "1 event still refused: It is still refused: " in done.errors
    again = run("events", "release", "--status", "415", "--yes")
    assert again.text.startswith("1 quarantined event ")


@pytest.mark.parametrize(
    ("options", "number"),
    [
        (["--client", "south"], 1),
        (["--since", "2026-08-12T13:00"], 2),
        (["--until", "2026-08-12T13:00"], 2),
        (["--status", "400"], 0),
        (["--because", "100%"], 0),
    ],
)
def test_release_narrows_to_what_its_options_say(run, quarantined, options, number):
    done = run("events", "release", *options, "--dry-run")
    assert done.text.startswith(f"{number} quarantined event")


def test_release_takes_several_ids(run, quarantined):
    done = run("events", "release", str(quarantined[0]), str(quarantined[1]))
    assert (done.status, done.text) == (1, f"Event {quarantined[0]} is accepted.\n")
    assert f"Event {quarantined[1]} is still refused: " in done.errors


def test_on_a_terminal_a_list_is_a_table_that_fits(run, fill, terminal):
    names = {"type": "ORDER_CANCEL", "reference": "PRI00000001"}
    stored = fill(
        *(new_event(str(number), received_at=NOW - number * 24 * HOUR, **names) for number in range(2)),
        refused_event("c", b"not json", received_at=NOW - 48 * HOUR),
    )
    terminal(80)
    head, *rows = COLOURS.sub("", run("events", "list").text).splitlines()
    assert head.split() == ["id", "received_at", "type", "reference", "note"]
    assert all(len(row) <= 80 for row in rows)
    assert [row[:18] for row in rows if row[0] != " "] == [str(each)[:18] for each in stored]
    assert f"{NOW:%H:%M:%S}" in rows[0]
    assert f"{NOW - 24 * HOUR:%m-%d %H:%M}" in rows[1]
    assert "quarantined" in rows[2]
    assert "415" in " ".join(rows[2:])


@pytest.mark.parametrize("command", ["show", "release"])
def test_the_beginning_of_an_id_will_do_if_no_other_begins_so(run, fill, command):
    first, _ = fill(refused_event("a", NOTIFICATION), refused_event("b", b"{}", received_at=NOON))
    assert run("events", command, str(first)[:18]).status == 0
    unknown = run("events", command, "ffffffff")
    assert unknown == (1, b"", "Error: There is no event whose id begins with ffffffff.\n")


def test_a_beginning_of_several_ids_is_status_1_and_names_them(run, fill):
    first, second = fill(new_event("a", received_at=NOON), new_event("b", received_at=NOON))
    done = run("events", "show", str(first)[:13])
    assert (done.status, done.written) == (1, b"")
    assert f"begin with {str(first)[:13]}: " in done.errors
    assert str(first) in done.errors
    assert str(second) in done.errors


def test_an_empty_list_says_how_many_events_there_are_without_its_filters(run, three):
    done = run("events", "list", "--reference", "nobody")
    assert done == (0, b"", "No events match. Without the filters there are 3.\n")


def test_a_notification_shows_what_became_of_the_fetch_of_its_order(run, fill, database_url):
    (stored,) = fill(new_event("a", reference="PRI1", type="ORDER_UPDATE", shape="notification"))
    error = "Prioticket has no such order: 400 INVALID_REQUEST (error_reference 7)."

    async def refuse() -> None:
        async with engine_for(database_url) as engine, writing(engine) as connection:
            await ask_for(connection, {stored: "PRI1"}, now=datetime.now(UTC))
            await connection.execute(update(Fetch).values(status="refused", attempts=1, error=error))

    asyncio.run(refuse())
    shown = run("events", "show", str(stored))
    assert "fetch status       refused" in shown.text
    assert error in shown.text
    assert json.loads(run("events", "show", str(stored), "--json").text)["fetch"]["error"] == error

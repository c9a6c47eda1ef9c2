import json

import pytest

from app.deliveries import operations
from app.deliveries.dispatch import Wanted, add
from app.events.ids import new_id
from tests.cli.conftest import COLOURS
from tests.deliveries.workers import Workers


@pytest.fixture
def four(working):
    """The ids of four deliveries: delivered, waiting for a retry, waiting for that one, and due."""

    async def make(workers: Workers):
        events = [await workers.store("A", type="ORDER_CREATE"), await workers.store("B")]
        await workers.dispatch()
        turn = await workers.turn()
        workers.wait(86400)  # so that the back-off is not over
        first, second = sorted(turn.claims, key=lambda claim: str(claim.reference))
        await workers.turn(workers.ended(first), workers.ended(second, 500, answer=b"<h1>\x1b[2Jno</h1>"))
        workers.wait(-86400)
        events += [await workers.store("B"), await workers.store()]
        await workers.dispatch()
        ids = {row.event_id: str(row.id) for row in await workers.deliveries()}
        return [ids[event] for event in events]

    return working(make)


@pytest.fixture
def dead(working):
    """The ids of two dead deliveries."""

    async def make(workers: Workers):
        await workers.store("A")
        await workers.store("B")
        await workers.dispatch()
        while any(row.status == "pending" for row in await workers.deliveries()):
            turn = await workers.turn()
            await workers.turn(
                *(workers.ended(each, None, error="Connection refused.") for each in turn.claims),
                limits=workers.limits._replace(max_in_flight=0),
            )
            workers.wait(9 * 3600)
        return [str(row.id) for row in await workers.deliveries()]

    return working(make)


def listed(run, *options):
    return [json.loads(line) for line in run("deliveries", "list", "--json", *options).text.splitlines()]


def statuses(run):
    return [row["status"] for row in listed(run)]


def test_a_list_into_a_pipe_is_tabs_and_newest_first(run, four):
    rows = [line.split("\t") for line in run("deliveries", "list").text.splitlines()]
    assert [row[0] for row in rows] == four[::-1]
    assert [[row[place] for place in (2, 3, 4, 5, 6)] for row in rows] == [
        ["ORDER_UPDATE", "", "erp", "pending", "0"],
        ["ORDER_UPDATE", "B", "erp", "pending", "0"],
        ["ORDER_UPDATE", "B", "erp", "pending", "1"],
        ["ORDER_CREATE", "A", "erp", "delivered", "1"],
    ]
    assert [row[8] for row in rows] == ["", "", "500", "200"]
    assert rows[1][7] == "waits for another"
    assert rows[3][7] == ""


@pytest.mark.parametrize(
    ("options", "places"),
    [
        (["--status", "delivered"], [0]),
        (["--status", "pending", "--destination", "erp"], [3, 2, 1]),
        (["--destination", "crm"], []),
        (["--reference", "B"], [2, 1]),
        (["--limit", "1"], [3]),
        (["--replay", str(new_id())], []),
        (["--event", str(new_id())], []),
        (["--failing"], [1]),
        (["--failing", "--destination", "erp", "--sort", "oldest"], [1]),
        (["--sort", "oldest"], [0, 1, 2, 3]),
        (["--sort", "oldest", "--status", "pending", "--limit", "2"], [1, 2]),
        (["--since", "1h"], [3, 2, 1, 0]),
        (["--until", "1h"], []),
    ],
)
def test_a_list_narrows_to_what_its_options_say(run, four, options, places):
    assert [row["id"] for row in listed(run, *options)] == [four[place] for place in places]


def test_the_last_id_of_a_list_continues_it(run, four):
    assert [row["id"] for row in listed(run, "--before", four[2])] == [four[1], four[0]]


def test_the_last_id_of_the_oldest_continues_them(run, four):
    assert [row["id"] for row in listed(run, "--sort", "oldest", "--after", four[1])] == four[2:]


def test_the_beginning_of_an_id_will_do(run, four):
    assert f"id                 {four[1]}\n" in run("deliveries", "show", four[1][:18]).text
    assert run("deliveries", "retry", four[1][:18]).text == f"Delivery {four[1]} is tried again.\n"


def test_on_a_terminal_a_list_fits(run, four, terminal):
    terminal(80)
    text = COLOURS.sub("", run("deliveries", "list").text)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(each[:18] in text for each in four)


def test_an_empty_list_says_how_many_deliveries_there_are_without_its_filters(run, four):
    assert run("deliveries", "list", "--destination", "crm").errors == (
        "No deliveries match. Without the filters there are 4.\n"
    )


def test_show_has_the_attempts_and_nothing_moves_the_cursor_of_a_terminal(run, four):
    done = run("deliveries", "show", four[1])
    assert done.status == 0
    assert "\nattempt 1\n" in done.text
    assert r"<h1>\x1b[2Jno</h1>" in done.text
    assert not [each for each in done.text if not each.isprintable() and each != "\n"]


def test_show_with_json_is_one_object_with_the_attempts(run, four):
    shown = json.loads(run("deliveries", "show", "--json", four[1]).text)
    delivery = shown["delivery"]
    assert (delivery["id"], delivery["status"], delivery["attempts"]) == (four[1], "pending", 1)
    assert [(each["number"], each["status"]) for each in shown["attempts"]] == [(1, 500)]


@pytest.mark.parametrize("command", ["show", "retry", "drop"])
def test_an_id_that_nobody_has_is_status_1_and_one_sentence(run, working, command):
    unknown = str(new_id())
    done = run("deliveries", command, unknown)
    assert (done.status, done.written) == (1, b"")
    assert done.errors.endswith(f": There is no delivery {unknown}.\n")


def test_retry_says_of_each_what_became_of_it_and_is_status_1_if_one_is_left(run, four):
    done = run("deliveries", "retry", four[1], four[0])
    assert done.status == 1
    assert done.text == f"Delivery {four[1]} is tried again.\n"
    assert done.errors == (f"priohook: Delivery {four[0]} was delivered: `priohook replay` delivers its event again.\n")


def test_retry_of_one_that_waits_behind_another_says_how_to_find_that(run, four):
    done = run("deliveries", "retry", four[2])
    command = "deliveries list --status pending --destination erp --reference B"
    assert done.status == 1
    assert done.errors == (
        f"priohook: Delivery {four[2]} waits for another one of B. Retry the one that is due; "
        f"see `priohook {command}`.\n"
    )
    assert four[1] in run(*command.split()).text


def test_retry_of_one_is_status_0(run, dead):
    assert run("deliveries", "retry", dead[0]) == (0, f"Delivery {dead[0]} is tried again.\n".encode(), "")
    assert sorted(statuses(run)) == ["dead", "pending"]


def test_retry_of_a_destination_takes_all_its_dead_ones(run, dead):
    done = run("deliveries", "retry", "--destination", "erp")
    assert done == (0, b"Dead deliveries to erp that are pending again: 2.\n", "")
    assert statuses(run) == ["pending", "pending"]


def test_drop_gives_up_one(run, four):
    assert run("deliveries", "drop", four[1]) == (0, f"Delivery {four[1]} is dropped.\n".encode(), "")
    assert statuses(run) == ["pending", "pending", "dropped", "delivered"]
    assert listed(run, "--reference", "B", "--status", "pending")[0]["due_at"] is not None


def test_drop_of_many_needs_yes_where_nobody_can_be_asked(run, dead):
    done = run("deliveries", "drop", "--destination", "erp", "--status", "dead")
    assert (done.status, done.written) == (2, b"")
    assert "Drop 2 dead deliveries to erp? There is no terminal to ask on: give --yes." in done.errors
    assert statuses(run) == ["dead", "dead"]


@pytest.mark.parametrize("command", [["retry"], ["drop", "--yes"]])
def test_on_a_terminal_a_change_of_many_shows_how_far_it_is(run, dead, terminal, command):
    terminal(80)
    assert "2/2" in run("deliveries", *command, "--destination", "erp").errors


@pytest.mark.parametrize(("status", "left"), [("dead", ["dropped", "dropped"]), ("pending", ["dead", "dead"])])
def test_drop_with_yes_drops_all_with_the_status(run, dead, status, left):
    done = run("deliveries", "drop", "--destination", "erp", "--status", status, "--yes")
    assert done.status == 0
    assert statuses(run) == left


@pytest.mark.parametrize("command", [["retry"], ["drop", "--yes"]])
def test_an_unknown_destination_is_status_2_and_lists_the_known_ones(run, working, command):
    working(lambda workers: workers.register("crm"))
    done = run("deliveries", *command, "--destination", "nobody")
    assert done.status == 2
    assert done.errors.endswith("There is no destination nobody. Known destinations: crm, erp.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--status", "lost"],
        ["list", "--event", "1"],
        ["list", "--limit", "0"],
        ["list", "--after", str(new_id())],
        ["show"],
        ["retry"],
        ["retry", str(new_id()), "--destination", "erp"],
        ["drop"],
        ["drop", "--destination", "erp", "--status", "delivered"],
    ],
)
def test_a_wrong_use_is_status_2_and_says_what_is_wrong(run, arguments):
    done = run("deliveries", *arguments)
    assert (done.status, done.written) == (2, b"")
    assert done.errors.splitlines()[-1].startswith("Error: ")


def test_a_drop_of_many_ends_although_others_keep_coming(run, four, monkeypatch):
    drop_pending, times = operations.drop_pending, 0

    async def drop_while_others_come(connection, destination, *, alike, now):
        nonlocal times
        times += 1
        assert times < 10
        dropped = await drop_pending(connection, destination, alike=alike, now=now)
        await add(connection, destination, [Wanted(new_id(), None)], replay_id=None, now=now)
        return dropped

    monkeypatch.setattr(operations, "drop_pending", drop_while_others_come)
    done = run("deliveries", "drop", "--destination", "erp", "--status", "pending", "--yes")
    assert (done.status, done.text) == (0, "Pending deliveries to erp that were dropped: 3.\n")
    assert statuses(run) == ["pending", "dropped", "dropped", "dropped", "delivered"]


def test_failures_are_grouped_and_a_group_is_tried_again_or_dropped(run, dead):
    (group,) = [json.loads(line) for line in run("deliveries", "groups", "--json").text.splitlines()]
    assert (group["deliveries"], group["status"], group["last_result"]) == (2, "dead", "unreachable")
    assert group["last_error"] == "Connection refused."
    assert run("deliveries", "groups").text.split("\t")[:4] == ["2", "erp", "dead", "unreachable"]
    of_group = ("--destination", "erp", "--outcome", "unreachable")
    asked = run("deliveries", "retry", *of_group)
    assert asked.status == 2
    assert "Try 2 dead deliveries to erp with outcome unreachable again?" in asked.errors
    none = run("deliveries", "retry", "--destination", "erp", "--answer", "500", "--yes")
    assert none.text == "Dead deliveries to erp with answer 500 that are pending again: 0.\n"
    done = run("deliveries", "drop", *of_group, "--type", "ORDER_UPDATE", "--yes")
    assert done.text == "Dead deliveries to erp with outcome unreachable, type ORDER_UPDATE that were dropped: 2.\n"
    assert run("deliveries", "retry", dead[0], "--type", "X").status == 2

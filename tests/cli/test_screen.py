from dataclasses import replace
from datetime import timedelta

import pytest
from rich.cells import cell_len

from app.alarms.judgement import judge
from app.cli.screen import screen
from app.deliveries.standings import State
from app.retention.last_backup import LastBackup
from tests.alarms.test_judgement import ERP, INCIDENTS, NOW, STUCK, WELL, refused
from tests.cli.test_alarms import FIRING


def shown(width=80, **changes):
    readings = replace(WELL, **changes)
    return screen(readings, judge(readings), width=width)


def test_the_first_line_says_that_all_is_well():
    assert shown()[0] == "All is well."


@pytest.mark.parametrize("incident", INCIDENTS)
def test_the_first_lines_say_what_is_wrong_and_what_to_type(incident):
    changes, _, what, command = INCIDENTS[incident]
    lines = shown(**changes)
    before = lines.index(f"  {command}")
    assert " ".join(lines[:before]) == what


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("incident", INCIDENTS)
def test_no_line_is_wider_than_the_terminal(incident, width):
    lines = shown(width, **INCIDENTS[incident][0])
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("name", ["仓库", "仓库" * 30, "cafe\u0301", "a-very-long-name-of-a-destination", "x" * 200])
def test_a_name_of_any_script_and_length_stays_within_the_columns(name):
    held = replace(STUCK, reference=name, last_error="連線被拒絕。" * 20)
    lines = shown(**INCIDENTS["a poison order"][0] | {"destinations": (replace(ERP, name=name, stuck=(held,)),)})
    assert max(map(cell_len, lines)) <= 80
    assert lines[0] == "All is well."


def test_without_an_accepted_event_among_the_newest_it_is_not_said_that_nothing_came():
    assert "none of the newest 1,000 was accepted; 60 in 10 min" in " ".join(shown(last_accepted=()))
    assert "nothing yet" in " ".join(shown(last_accepted=(), last_events=()))


def test_what_was_read_is_told_in_words():
    stuck = replace(
        ERP, state=State.FAILING, due=3, failing=1, oldest_due_at=NOW - timedelta(minutes=5), stuck=(STUCK,)
    )
    text = " ".join(" ".join(shown(destinations=(stuck,), refused_last_hour=refused())).split())
    for told in (
        "priohook 0.1.0 on PostgreSQL 17.2, 1 GB and 90 MB a day, schema 0012",
        "standbys 1 synchronous: an acknowledged event survives the loss of any machine",
        "processes 1 receiver, 1 worker, beat 0 s ago; version 0.1.0, settings abc",
        "received last 60 s ago; 60 in 10 min, 412 in 1 h (same hour of last week 398)",
        "ORDER_CREATE 60 s ago",
        "refused 5 in 1 h: 401 wrong_secret 5 (prioticket from 192.0.2.1)",
        "quarantine empty",
        "waiting 0 to be stored, 0 in the spool, 0 without deliveries",
        "erp failing, 3 due, 1 failing, the oldest due 5 min ago, last success 60 s ago",
        "PRI1 held back for 41 min by 01a2185f-4f18-7e96: 500 (4 attempts, 2 wait)",
        "disk 50 GB of 100 GB free (database), enough for 555 days",
    ):
        assert told in text


def test_an_alarm_that_fires_on_while_nothing_is_wrong_says_when_it_was_last_seen():
    alarm = replace(FIRING, started_at=NOW - timedelta(minutes=12), seen_at=NOW - timedelta(minutes=3))
    lines = shown(alarms=(alarm,))
    assert lines[0] == "All is well."
    assert "alarms      1 fires: backlog erp for 12 min, last seen 3 min ago" in lines
    assert "alarms      1 fires: backlog erp for 12 min" in shown(alarms=(replace(alarm, seen_at=NOW),))


def test_the_last_backup_of_a_sqlite_file_is_told():
    backup = LastBackup(NOW - timedelta(hours=3), "/backups/priohook.db")
    assert "backup      3 h ago to /backups/priohook.db" in shown(database="SQLite 3.46.1", last_backup=backup)
    assert "backup      none was made by priohook backup" in shown(database="SQLite 3.46.1")
    assert not [line for line in shown() if line.startswith("backup")]


def test_nothing_from_outside_moves_the_cursor():
    lines = shown(destinations=(replace(ERP, name="\x1b[2J"),))
    assert all(line.isprintable() for line in lines)

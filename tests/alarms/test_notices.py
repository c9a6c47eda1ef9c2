import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.alarms.kept import Due, Listed
from app.alarms.notices import message
from app.alarms.tables import Stage

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
ID = UUID("01a2185f-4f18-7e96-93a7-9cea445f20e4")
ALARM = Listed(
    id=ID,
    kind="backlog",
    name="destination_late",
    subject="erp",
    severity="critical",
    what="Deliveries to erp are 20 min late, and 50 deliveries wait.",
    command="priohook deliveries list --destination erp",
    since=NOON - timedelta(minutes=20),
    example=str(ID),
    started_at=NOON,
    seen_at=NOON,
    ended_at=None,
)


def due(stage, alarm=ALARM):
    return Due(ID, stage, NOON + timedelta(hours=3), 0, alarm)


def test_a_start_says_what_since_when_an_example_and_what_to_type():
    told = message(due(Stage.STARTED))
    assert (told.title, told.level) == ("priohook: backlog erp: destination late", "failure")
    assert told.text.splitlines() == [
        "Deliveries to erp are 20 min late, and 50 deliveries wait.",
        "Since: 2026-08-12 11:40:00 UTC",
        f"Example: {ID}",
        "Type: priohook deliveries list --destination erp",
        f"Alarm: {ID}",
    ]
    body = json.loads(told.body)
    assert (body["type"], body["data"]["kind"], body["data"]["subject"]) == ("alarm.started", "backlog", "erp")


def test_an_end_says_how_long_it_was():
    told = message(due(Stage.ENDED, replace(ALARM, ended_at=NOON + timedelta(hours=2))))
    assert (told.title, told.level) == ("priohook: backlog erp: over", "success")
    assert told.text.startswith("Over after 2 h. It was: Deliveries to erp are 20 min late")


def test_what_lasts_says_for_how_long():
    assert message(due(Stage.LASTS)).title == "priohook: backlog erp for 3 h"


def test_no_character_of_a_name_controls_a_terminal():
    told = message(due(Stage.STARTED, replace(ALARM, subject="erp\x1b[2J", what="erp\x1b[2J is late.")))
    assert "\x1b" not in told.title + told.text

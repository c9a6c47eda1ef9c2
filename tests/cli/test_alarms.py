import asyncio
import json
from datetime import UTC, datetime

import pytest

from app.alarms.changes import Changes, Firing
from app.alarms.kept import keep
from app.database.engines import engine_for
from app.database.writing import writing
from app.events.ids import new_id

NOW = datetime.now(UTC)
FIRING = Firing(
    id=new_id(),
    kind="backlog",
    name="destination_late",
    subject="erp",
    severity="critical",
    what="Deliveries to erp are 20 min late, and 50 deliveries wait.",
    command="priohook deliveries list --destination erp",
    since=NOW,
    example=None,
    started_at=NOW,
    seen_at=NOW,
    told_at=NOW,
)


@pytest.fixture
def fires(database_url, fill):
    """Stores an alarm that fires."""

    async def store():
        async with engine_for(database_url) as engine, writing(engine) as connection:
            await keep(connection, Changes([FIRING], [], [], []), ["ops"], now=NOW)

    fill()
    asyncio.run(store())


def test_no_alarm_is_an_empty_list(run, fill):
    fill()
    done = run("alarms", "list")
    assert (done.status, done.text) == (0, "")


def test_an_alarm_that_fires_is_listed(run, fires):
    assert "Deliveries to erp are 20 min late" in run("alarms", "list").text
    shown = json.loads(run("alarms", "list", "--json").text)
    assert (shown["id"], shown["kind"], shown["ended_at"]) == (str(FIRING.id), "backlog", None)


def test_the_status_shows_what_fires_and_what_is_still_to_be_told(run, fires):
    text = " ".join(run("status").text.split())
    assert "alarms 1 fires: backlog erp for " in text
    assert "1 notice is still to be told" in text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_channel_that_does_not_exist_cannot_be_tried(run, fill):
    done = run("alarms", "test", "ops")
    assert done.status == 2
    assert "ops is not one of alarm_channels in the settings; no channel is there." in done.errors


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"url": "http://127.0.0.1:1/secret"}, "was not told."),
        ({"ping": "http://127.0.0.1:1/secret"}, "was not told."),
    ],
)
def test_a_channel_that_cannot_be_reached_is_status_1_without_its_url(run, monkeypatch, settings, why):
    monkeypatch.setenv("PRIOHOOK_ALARM_CHANNELS", json.dumps({"ops": settings}))
    done = run("alarms", "test", "ops")
    assert done.status == 1
    assert why in done.errors
    assert "secret" not in done.errors


def test_settings_show_no_secret_of_a_channel(run, monkeypatch):
    channels = {
        "tg": {"url": "tgram://bottoken/chat"},
        "hook": {"url": "https://ops.example/hidden", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
        "watch": {"ping": "https://hc.example/hidden", "every": "2m"},
    }
    monkeypatch.setenv("PRIOHOOK_ALARM_CHANNELS", json.dumps(channels))
    monkeypatch.setenv("PRIOHOOK_ALARMS", json.dumps({"silence": {"quiet": "2h"}}))
    shown = json.loads(run("settings", "--json").text)
    assert shown["alarm_channels"]["value"] == {
        "tg": {"url": "tgram://***", "timeout": "10s"},
        "hook": {"secret": ["***"], "url": "https://ops.example/***", "timeout": "10s"},
        "watch": {"ping": "https://hc.example/***", "timeout": "10s", "every": "2m"},
    }
    assert shown["alarms"]["value"] == {"silence": {"ends_after": "0s", "quiet": "2h", "events": ["*"]}}

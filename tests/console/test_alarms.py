from dataclasses import replace
from datetime import timedelta

import pytest

from app.alarms.changes import Changes
from app.alarms.kept import due_notices, keep, told, untold
from app.database.writing import writing
from tests.cli.test_alarms import FIRING, NOW
from tests.console.conftest import HOSTILE


@pytest.fixture
def change(engine):
    """`await change(Changes(…))` keeps what has changed."""

    async def change(changes, *channels, now=NOW):
        async with writing(engine) as connection:
            await keep(connection, changes, channels, now=now)

    return change


async def test_nothing_fires(desk):
    page = await desk.see("/console/alarms")
    assert "No alarm fires." in page
    assert "None is configured" in page


async def test_an_alarm_that_fires_says_what_to_do_and_who_was_told(desk, change, engine):
    await change(Changes([FIRING], [], [], []), "ops", "mail")
    async with writing(engine) as connection:
        (ops,) = await due_notices(connection, "ops", now=NOW)
        (mail,) = await due_notices(connection, "mail", now=NOW)
        await told(connection, ops.id, now=NOW)
        await untold(connection, mail, "it answered 500", now=NOW)
    page = await desk.see("/console/alarms")
    assert FIRING.what in page
    assert FIRING.command in page
    assert '<a href="/console/runbooks#PriohookDeliveriesLate">' in page
    assert "<bdi>ops</bdi>, started:" in page
    assert "not told yet" in page
    assert "it answered 500" in page
    assert "1 notice is still to be told" in page


async def test_an_alarm_that_ended_says_when(desk, change):
    await change(Changes([FIRING], [], [], []))
    await change(Changes([], [], [FIRING], []), now=NOW + timedelta(minutes=5))
    page = await desk.see("/console/alarms")
    assert "No alarm fires." in page
    assert f"{NOW + timedelta(minutes=5):%Y-%m-%d %H:%M:%S} UTC</time>" in page
    assert "nobody was told" in page


async def test_hostile_text_stays_text(desk, change):
    await change(Changes([replace(FIRING, what=HOSTILE, subject=HOSTILE, example=HOSTILE)], [], [], []), "ops")
    page = await desk.see("/console/alarms")
    assert "<script>alert" not in page
    assert "\u202e" not in page

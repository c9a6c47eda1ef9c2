import asyncio
import json
from typing import Any

import pytest

from app.database.engines import engine_for
from app.telemetry.reporting import Reporter
from app.telemetry.tally import Tally
from tests.telemetry.test_reporting import identity
from tests.telemetry.test_tally import NOON, Clock, line


def refuse(url: str, *lines: dict[str, Any]) -> None:
    """Stores what a receiver counts of these requests, one in each minute from noon on."""

    async def store() -> None:
        clock = Clock()
        tally = Tally(clock=clock)
        for each in lines:
            tally.answered(each)
            clock.now += 60
        async with engine_for(url) as engine:
            await Reporter(engine, identity(), tally=tally).report(now=NOON)

    asyncio.run(store())


@pytest.fixture(autouse=True)
def refused(database_url, monkeypatch):
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", database_url)
    refuse(database_url, line(client="prioticket"), line(422, reason="unprocessable"), line(client="prioticket"))


def test_refusals_are_listed_those_of_clients_first(run):
    done = run("refusals", "list", "--since", "2026-08-12")
    assert done.text.splitlines() == [
        "2\t401\twrong_secret\twebhook\tprioticket\t192.0.2.1\t2026-08-12T12:02:00.000+00:00",
        "1\t422\tunprocessable\twebhook\t\t192.0.2.1\t2026-08-12T12:01:00.000+00:00",
    ]


def test_refusals_are_listed_by_minute_the_latest_first(run):
    done = run("refusals", "list", "--since", "2026-08-12T12:01", "--minutes", "--json")
    rows = [json.loads(each) for each in done.text.splitlines()]
    assert [(row["minute"], row["reason"], row["client"]) for row in rows] == [
        ("2026-08-12T12:02:00Z", "wrong_secret", "prioticket"),
        ("2026-08-12T12:01:00Z", "unprocessable", None),
    ]


def test_without_an_option_the_last_hour_is_listed(run):
    assert run("refusals", "list").written == b""

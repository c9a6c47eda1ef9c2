"""Every list on a terminal of 80 columns."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from app.database.engines import engine_for
from app.database.writing import writing
from app.telemetry.refusals import add_refusals
from app.telemetry.tally import Heard, Refusal
from app.telemetry.uses import add_uses
from tests.cli.conftest import COLOURS
from tests.deliveries.workers import Workers

ERP = {"erp-of-the-museum": {"url": "https://erp.example/a/long/path/to/it"}}
CLIENT = {"secret": "a-secret-of-more-than-16", "not_after": "2030-01-01T00:00:00Z"}
CLIENTS = {
    "prioticket-2026": CLIENT | {"scopes": ["webhooks:send"]},
    "administrator": CLIENT | {"scopes": ["events:read", "events:replay", "console"]},
}


@pytest.fixture
def filled(working, database_url, monkeypatch):
    """A database with one of everything that is listed."""
    monkeypatch.setenv("PRIOHOOK_DESTINATIONS", json.dumps(ERP))
    monkeypatch.setenv("PRIOHOOK_CLIENTS", json.dumps(CLIENTS))

    async def fill(workers: Workers):
        for type_ in ("ORDER_CANCEL_PARTIAL", "PAYMENT_REFUND"):
            await workers.store("PRI00000001", type=type_)
        await workers.start()
        await workers.dispatch()
        (claim,) = (await workers.turn()).claims
        error = "ConnectionRefusedError: [Errno 111] Connect call failed ('127.0.0.1', 9)"
        await workers.turn(workers.ended(claim, None, error=error))

    async def refuse():
        now = datetime.now(UTC) - timedelta(minutes=3)
        minute = int(now.timestamp()) // 60 * 60
        refused = Refusal(minute, "webhook", 401, "unknown_username", "2001:db8:1234:5678::/64", "prioticket-2026")
        async with engine_for(database_url) as engine, writing(engine) as connection:
            await add_refusals(connection, {refused: 123_456})
            heard = Heard(now, now, 401, "unknown_username", "2001:db8:1234:5678::/64")
            await add_uses(connection, {"prioticket-2026": heard})

    working(fill)
    asyncio.run(refuse())


@pytest.mark.parametrize("things", ["events", "deliveries", "destinations", "replays", "clients", "refusals"])
def test_a_list_fits_80_columns_and_keeps_ids_whole(run, filled, terminal, things):
    terminal(80)
    done = run(things, "list")
    lines = COLOURS.sub("", done.text).splitlines()
    assert done.status == 0
    assert max(map(len, lines)) <= 80
    assert len(lines) > 1
    head = lines[0].split()
    listed = [json.loads(line) for line in run(things, "list", "--json").text.splitlines()]
    if head[0] == "id":
        assert all(any(line.startswith(row["id"][:18]) for line in lines) for row in listed)

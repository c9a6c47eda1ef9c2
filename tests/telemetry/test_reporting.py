import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engines import engine_for
from app.telemetry import processes, refusals, reporting
from app.telemetry.processes import SILENT, Gauges, Identity, list_processes, new_name, running_processes
from app.telemetry.refusals import list_refusals, sum_refusals
from app.telemetry.reporting import Reporter
from app.telemetry.tally import Tally
from app.telemetry.uses import client_uses
from tests.e2e.proxy import GARBAGE, through_proxy
from tests.telemetry.test_tally import NOON, Clock, line

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
PATIENCE = 30.0  # seconds; a bound for a slow machine, never waited for
EVER = datetime(2020, 1, 1, tzinfo=UTC)


def identity(kind: Any = "receiver") -> Identity:
    return Identity.of_this_process(kind, name=new_name(), settings="0f1e2d3c4b5a", now=NOON)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> Tally:
    return Tally(clock=clock)


async def read(engine: AsyncEngine, query: Any, **given: Any) -> Any:
    async with engine.connect() as connection:
        return await query(connection, **given)


async def test_a_process_says_who_it_is_and_how_it_is(engine):
    receiver = identity()
    await Reporter(engine, receiver, gauges=lambda: Gauges(3, 2, 1000, 7)).report(now=NOON)
    (seen,) = await read(engine, list_processes, since=EVER)
    assert (seen.id, seen.kind, seen.name, seen.settings) == (receiver.id, "receiver", receiver.name, "0f1e2d3c4b5a")
    assert (seen.started_at, seen.beat_at, seen.ended_at) == (NOON, NOON, None)
    assert (seen.waiting_events, seen.spooled_events, seen.spooled_bytes, seen.log_lines_dropped) == (3, 2, 1000, 7)


async def test_a_process_beats_every_ten_seconds_in_the_same_row(engine):
    reporter = Reporter(engine, identity("worker"))
    for seconds in (0, 5, 10, 15):
        await reporter.report(now=NOON + timedelta(seconds=seconds))
    (seen,) = await read(engine, list_processes, since=EVER)
    assert (seen.started_at, seen.beat_at) == (NOON, NOON + timedelta(seconds=10))


async def test_a_clock_that_is_set_back_does_not_stop_the_beat(engine):
    reporter = Reporter(engine, identity())
    await reporter.report(now=NOON)
    await reporter.report(now=NOON - DAY)
    (seen,) = await read(engine, list_processes, since=EVER)
    assert seen.beat_at == NOON - DAY


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("wrong", [timedelta(hours=1), timedelta(hours=-1)], ids=str)
async def test_a_process_on_a_host_whose_clock_is_wrong_is_seen_by_the_clock_of_the_database(engine, wrong):
    def clock():
        return datetime.now(UTC) + wrong

    await Reporter(engine, identity("worker"), clock=clock).report(now=clock())
    now = datetime.now(UTC)
    for later, number in ((timedelta(0), 1), (2 * SILENT, 0)):
        assert len(await read(engine, running_processes, now=now + later)) == number


async def test_a_process_that_falls_silent_is_told_from_one_that_ended(engine):
    names = []
    for ended in (True, False):
        reporter = Reporter(engine, one := identity())
        names.append(one.name)
        await reporter.report(now=NOON)
        if ended:
            await reporter.report(now=NOON, ended=True)
    seen = {each.name: each for each in await read(engine, list_processes, since=EVER)}
    for later, states in ((timedelta(0), ["ended", "running"]), (SILENT, ["ended", "silent"])):
        assert [seen[name].state(now=NOON + later) for name in names] == states
        running = await read(engine, running_processes, now=NOON + later)
        assert [each.name for each in running] == [name for name in names if not later and name == names[1]]


async def test_rows_of_processes_that_are_long_gone_are_deleted_in_small_steps(engine, monkeypatch):
    monkeypatch.setattr(processes, "DELETED_AT_ONCE", 2)
    for _ in range(3):
        await Reporter(engine, identity()).report(now=NOON)
    reporter = Reporter(engine, identity())
    left = []
    for minutes in (1, 2, 3):
        await reporter.report(now=NOON + DAY + minutes * MINUTE)
        left.append(len(await read(engine, list_processes, since=EVER)))
    assert left == [2, 1, 1]


async def test_the_counts_of_two_receivers_are_added(engine, clock):
    for _ in range(2):
        tally = Tally(clock=clock)
        tally.answered(line(client="prioticket"))
        tally.answered(line(address="2001:db8::7", reason="unknown_username"))
        await Reporter(engine, identity(), tally=tally).report(now=NOON)
    found = await read(engine, list_refusals, since=NOON, limit=10)
    assert [(each.minute, each.address, each.client, each.requests) for each in found] == [
        (NOON, "2001:db8::/64", "", 2),
        (NOON, "192.0.2.1", "prioticket", 2),
    ]


async def test_refusals_are_summed_since_the_minute_of_a_time(engine, tally, clock):
    for count in (3, 2, 1):
        for _ in range(count):
            tally.answered(line(client="prioticket"))
        clock.now += 60
    tally.answered(line(503, reason="queue_full"))
    await Reporter(engine, identity(), tally=tally).report(now=NOON)
    first, second = await read(engine, sum_refusals, since=NOON + timedelta(seconds=90), limit=10)
    assert (first.requests, first.client, first.last) == (3, "prioticket", NOON + 2 * MINUTE)
    assert (second.status, second.reason, second.requests) == (503, "queue_full", 1)


async def test_a_client_stays_within_the_limit_however_many_strangers_are_refused(engine, tally):
    for number in range(10):
        for _ in range(2):
            tally.answered(line(address=f"198.51.100.{number}", reason="unknown_username"))
    tally.answered(line(client="prioticket"))
    await Reporter(engine, identity(), tally=tally).report(now=NOON)
    found = await read(engine, sum_refusals, since=NOON, limit=2)
    assert [(each.client, each.requests) for each in found] == [("prioticket", 1), ("", 2)]


async def test_refusals_are_kept_for_seven_days_and_deleted_in_small_steps(engine, tally, clock, monkeypatch):
    monkeypatch.setattr(refusals, "MINUTES_AT_ONCE", 2)
    for _ in range(4):
        tally.answered(line())
        clock.now += 60
    await Reporter(engine, identity(), tally=tally).report(now=NOON)
    left = []
    for minutes in (3, 4):
        reporter = Reporter(engine, identity())
        await reporter.report(now=NOON + 7 * DAY + minutes * MINUTE)
        left.append(len(await read(engine, list_refusals, since=EVER, limit=10)))
    assert left == [2, 0]


async def test_of_a_client_the_later_of_two_receivers_counts(engine, clock):
    tallies = [Tally(clock=clock), Tally(clock=clock)]
    tallies[0].answered(line(200, client="prioticket"))
    tallies[0].answered(line(client="prioticket", reason="expired"))
    clock.now += 60
    tallies[1].answered(line(200, client="prioticket"))
    for tally in reversed(tallies):
        await Reporter(engine, identity(), tally=tally).report(now=NOON)
    (use,) = (await read(engine, client_uses)).values()
    assert use == ("prioticket", NOON + MINUTE, NOON, 401, "expired", "192.0.2.1")


async def test_counts_wait_while_the_database_is_away(tmp_path, engine, tally):
    tally.answered(line(client="prioticket"))
    async with engine_for(f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}") as away:
        with pytest.raises(Exception, match="no such table"):
            await Reporter(away, identity(), tally=tally).report(now=NOON)
    await Reporter(engine, identity(), tally=tally).report(now=NOON)
    assert [each.requests for each in await read(engine, list_refusals, since=NOON, limit=10)] == [1]


async def test_a_database_that_cannot_be_used_is_logged_once_and_stops_nothing(tmp_path, caplog):
    caplog.set_level("INFO")
    url = f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}"
    async with engine_for(url) as away, Reporter(away, identity()).running():
        await asyncio.sleep(0)
    assert [record.message for record in caplog.records] == ["report_failed"]


async def test_a_process_reports_again_after_answers_that_are_not_postgresqls(postgres_url, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(reporting, "EVERY", timedelta(seconds=0.05))
    async with asyncio.timeout(PATIENCE), through_proxy(postgres_url) as (url, proxy), engine_for(url) as engine:
        async with engine.connect():
            pass
        proxy.garbling = GARBAGE
        async with Reporter(engine, identity()).running():
            while "report_failed" not in caplog.messages:  # noqa: ASYNC110 - another task's doing
                await asyncio.sleep(0.05)
            proxy.garbling = b""
            while not await read(engine, list_processes, since=EVER):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_reporter_that_ends_says_so(engine):
    async with Reporter(engine, identity()).running():
        pass
    (seen,) = await read(engine, list_processes, since=EVER)
    assert seen.ended_at is not None


async def test_the_receiver_reports_itself_its_refusals_and_its_clients(start, database_url, engine):
    async with start(database_url) as client:
        await client.post("/webhooks/prioticket", headers={"Authorization": "Basic x"})
    async with engine.connect() as connection:
        seen = (await list_processes(connection, since=EVER))[0]
        found = await list_refusals(connection, since=EVER, limit=10)
        durable = await connection.scalar(text("SELECT count(*) FROM refusals"))
    assert (seen.kind, seen.waiting_events, seen.log_lines_dropped, durable) == ("receiver", 0, 0, 1)
    assert [(each.door, each.status, each.reason, each.address) for each in found] == [
        ("webhook", 401, "malformed", "127.0.0.1")
    ]

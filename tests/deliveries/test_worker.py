import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, select

from app.database.writing import writing
from app.deliveries.dispatch import BATCH, ENOUGH
from app.deliveries.plans import plan
from app.deliveries.replays import start
from app.deliveries.tables import Destination
from app.deliveries.worker import Worker
from app.events.queries import EventFilter
from app.events.tables import Event
from app.settings.model import DestinationSettings
from app.telemetry import traces
from tests.deliveries.workers import Workers
from tests.events.stores import new_event

pytestmark = pytest.mark.slow

MANY = (ENOUGH + 1) * BATCH
PATIENCE = 60  # seconds; a busy machine may need some of them

REQUEST = "0123456789ab0000000001"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of functions that take events."""
    (tmp_path / "idle_business.py").write_text("async def take(event): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))


async def test_the_url_of_a_replay_is_forgotten_when_the_replay_is_over(engine, database_url, own):
    workers = Workers(engine)
    await workers.store("A")
    async with writing(engine) as connection:
        planned = await plan(connection, EventFilter())
        url = "python:idle_business:take"
        later = workers.now + timedelta(seconds=1)
        await start(connection, EventFilter(), destination="laptop", url=url, rate=100, planned=planned, now=later)

    async def forgotten():
        async with engine.connect() as connection:
            return not (await connection.scalars(select(Destination.name))).all()

    async with Worker(engine, database_url, {}).running():
        await until(forgotten)
    assert [row.status for row in await workers.deliveries()] == ["delivered"]
    assert [row.status for row in await workers.replays()] == ["done"]


async def test_why_a_destination_cannot_be_used_is_kept_until_a_worker_can_use_it(engine, database_url, own):
    workers = Workers(engine)
    destinations = {"erp": DestinationSettings(url="python:idle_business:nobody")}

    async def told():
        return (await workers.destination()).unusable_reason is not None

    async with Worker(engine, database_url, destinations).running():
        await until(told)
    assert "idle_business:nobody cannot be used" in (await workers.destination()).unusable_reason
    destinations = {"erp": DestinationSettings(url="python:idle_business:take")}
    async with Worker(engine, database_url, destinations).running():
        assert (await workers.destination()).unusable_reason is None


async def test_the_certificate_of_a_destination_without_tls_is_forgotten(engine, database_url):
    workers = Workers(engine)
    await workers.store("A")
    async with writing(engine) as connection:
        rows = [{"name": name, "since": workers.now, "certificate_until": workers.now} for name in ("plain", "tls")]
        await connection.execute(insert(Destination), rows)
    settings = {
        name: DestinationSettings(url=f"{scheme}://127.0.0.1:9/in", events=["NONE"])
        for name, scheme in (("plain", "http"), ("tls", "https"))
    }
    async with Worker(engine, database_url, settings).running(), engine.connect() as connection:
        found = await connection.execute(select(Destination.name, Destination.certificate_until))
        assert {name: until is None for name, until in found if name != "erp"} == {"plain": True, "tls": False}


async def test_a_pause_and_its_end_are_warnings_of_the_worker_whoever_did_it(engine, database_url, own, caplog):
    workers = Workers(engine)
    destinations = {"erp": DestinationSettings(url="python:idle_business:take")}

    def told():
        return [(each.message, each.fields) for each in caplog.records if each.message.startswith("destination_")]

    async with Worker(engine, database_url, destinations).running():
        for paused, number in ((True, 1), (False, 2)):
            await workers.pause(paused=paused)

            async def was_told(number=number):
                return len(told()) == number

            await until(was_told)
    assert told() == [
        ("destination_paused", {"destination": "erp", "reason": "By hand."}),
        ("destination_resumed", {"destination": "erp"}),
    ]


async def test_the_log_line_of_an_attempt_says_what_the_attempt_was(engine, database_url, own, caplog):
    caplog.set_level("INFO", logger="app.deliveries")
    workers = Workers(engine)
    await workers.register()
    await workers.store("A")

    def attempts():
        return [each.fields for each in caplog.records if each.message == "attempt"]

    async def was_made():
        return bool(attempts())

    async with Worker(engine, database_url, {"erp": DestinationSettings(url="python:idle_business:take")}).running():
        await until(was_made)
    assert [(line["destination"], line["attempt"], line["result"]) for line in attempts()] == [("erp", 1, "delivered")]


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A module of a function that fails with its trace."""
    (tmp_path / "traced_business.py").write_text("async def fail(event): raise ValueError(event.traceparent)\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("columns", "trace"),
    [({"trace": TRACE}, TRACE), ({"request_id": REQUEST}, traces.begun_by(REQUEST)), ({}, None)],
)
@pytest.mark.usefixtures("failing")
async def test_each_attempt_is_a_span_of_the_events_trace(engine, database_url, caplog, columns, trace):
    """Also of an event that a release without traces has stored: it gets a trace with each attempt."""
    caplog.set_level("INFO", logger="app.deliveries")
    workers = Workers(engine)
    await workers.register()
    await workers.store("A", **columns)

    def attempts():
        return [each for each in caplog.records if each.message == "attempt"]

    async def was_made():
        return bool(attempts())

    async with Worker(engine, database_url, {"erp": DestinationSettings(url="python:traced_business:fail")}).running():
        await until(was_made)
    line = attempts()[0]
    sent = line.fields["error"].removeprefix("ValueError: ")
    assert (line.levelname, line.fields["reference"]) == ("WARNING", "A")
    assert traces.trace_id(sent) == line.fields["trace"]
    assert trace is None or traces.trace_id(sent) == traces.trace_id(trace)
    assert sent != trace


async def test_a_destination_with_nothing_to_do_takes_no_turn(engine, database_url, own):
    names = ["busy", "idle", "idler"]
    destinations = {
        name: DestinationSettings(url="python:idle_business:take", events=("ORDER_*",) if name == "busy" else ("NONE",))
        for name in names
    }
    locked: list[str] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
        if "FROM destinations" in statement:
            locked.extend(name for name in names if name in parameters)

    async def each_has_had_its_first_turn():
        return all(locked.count(name) == 1 for name in names)  # a turn takes its lock once

    async def delivered():
        return [row.status for row in await workers.deliveries()] == ["delivered"] * 20

    workers = Workers(engine)
    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        async with Worker(engine, database_url, destinations).running():
            await until(each_has_had_its_first_turn)
            locked.clear()
            for _ in range(20):
                await workers.store()
            await until(delivered)
            assert set(locked) == {"busy"}
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


@pytest.mark.slow
async def test_a_worker_that_starts_on_many_events_delivers_all_in_the_order_of_each_reference(
    engine, database_url, tmp_path, monkeypatch
):
    code = (
        "async def take(event):\n    with open(__file__ + '.log', 'a') as log:\n        log.write(f'{event.id}\\n')\n"
    )
    (tmp_path / "noting_business.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    workers = Workers(engine)
    await workers.register()
    events = [new_event(f"event-{number}", reference=f"R{number % 40}") for number in range(MANY)]
    async with writing(engine) as connection:
        await connection.execute(insert(Event), [each._asdict() for each in events])

    async def delivered():
        return [row.status for row in await workers.deliveries()] == ["delivered"] * MANY

    destinations = {"erp": DestinationSettings(url="python:noting_business:take", max_in_flight=64)}
    async with Worker(engine, database_url, destinations).running():
        await until(delivered)
    came = (tmp_path / "noting_business.py.log").read_text().split()
    for number in range(40):
        own = {str(each.id) for each in events[number::40]}
        assert [each for each in came if each in own] == sorted(own)

import re
from datetime import timedelta

import pytest
from sqlalchemy import event, insert, text, update

from app.alarms.readings import read
from app.audit.starts import note_settings
from app.auth.clients import new_secret
from app.database import counting
from app.database.writing import writing
from app.deliveries import standings
from app.deliveries.standings import State
from app.deliveries.tables import AttemptResult, Delivery, Destination
from app.events.ids import made_at, new_id
from app.events.rows import Row
from app.events.spool_file import SpoolFile
from app.events.tables import Event
from app.reconciliation.tables import Reconciliation
from app.retention import space
from app.retention.last_backup import LastBackup
from app.retention.tables import Backup
from app.settings.model import Settings
from app.telemetry.processes import Gauges, Identity, Kind, beat
from app.telemetry.refusals import add_refusals
from app.telemetry.tally import Heard
from app.telemetry.tally import Refusal as CountedRefusal
from app.telemetry.uses import add_uses
from tests.deliveries.workers import NOON
from tests.events.stores import new_event

WHOLE_TABLE = r"Seq Scan on (events|deliveries)|SCAN (events|deliveries)(?! USING)"
ERP = {"erp": {"url": "https://erp.example/in"}}


@pytest.fixture
def readings(engine, workers, database_url):
    """`await readings()` reads at the time of the workers."""

    async def taken(**changes):
        settings = Settings(**{"database_url": database_url, "destinations": ERP, **changes})
        async with engine.connect() as connection:
            return await read(connection, settings, now=workers.now)

    return taken


@pytest.fixture
def erp(readings):
    """`await erp()` reads how the destination stands."""

    async def taken():
        (standing,) = (await readings()).destinations
        return standing

    return taken


async def store(engine, *events):
    async with writing(engine) as connection:
        await connection.execute(insert(Event), [each._asdict() for each in events])


async def test_an_empty_database_has_readings(readings):
    taken = await readings()
    assert taken.numbers.last_hour == taken.numbers.quarantined == 0
    assert (taken.last_events, taken.last_accepted, taken.quarantine, taken.replays) == ((), (), (), ())
    assert (taken.undispatched.events, taken.undispatched.oldest_at) == (0, None)
    assert [(each.name, each.state) for each in taken.destinations] == [("erp", State.READY)]
    assert taken.database_bytes > 0
    assert taken.database.startswith(("SQLite 3.", "PostgreSQL 1"))


async def test_the_last_event_of_each_type_is_found(readings, workers):
    first = [await workers.store(type=name) for name in ("ORDER_CREATE", "REDEMPTION", "ORDER_CREATE")]
    await workers.store(type=None)
    taken = await readings()
    assert [(each.type, each.id) for each in taken.last_events] == [
        ("ORDER_CREATE", first[2]),
        ("REDEMPTION", first[1]),
    ]
    assert abs(taken.last_events[0].at - workers.now) < timedelta(seconds=1)


async def test_events_are_counted_in_their_times(readings, engine, workers):
    ages = [timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=5), timedelta(weeks=1, minutes=30)]
    ages += [timedelta(weeks=1, minutes=10), timedelta(weeks=1, hours=2), timedelta(days=6)]
    events = [new_event(str(age), received_at=workers.now - age) for age in ages]
    await store(engine, *events)
    await store(engine, fetched := new_event("fetched", received_at=workers.now - ages[0]))
    async with writing(engine) as connection:
        await connection.execute(update(Event).where(Event.id == fetched.id).values(origin="fetched"))
    numbers = (await readings()).numbers
    assert (numbers.last_10_minutes, numbers.last_hour) == (1, 2)
    assert numbers.same_hour_last_week == 2


async def test_the_last_accepted_event_of_each_client_and_its_copies_are_known(readings, engine, workers):
    at = workers.now - timedelta(minutes=1)
    await store(
        engine,
        new_event("a", client="prioticket", received_at=at),
        new_event("b", client="gate", received_at=at - timedelta(minutes=1)),
        new_event("c", client="gate", received_at=at, status="quarantined", reason="400: It is empty."),
    )
    async with writing(engine) as connection:
        await connection.execute(update(Event).where(Event.client == "gate").values(duplicates=2))
    taken = await readings()
    assert [(each.client, each.at) for each in taken.last_accepted] == [
        ("prioticket", at),
        ("gate", at - timedelta(minutes=1)),
    ]
    assert taken.copies_of_newest == 4


async def test_the_quarantine_is_told_by_reason_without_what_was_judged_again(readings, engine, workers):
    def kept(key, reason, **columns):
        at = workers.now - timedelta(hours=1)
        return new_event(key, status="quarantined", reason=reason, received_at=at, **columns)

    two = [kept("a", "400: Empty."), kept("b", "400: Empty.")]
    await store(engine, *two, kept("c", "415: Not JSON."), kept("d", "422: No envelope."))
    async with writing(engine) as connection:
        judged = update(Event).where(Event.reason == "422: No envelope.")
        await connection.execute(judged.values(released_at=workers.now))
    taken = await readings()
    assert {each.reason: each.events for each in taken.quarantine} == {"400: Empty.": 2, "415: Not JSON.": 1}
    newest = next(each.newest for each in taken.quarantine if each.events == 2)
    assert newest == max(each.id for each in two)
    assert (taken.numbers.quarantined, taken.numbers.quarantined_last_day) == (4, 4)


async def test_events_that_have_no_deliveries_yet_are_counted_with_their_age(readings, workers):
    first = await workers.store("A")
    at = workers.now
    await workers.store("B")
    workers.wait(90)
    backlog = (await readings()).undispatched
    assert (backlog.events, backlog.oldest) == (2, first)
    assert abs(backlog.oldest_at - at) < timedelta(seconds=1)


async def test_a_queue_is_counted_by_what_its_deliveries_wait_for(erp, workers):
    for reference in ("A", "B", "B", "C"):
        await workers.store(reference)
    await workers.dispatch()
    made = workers.now
    claimed = (await workers.turn()).claims
    await workers.turn(workers.ended(claimed[0], 500), workers.ended(claimed[1], 200))
    workers.wait(0.001)
    standing = await erp()
    assert (standing.due, standing.later, standing.waiting, standing.in_flight) == (0, 1, 0, 2)
    workers.wait(60)
    standing = await erp()
    assert (standing.due, standing.later, standing.in_flight) == (3, 0, 0)
    assert standing.oldest_due_at is not None
    assert standing.oldest_due_at >= made
    assert standing.oldest_due == claimed[0].delivery_id
    assert standing.last_success_at is not None


async def test_a_destination_that_fails_says_which_references_are_held_back_and_why(erp, workers):
    for reference in ("A", "A", "A", "B"):
        await workers.store(reference)
    await workers.dispatch()
    poison, other = (await workers.turn()).claims
    since = workers.now
    error = "It closed the connection before it answered."
    await workers.turn(workers.ended(poison, 500), workers.ended(other, 200))
    workers.wait(3600)
    (again,) = (await workers.turn()).claims
    await workers.turn(workers.ended(again, None, error=error))
    standing = await erp()
    assert (standing.state, standing.failing, standing.held_back) == (State.FAILING, 1, 1)
    (stuck,) = standing.stuck
    assert (stuck.reference, stuck.since, stuck.attempts, stuck.waiting) == ("A", since, 2, 2)
    assert (stuck.last_status, stuck.last_result, stuck.last_error) == (None, AttemptResult.UNREACHABLE, error)
    assert (stuck.last_at, stuck.next_at > workers.now) == (workers.now, True)
    assert (stuck.delivery_id, stuck.event_id) == (poison.delivery_id, poison.event_id)


async def test_the_state_of_a_destination_is_the_worst_that_is_true(erp, readings, workers, engine):
    async with writing(engine) as connection:
        await connection.execute(update(Destination).values(failures=10, failing_since=NOON, probe_at=NOON))
    assert (await erp()).state is State.OPEN
    assert [each.state for each in (await readings(destinations={})).destinations] == [State.NOT_CONFIGURED]
    await workers.pause(paused=True)
    assert (await erp()).state is State.PAUSED


async def test_the_last_success_is_found_behind_a_long_queue(erp, workers, engine):
    await workers.store("first")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    at = workers.now
    await workers.turn(workers.ended(claim, 200))
    async with writing(engine) as connection:
        rows = [
            {"id": new_id(), "event_id": new_id(), "destination": "erp", "reference": f"R{n}", "due_at": workers.now}
            for n in range(300)
        ]
        await connection.execute(insert(Delivery), rows)
        since = made_at(rows[0]["id"])  # ids are of the real time
        await connection.execute(update(Destination).values(failures=1, failing_since=since))
    assert (await erp()).last_success_at == at


async def test_a_dead_delivery_is_counted_and_named(erp, workers, engine):
    await workers.store("A")
    await workers.dispatch()
    async with writing(engine) as connection:
        await connection.execute(update(Delivery).values(status="dead", due_at=None))
    (dead,) = await workers.deliveries()
    standing = await erp()
    assert (standing.dead, standing.newest_dead) == (1, dead.id)


async def test_a_running_replay_is_read(readings, workers):
    await workers.store("A")
    replay_id = await workers.start()
    (replay,) = (await readings()).replays
    assert (replay.id, replay.destination, replay.events, replay.made) == (replay_id, "erp", 1, 0)


async def test_credentials_that_expire_soon_are_read(readings, workers):
    scopes, secret = ["webhooks:send"], "a-secret-of-more-than-16"
    ends = {"old": -1, "soon": 10, "later": 100}
    clients = {
        name: {"secret": secret, "scopes": scopes, "not_after": workers.now + timedelta(days=days)}
        for name, days in ends.items()
    }
    taken = await readings(clients=clients | {"always": {"secret": secret, "scopes": scopes}})
    assert [each.client for each in taken.credentials] == ["old", "soon"]


async def test_processes_are_read_unless_they_ended_or_are_long_silent(readings, engine, workers):
    ages = {"running": 5, "silent": 600, "ended": 10, "long silent": 7200}
    for name, ago in ages.items():
        now = workers.now - timedelta(seconds=ago)
        identity = Identity.of_this_process("worker", name=name, settings="abc", now=now)
        async with writing(engine) as connection:
            await beat(connection, identity, Gauges(), now=now, ended=name == "ended")
    taken = await readings()
    assert [(each.name, each.is_running) for each in taken.processes] == [("running", True), ("silent", False)]


async def test_refusals_and_what_is_known_of_clients_are_read(readings, engine, workers):
    def refusal(minutes, client):
        minute = int((workers.now - timedelta(minutes=minutes)).timestamp()) // 60 * 60
        return CountedRefusal(minute, "webhook", 401, "wrong_secret", "192.0.2.1", client)

    at = workers.now - timedelta(minutes=5)
    async with writing(engine) as connection:
        await add_refusals(connection, {refusal(5, "prioticket"): 3, refusal(30, ""): 7, refusal(90, ""): 1})
        await add_uses(connection, {"prioticket": Heard(None, at, 401, "wrong_secret", "192.0.2.1")})
    taken = await readings()
    assert [(each.client, each.requests) for each in taken.refused_last_10_minutes] == [("prioticket", 3)]
    assert [(each.client, each.requests) for each in taken.refused_last_hour] == [("prioticket", 3), ("", 7)]
    (use,) = taken.clients
    assert (use.client, use.succeeded_at, use.refused_at, use.refused_status) == ("prioticket", None, at, 401)


async def test_the_last_sign_of_life_of_any_receiver_is_read(readings, engine, workers):
    assert (await readings()).receiver_at is None
    beats: list[tuple[Kind, int]] = [("receiver", 7200), ("receiver", 3600), ("worker", 5)]
    for kind, ago in beats:
        at = workers.now - timedelta(seconds=ago)
        identity = Identity.of_this_process(kind, name=f"{kind} {ago}", settings="abc", now=at)
        async with writing(engine) as connection:
            await beat(connection, identity, Gauges(), now=at, ended=True)
    assert (await readings()).receiver_at == workers.now - timedelta(hours=1)


async def test_the_first_action_of_the_audit_is_read(readings, engine, workers, database_url):
    assert (await readings()).first_action_at is None
    for name, minutes in (("serve", 2), ("worker", 1)):
        async with writing(engine) as connection:
            at = workers.now - timedelta(minutes=minutes)
            await note_settings(connection, Settings(database_url=database_url), name, now=at)
    assert (await readings()).first_action_at == workers.now - timedelta(minutes=2)


async def test_clients_with_one_username_know_each_other(readings, engine, workers):
    def client(**columns):
        return {"secret": new_secret(), "scopes": ["webhooks:send"], **columns}

    clients = {"old": client(username="prioticket"), "prioticket": client(), "gate": client()}
    heard = Heard(workers.now)
    async with writing(engine) as connection:
        await add_uses(connection, {"old": heard, "prioticket": heard, "gate": heard, "gone": heard})
    taken = await readings(clients=clients)
    same = {use.client: use.same_username for use in taken.clients}
    assert same == {"old": ("prioticket",), "prioticket": ("old",), "gate": (), "gone": ()}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_last_backup_is_read(readings, engine, workers):
    assert (await readings()).last_backup is None
    async with writing(engine) as connection:
        row = {"finished_at": workers.now, "file": "/backups/copy.db", "bytes": 1, "events": 0}
        await connection.execute(insert(Backup), row)
    assert (await readings()).last_backup == LastBackup(workers.now, "/backups/copy.db")


async def test_the_growth_of_the_database_is_read(readings, engine, workers, monkeypatch):
    assert (await readings()).growth is None
    monkeypatch.setattr(space, "ENOUGH", 1)
    await workers.store("A")
    async with engine.connect() as connection:
        await connection.execute(text("ANALYZE"))
        await connection.commit()
    assert (await readings()).growth is not None


async def test_the_newest_reconcile_is_read(readings, engine, workers):
    async with writing(engine) as connection:
        row = {"id": new_id(), "since": workers.now, "started_at": workers.now, "missing": 3, "fetched": 2}
        await connection.execute(insert(Reconciliation), row)
    run = (await readings()).reconciliation
    assert (run.missing, run.fetched, run.ended_at, run.error) == (3, 2, None, None)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_the_spool_and_its_disk_are_read(readings, tmp_path):
    taken = await readings(spool=tmp_path)
    assert (taken.spool.events, taken.spool.bytes, taken.spool.oldest_at) == (0, 0, None)
    assert [(each.place, each.path) for each in taken.disks] == [("spool", str(tmp_path))]
    assert 0 < taken.disks[0].free_bytes <= taken.disks[0].total_bytes


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_what_waits_in_the_spool_is_read_beside_its_process(readings, workers, tmp_path):
    (tmp_path / "spool-other.db").write_bytes(b"not a database" * 100)
    file = SpoolFile.make(tmp_path)
    at = workers.now - timedelta(minutes=5)
    await file.write([Row(new_event(key, received_at=at)) for key in ("a", "b")])
    spool = (await readings(spool=tmp_path)).spool
    await file.close()
    assert (spool.events, spool.oldest_at, spool.refused) == (2, at, None)
    assert spool.bytes > 1400
    assert ["spool-other.db" in each for each in spool.unreadable] == [True]


async def test_a_count_stops_at_its_bound(readings, workers, monkeypatch):
    monkeypatch.setattr(counting, "MOST_COUNTED", 2)
    for number in range(5):
        await workers.store(f"R{number}")
    await workers.dispatch()
    for number in range(5):
        await workers.store(f"S{number}")
    taken = await readings()
    assert (taken.numbers.last_hour, taken.undispatched.events, taken.destinations[0].due) == (3, 3, 3)


async def test_a_queue_beyond_the_bound_has_no_exact_number_while_some_of_it_is_in_flight(
    readings, workers, monkeypatch
):
    monkeypatch.setattr(counting, "MOST_COUNTED", 4)
    for number in range(20):
        await workers.store(f"R{number}")
    await workers.dispatch()
    claims = (await workers.turn()).claims
    (standing,) = (await readings()).destinations
    assert 0 < standing.in_flight == len(claims) < 20
    assert standing.due == counting.MOST_COUNTED + 1


async def test_destinations_of_the_settings_are_read_before_others(readings, workers, engine, monkeypatch):
    monkeypatch.setattr(standings, "MOST_DESTINATIONS", 1)
    async with writing(engine) as connection:
        others = [{"name": name, "since": NOON} for name in ("a", "b", "zoo")]
        await connection.execute(insert(Destination), others)
        failing = {"failures": 10, "failing_since": NOON, "probe_at": NOON}
        await connection.execute(update(Destination).where(Destination.name == "zoo").values(failing))
    taken = await readings(destinations=dict.fromkeys(("erp", "zoo"), ERP["erp"]))
    assert [(each.name, each.state) for each in taken.destinations] == [("erp", State.READY), ("zoo", State.OPEN)]


async def test_the_number_of_queries_does_not_grow_with_what_is_stored(readings, engine, workers):
    async def queries():
        seen = []
        listen = (engine.sync_engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
        event.listen(*listen)
        await readings()
        event.remove(*listen)
        return len(seen)

    for reference in ("A", "B"):
        await workers.store(reference)
    await workers.dispatch()
    claims = (await workers.turn()).claims
    await workers.turn(*(workers.ended(claim, 500) for claim in claims))
    few = await queries()
    for number in range(30):
        await workers.store(f"R{number}", type=f"TYPE_{number}")
        await workers.dispatch()
    workers.wait(3600)
    claims = (await workers.turn()).claims
    await workers.turn(*(workers.ended(claim, 500) for claim in claims))
    assert await queries() == few


@pytest.mark.slow
async def test_no_reading_reads_a_whole_table(readings, engine, workers):
    events = [new_event(f"event-{n}", received_at=NOON + timedelta(seconds=n), type=f"T{n % 5}") for n in range(5000)]
    rows = [
        {
            "id": new_id(),
            "event_id": each.id,
            "destination": "erp",
            "reference": f"R{number}",
            "status": "pending" if number % 10 == 0 else "delivered",
            "due_at": workers.now if number % 10 == 0 else None,
            "attempts": number % 3,
        }
        for number, each in enumerate(events)
    ]
    async with writing(engine) as connection:
        await connection.execute(insert(Event), [each._asdict() for each in events])
        await connection.execute(insert(Delivery), rows)
        await connection.execute(update(Destination).values(failures=1, failing_since=NOON))
    async with engine.connect() as connection:
        await connection.execute(text("ANALYZE"))
        await connection.commit()
    seen = []
    listen = (engine.sync_engine, "before_cursor_execute", lambda *given: seen.append(given[2:4]))
    event.listen(*listen)
    await readings()
    event.remove(*listen)
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    async with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        for statement, parameters in seen:
            if statement.startswith(("SELECT", "WITH")) and re.search("events|deliveries", statement):
                rows = await connection.exec_driver_sql(explain + statement, parameters)
                found = "\n".join(str(row[-1]) for row in rows)
                assert not re.search(WHOLE_TABLE, found), found

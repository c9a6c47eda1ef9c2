from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.alarms.judgement import judge
from app.alarms.places import Disk, SpoolFolder
from app.alarms.readings import ClientUse, Expiry, ProcessSeen, Readings, Refused
from app.database.schema import newer
from app.database.standbys import Standbys
from app.deliveries.standings import Backlog, Standing, State
from app.deliveries.stuck import Stuck
from app.events.arrivals import LastAccepted, LastEvent, Numbers, Refusal
from app.reconciliation.outcomes import Outcome
from app.retention.last_backup import LastBackup
from app.retention.space import Growth

NOW = datetime(2026, 8, 12, 3, tzinfo=UTC)
ID = UUID("01a2185f-4f18-7e96-93a7-9cea445f20e4")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)

WORKER = ProcessSeen(
    kind="worker",
    name="host:1:aa",
    host="host",
    pid=1,
    version="0.1.0",
    settings="abc",
    started_at=NOW - DAY,
    beat_at=NOW,
    is_running=True,
    waiting_events=None,
    spooled_events=None,
    spooled_bytes=None,
)
RECEIVER = replace(WORKER, kind="receiver", name="host:2:bb", pid=2)
ERP = Standing(
    name="erp",
    state=State.READY,
    of_replay=False,
    since=NOW - DAY,
    paused_at=None,
    paused_reason=None,
    unusable_reason=None,
    failures=0,
    failing_since=None,
    probe_at=None,
    due=0,
    later=0,
    waiting=0,
    in_flight=0,
    failing=0,
    held_back=0,
    dead=0,
    oldest_due_at=None,
    oldest_due=None,
    last_success_at=NOW - MINUTE,
    newest_dead=None,
    certificate_until=NOW + 90 * DAY,
    stuck=(),
)
STUCK = Stuck(
    delivery_id=ID,
    event_id=ID,
    reference="PRI1",
    since=NOW - 41 * MINUTE,
    attempts=4,
    last_at=NOW - MINUTE,
    last_status=500,
    last_result="refused",
    last_error=None,
    next_at=NOW + MINUTE,
    waiting=2,
)
NUMBERS = Numbers(
    last_10_minutes=60,
    last_hour=412,
    same_hour_last_week=398,
    quarantined_last_10_minutes=0,
    quarantined_last_day=0,
    quarantined=0,
)
WELL = Readings(
    at=NOW,
    version="0.1.0",
    database="PostgreSQL 17.2",
    database_bytes=10**9,
    growth=Growth(9000, 10_000),
    last_backup=None,
    schema="0012",
    schema_is_newer=False,
    events=100_000,
    keeps_events_for=None,
    numbers=NUMBERS,
    last_events=(LastEvent("ORDER_CREATE", ID, NOW - MINUTE),),
    last_accepted=(LastAccepted("prioticket", NOW - MINUTE),),
    copies_of_newest=0,
    quarantine=(),
    refused_last_10_minutes=(),
    refused_last_hour=(),
    clients=(),
    processes=(WORKER, RECEIVER),
    undispatched=Backlog(0, None, None),
    destinations=(ERP,),
    replays=(),
    reconciliation=None,
    disks=(Disk("database", "/data", 50 * 10**9, 100 * 10**9),),
    spool=None,
    credentials=(),
    receiver_at=NOW,
    standbys=Standbys(1, 1),
)
NOBODY: dict[str, Any] = {"processes": (WORKER,), "receiver_at": None}


def refused(**changes: Any) -> tuple[Refused, ...]:
    given: dict[str, Any] = {
        "door": "webhook",
        "status": 401,
        "reason": "wrong_secret",
        "address": "192.0.2.1",
        "client": "prioticket",
    }
    return (Refused(**given | {"requests": 5, "last_at": NOW - MINUTE} | changes),)


def used(**changes: Any) -> tuple[ClientUse, ...]:
    nothing: dict[str, Any] = dict.fromkeys(("refused_at", "refused_status", "refused_reason", "refused_address"))
    return (ClientUse(**{"client": "prioticket", "succeeded_at": NOW - DAY, **nothing, **changes}),)


def erp(**changes):
    return {"destinations": (replace(ERP, **changes),)}


def spool(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "path": "/spool",
        "events": 7,
        "bytes": 9,
        "oldest_at": NOW - 5 * MINUTE,
        "refused": None,
        "unreadable": (),
    }
    return {"spool": SpoolFolder(**given | changes)}


def numbers(**changes):
    return {"numbers": replace(NUMBERS, **changes)}


INCIDENTS = {
    "a consumer is down": (
        erp(state=State.OPEN, failures=26, failing_since=NOW - 41 * MINUTE, probe_at=NOW, due=1204, stuck=(STUCK,)),
        "destination_down",
        "erp has failed 26 times in a row for 41 min (500), and 1,204 deliveries wait.",
        "priohook deliveries list --failing --destination erp",
    ),
    "Prioticket is silent": (
        numbers(last_hour=0, last_10_minutes=0)
        | {"last_accepted": (LastAccepted("prioticket", NOW - 3 * 60 * MINUTE),)},
        "silence",
        "Nothing has arrived for 3 h. In the same hour of last week, 398 events arrived.",
        "priohook refusals list",
    ),
    "the disk is full": (
        {"disks": (Disk("database", "/data", 10**8, 10**11),)},
        "disk",
        "The disk of the database has only 100 MB free, enough for 1 day: /data.",
        "priohook prune --dry-run",
    ),
    "the disk is full in some days": (
        {"growth": Growth(100_000, 10_000), "disks": (Disk("database", "/data", 5 * 10**9, 10**11),)},
        "disk",
        "The disk of the database has only 5 GB free, enough for 5 days: /data.",
        "priohook prune --dry-run",
    ),
    "backups have stopped": (
        {"last_backup": LastBackup(NOW - 9 * DAY, "/backups/priohook-2026-08-03.db")},
        "backup_old",
        "The last backup is 9 d old.",
        "priohook backup /backups/priohook-2026-08-12.db",
    ),
    "the database takes no events": (
        {"refused_last_10_minutes": refused(status=503, reason="commit_timeout", client="prioticket", requests=3)},
        "not_acknowledging",
        "3 webhooks were answered 503 in the last 10 min: the database was slower than commit_timeout.",
        "priohook refusals list",
    ),
    "the primary is lost": (
        {"standbys": Standbys(1, 0, no_primary=True)},
        "primary_missing",
        "PostgreSQL has no primary: only a standby answers, and it stores no events.",
        'psql -c "SELECT sender_host, status FROM pg_stat_wal_receiver"',
    ),
    "a synchronous standby is missing": (
        {"standbys": Standbys(1, 0)},
        "standby_missing",
        "PostgreSQL waits for 1 synchronous standby, and none is there: no commit returns.",
        'psql -c "SELECT application_name, state, sync_state FROM pg_stat_replication"',
    ),
    "one of two synchronous standbys is missing": (
        {"standbys": Standbys(2, 1)},
        "standby_missing",
        "PostgreSQL waits for 2 synchronous standbys, and 1 is there: no commit returns.",
        'psql -c "SELECT application_name, state, sync_state FROM pg_stat_replication"',
    ),
    "a poison order": (
        erp(state=State.FAILING, failing=1, held_back=1, stuck=(STUCK,)),
        "held_back",
        "erp keeps failing for 1 delivery: PRI1 is held back for 41 min (500).",
        "priohook deliveries list --failing --destination erp",
    ),
    "a flood of 401s": (
        {"refused_last_10_minutes": refused(client="", reason="unknown_username", requests=4120)},
        "refused",
        "4,120 requests of strangers were refused in the last 10 min, most from 192.0.2.1.",
        "priohook refusals list",
    ),
    "a rotation gone wrong": (
        {"refused_last_10_minutes": refused(), "clients": used()},
        "sender_refused",
        "prioticket was refused 5 times in the last 10 min, from 192.0.2.1: the secret is wrong.",
        "priohook clients list",
    ),
    "a dead worker": (
        {"processes": (RECEIVER, replace(WORKER, is_running=False, beat_at=NOW - 5 * MINUTE))},
        "no_worker",
        "No worker has run for 5 min: nothing is delivered.",
        "priohook worker",
    ),
    "a spool that does not drain": (
        spool(),
        "spool",
        "In the spool, 7 events have waited for 5 min: the database takes none.",
        "priohook spool list",
    ),
    "an event that the database refuses": (
        spool(refused="a trigger of yours"),
        "spool",
        "In the spool, 7 events have waited for 5 min: the database refuses one: a trigger of yours",
        "priohook spool list",
    ),
    "a spool that cannot be read": (
        spool(events=0, oldest_at=None, unreadable=("a.db is damaged.",)),
        "spool_unreadable",
        "a.db is damaged.",
        "priohook spool list",
    ),
    "events without deliveries": (
        {"undispatched": Backlog(100_001, NOW - 5 * MINUTE, ID)},
        "undispatched",
        "Events without deliveries: more than 100,000. The oldest has waited for 5 min.",
        "priohook status --worker",
    ),
    "a function that cannot be imported": (
        erp(state=State.UNUSABLE, unusable_reason="There is no module erp.", due=2),
        "destination_unusable",
        "erp cannot be used, and 2 deliveries wait: There is no module erp.",
        "priohook settings",
    ),
    "a queue that grows": (
        erp(due=50, oldest_due_at=NOW - 20 * MINUTE),
        "destination_late",
        "Deliveries to erp are 20 min late, and 50 deliveries wait.",
        "priohook deliveries list --status pending --sort oldest --destination erp",
    ),
    "a forgotten pause": (
        erp(state=State.PAUSED, paused_at=NOW - DAY, paused_reason="Moving house.", waiting=1),
        "destination_paused",
        "erp has been paused for 24 h, and 1 delivery waits: Moving house.",
        "priohook destinations resume erp",
    ),
    "a destination that left the settings": (
        erp(state=State.NOT_CONFIGURED, due=2),
        "destination_unconfigured",
        "erp is not in these settings, and 2 deliveries wait.",
        "priohook destinations remove erp",
    ),
    "dead deliveries": (
        erp(dead=3, newest_dead=ID),
        "dead",
        "erp has 3 dead deliveries, tried no more: retry or drop them.",
        "priohook deliveries list --status dead --destination erp",
    ),
    "webhooks that never arrived": (
        {"reconciliation": Outcome(ID, NOW - 60 * MINUTE, NOW, 500, 3, 2, 1, None)},
        "reconcile_found_missing",
        "priohook reconcile found 3 states of orders that had never arrived, and fetched 2.",
        "priohook prioticket webhooks list",
    ),
    "a reconcile that was interrupted": (
        {"reconciliation": Outcome(ID, NOW - 60 * MINUTE, None, 5, 0, 0, 0, "Prioticket refuses the key.")},
        "reconcile_interrupted",
        "priohook reconcile was interrupted 60 min after its start: Prioticket refuses the key.",
        "priohook reconcile",
    ),
    "quarantined events": (
        {"quarantine": (Refusal("415: The content type is not JSON.", 2, ID, NOW - 5 * MINUTE),)},
        "quarantined",
        "2 events are in quarantine, the last 5 min ago: 415: The content type is not JSON.",
        "priohook events list --status quarantined",
    ),
    "a receiver that died": (
        NOBODY | {"receiver_at": NOW - 5 * MINUTE},
        "no_receiver",
        "No receiver has run for 5 min: nobody takes webhooks.",
        "priohook serve",
    ),
    "a receiver that died days ago": (
        NOBODY,
        "no_receiver",
        "No receiver has run for a day or longer: nobody takes webhooks.",
        "priohook serve",
    ),
    "a receiver that was never started": (
        NOBODY | {"last_events": (), "last_accepted": ()},
        "no_receiver",
        "No receiver has run yet: nobody takes webhooks.",
        "priohook serve",
    ),
    "one of two receivers that died": (
        {"processes": (WORKER, RECEIVER, replace(RECEIVER, is_running=False, beat_at=NOW - 5 * MINUTE))},
        "process_silent",
        "A receiver, process 2 on host, has been silent for 5 min.",
        "priohook serve",
    ),
    "a database of a newer release": (
        {"schema": "9999", "schema_is_newer": True},
        "schema",
        newer("9999"),
        "priohook --version",
    ),
    "a process that was not restarted": (
        {"processes": (WORKER, replace(RECEIVER, settings="new", started_at=NOW))},
        "settings_differ",
        "A worker, process 1 on host, does not have the newest settings: restart it.",
        "priohook settings",
    ),
    "a certificate that expires": (
        erp(certificate_until=NOW + 3 * DAY),
        "certificate_expires",
        "The certificate of erp expires in 3 d.",
        "priohook destinations list",
    ),
    "a credential that expires": (
        {"credentials": (Expiry("prioticket", NOW + 10 * DAY, is_replaced=False),)},
        "credential_expires",
        "The credential of prioticket expires in 10 d.",
        "priohook clients list",
    ),
}


def test_all_is_well_when_nothing_is_wrong():
    assert judge(WELL) == []


@pytest.mark.parametrize("incident", INCIDENTS)
def test_an_incident_is_named_with_what_to_type(incident):
    changes, name, what, command = INCIDENTS[incident]
    (finding,) = judge(replace(WELL, **changes))
    assert (finding.name, finding.what, finding.command) == (name, what, command)


@pytest.mark.parametrize(
    "changes",
    [
        numbers(last_hour=0, same_hour_last_week=5),
        {"refused_last_10_minutes": refused(), "clients": used(succeeded_at=NOW)},
        {"refused_last_10_minutes": refused(), "clients": used(succeeded_at=NOW, refused_at=NOW - MINUTE / 4)},
        {
            "refused_last_10_minutes": refused(last_at=NOW - 5 * MINUTE),
            "clients": used(succeeded_at=NOW - 4 * MINUTE, refused_at=NOW - 3 * MINUTE, refused_status=422),
        },
        {"refused_last_10_minutes": refused(client="", requests=20)},
        {"quarantine": (Refusal("400: Empty.", 2, ID, NOW - 2 * DAY),)},
        {"processes": (WORKER, RECEIVER, replace(WORKER, is_running=False, beat_at=NOW - 2 * DAY))},
        {"processes": (RECEIVER,), "destinations": ()},
        NOBODY | {"receiver_at": NOW - MINUTE / 2},
        NOBODY | {"processes": (replace(WORKER, started_at=NOW - MINUTE / 2),)},
        NOBODY | {"processes": (), "destinations": (), "first_action_at": NOW - MINUTE / 2},
        {"growth": Growth(100_000, 10_000)}
        | {"keeps_events_for": 5 * DAY, "disks": (Disk("database", "/data", 5 * 10**9, 10**11),)},
        {"last_backup": LastBackup(NOW - 7 * DAY, "/backups/weekly.db")},
        {"undispatched": Backlog(10, NOW - MINUTE / 2, ID)},
        {"undispatched": Backlog(10, NOW - 5 * MINUTE, ID)} | erp(due=1000),
        {"reconciliation": Outcome(ID, NOW - 2 * DAY, NOW, 500, 3, 2, 1, None)},
        {
            "credentials": (
                Expiry("old", NOW - DAY, is_replaced=True),
                Expiry("later", NOW + 20 * DAY, is_replaced=False),
            )
        },
        erp(state=State.FAILING, failing=1, stuck=(replace(STUCK, attempts=2),)),
        erp(state=State.NOT_CONFIGURED),
        erp(state=State.NOT_CONFIGURED, certificate_until=NOW - DAY),
        erp(due=5, oldest_due_at=NOW - MINUTE),
        spool(oldest_at=NOW - MINUTE / 2),
    ],
    ids=str,
)
def test_what_passes_by_itself_or_was_meant_is_not_told(changes):
    assert judge(replace(WELL, **changes)) == []


def test_a_client_that_is_refused_after_it_was_let_in_within_the_same_minute_is_told():
    clients = used(succeeded_at=NOW - MINUTE / 2, refused_at=NOW - MINUTE / 4, refused_status=401)
    found = judge(replace(WELL, refused_last_10_minutes=refused(last_at=NOW - MINUTE), clients=clients))
    assert [each.name for each in found] == ["sender_refused"]


def test_clients_that_share_a_username_are_told_together_of_a_wrong_secret():
    """Nobody knows for which of them it was meant."""
    guessed = refused(client="new")
    old, new = used(client="old")[0], used(client="new", succeeded_at=None, same_username=("old",))[0]
    (found,) = judge(replace(WELL, refused_last_10_minutes=guessed, clients=(old, new)))
    assert found.what == "new or old was refused 5 times in the last 10 min, from 192.0.2.1: the secret is wrong."
    assert found.since == old.succeeded_at
    let_in = replace(old, succeeded_at=NOW)
    assert judge(replace(WELL, refused_last_10_minutes=guessed, clients=(let_in, new))) == []


def test_a_right_secret_that_has_expired_is_told_of_its_own_client():
    expired = refused(client="old", reason="expired")
    old, new = used(client="old", same_username=("new",))[0], used(client="new", succeeded_at=NOW)[0]
    (found,) = judge(replace(WELL, refused_last_10_minutes=expired, clients=(old, new)))
    assert found.what.startswith("old was refused 5 times")


def test_a_client_that_is_refused_from_many_addresses_is_told_once():
    many = [each for number in range(3) for each in refused(address=f"192.0.2.{number}", requests=5 - number)]
    (found,) = judge(replace(WELL, refused_last_10_minutes=tuple(many)))
    told = "prioticket was refused 12 times in the last 10 min, most from 192.0.2.0 and 2 other addresses: "
    assert found.what == told + "the secret is wrong."


def test_what_loses_events_comes_before_what_delays_them_and_that_before_what_waits_for_a_person():
    everything: dict[str, Any] = {}
    for changes in (INCIDENTS[name][0] for name in ("quarantined events", "dead deliveries", "a rotation gone wrong")):
        everything |= changes
    found = judge(replace(WELL, **everything, processes=(RECEIVER,)))
    assert [each.name for each in found] == ["sender_refused", "no_worker", "dead", "quarantined"]
    assert [each.severity for each in found] == ["critical", "critical", "warning", "warning"]


def test_a_database_of_a_newer_release_comes_first():
    found = judge(replace(WELL, schema_is_newer=True, **INCIDENTS["a dead worker"][0]))
    assert [each.name for each in found] == ["schema", "no_worker"]


def test_a_consumer_that_is_down_is_told_with_its_last_failure():
    refused = replace(STUCK, delivery_id=UUID(int=1), last_at=NOW, last_status=None, last_error="Refused.")
    changes = erp(state=State.OPEN, failures=26, failing_since=NOW - 41 * MINUTE, stuck=(STUCK, refused))
    (finding,) = judge(replace(WELL, **changes))
    assert finding.what.startswith("erp has failed 26 times in a row for 41 min (Refused), ")
    assert finding.example == str(refused.delivery_id)


def test_an_example_and_the_time_are_given():
    (finding,) = judge(replace(WELL, **INCIDENTS["a poison order"][0]))
    assert (finding.subject, finding.since, finding.example) == ("erp", STUCK.since, str(ID))

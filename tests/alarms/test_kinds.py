"""What the settings want to be told, of readings that a test makes."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from app.alarms.judgement import KINDS, alarming, judge
from app.alarms.places import Disk, SpoolFolder
from app.alarms.readings import Expiry
from app.deliveries.standings import Backlog, State
from app.events.arrivals import LastAccepted, LastEvent, Refusal
from app.reconciliation.outcomes import Outcome
from app.settings.alarms import AlarmSettings
from tests.alarms.test_judgement import DAY, ERP, ID, MINUTE, NOW, RECEIVER, STUCK, WELL, WORKER, erp, numbers, refused
from tests.pages import PROJECT, page

ALL = AlarmSettings.model_validate({kind: {} for kind in AlarmSettings.model_fields})
KNOWN = {"sender_addresses": ("192.0.2.1",)}
HOUR = timedelta(hours=1)


def told(alarms=ALL, **changes):
    alarms = alarms if isinstance(alarms, AlarmSettings) else AlarmSettings.model_validate(alarms)
    return [(kind, finding.name) for kind, finding in alarming(replace(WELL, **changes), alarms)]


def quiet_since(**ages):
    """When the last event of each type was accepted."""
    events = tuple(LastEvent(name, ID, NOW - age, NOW - age) for name, age in ages.items())
    return {"last_events": events, "last_accepted": (LastAccepted("prioticket", max(each.at for each in events)),)}


def test_each_kind_of_the_settings_has_a_rule():
    assert list(KINDS) == list(AlarmSettings.model_fields)


def test_each_finding_is_documented():
    sources = [path.read_text() for path in (PROJECT / "app" / "alarms").glob("*.py")]
    names = {name for source in sources for name in re.findall(r"\bname=\"(\w+)\"", source)}
    listed = re.findall(r"^\| ((?:`\w+` ?)+)\| ", page("operating"), re.MULTILINE)
    assert names
    assert names <= {name for cell in listed for name in re.findall(r"\w+", cell)}


def test_nothing_is_told_when_all_is_well():
    assert told() == []


@pytest.mark.parametrize(
    ("changes", "kind", "name"),
    [
        (quiet_since(ORDER_CREATE=3 * HOUR), "silence", "silence"),
        (erp(due=5, oldest_due_at=NOW - 20 * MINUTE), "backlog", "destination_late"),
        (erp(state=State.PAUSED, paused_at=NOW, oldest_due_at=NOW - 20 * MINUTE), "backlog", "destination_late"),
        ({"undispatched": Backlog(3, NOW - 20 * MINUTE, ID)}, "backlog", "undispatched"),
        (erp(state=State.FAILING, failing=1, stuck=(STUCK,)), "backlog", "held_back"),
        (erp(dead=1, newest_dead=ID), "dead", "dead"),
        (KNOWN | {"refused_last_10_minutes": refused(requests=100)}, "refused", "refused_share"),
        (numbers(last_10_minutes=10, quarantined_last_10_minutes=5), "refused", "refused_share"),
        ({"refused_last_10_minutes": refused(status=503, requests=100)}, "refused", "refused_share"),
        (erp(state=State.OPEN, failures=9, failing_since=NOW - 10 * MINUTE), "circuit", "destination_down"),
        (erp(state=State.UNUSABLE, unusable_reason="No module."), "circuit", "destination_unusable"),
        ({"disks": (Disk("database", "/data", 10**8, 10**11),)}, "disk", "disk"),
        ({"spool": SpoolFolder("/spool", 7, 9, NOW - 5 * MINUTE, None, ())}, "spool", "spool"),
        (
            {"processes": (WORKER, RECEIVER, replace(RECEIVER, is_running=False, beat_at=NOW - 5 * MINUTE))},
            "worker",
            "process_silent",
        ),
        ({"processes": (WORKER,), "receiver_at": NOW - 5 * MINUTE}, "worker", "no_receiver"),
        ({"reconciliation": Outcome(ID, NOW - HOUR, NOW, 500, 3, 2, 1, None)}, "reconcile", "reconcile_found_missing"),
        (erp(certificate_until=NOW + 3 * DAY), "certificate", "certificate_expires"),
    ],
)
def test_what_is_wrong_is_told_as_its_kind(changes, kind, name):
    assert told(**changes) == [(kind, name)]
    assert told(AlarmSettings(), **changes) == []


@pytest.mark.parametrize(
    ("alarms", "changes"),
    [
        ({"silence": {"quiet": "4h"}}, quiet_since(ORDER_CREATE=3 * HOUR)),
        ({"backlog": {"older_than": "1h"}}, erp(oldest_due_at=NOW - 20 * MINUTE)),
        ({"backlog": {"older_than": "1h"}}, erp(state=State.FAILING, failing=1, stuck=(STUCK,))),
        ({"dead": {"more_than": 3}}, erp(dead=3, newest_dead=ID)),
        ({"circuit": {"older_than": "1h"}}, erp(state=State.OPEN, failures=9, failing_since=NOW - 10 * MINUTE)),
        ({"disk": {"less_than": "50MB", "days": 0}}, {"disks": (Disk("database", "/data", 10**8, 10**11),)}),
        ({"spool": {"older_than": "1h"}}, {"spool": SpoolFolder("/spool", 7, 9, NOW - 5 * MINUTE, None, ())}),
        ({"reconcile": {"more_than": 3}}, {"reconciliation": Outcome(ID, NOW, NOW, 500, 3, 2, 1, None)}),
        ({"certificate": {"less_than": "1d"}}, erp(certificate_until=NOW + 3 * DAY)),
    ],
)
def test_bounds_of_the_settings_count(alarms, changes):
    assert told(alarms, **changes) == []


@pytest.mark.parametrize(
    "changes",
    [
        quiet_since(ORDER_CREATE=3 * HOUR),
        erp(due=5, oldest_due_at=NOW - 20 * MINUTE, oldest_due=ID),
        {"undispatched": Backlog(3, NOW - 20 * MINUTE, ID)},
        erp(state=State.FAILING, failing=1, stuck=(STUCK,)),
        erp(dead=1, newest_dead=ID),
        numbers(last_10_minutes=10, quarantined_last_10_minutes=5)
        | {"quarantine": (Refusal("422", 5, ID, NOW - MINUTE),)},
    ],
)
def test_what_waits_or_was_refused_has_an_example(changes):
    ((_, finding),) = alarming(replace(WELL, **changes), ALL)
    assert finding.example == str(ID)


def test_fewer_workers_than_there_should_be_are_told():
    assert told({"worker": {"less_than": 2}}) == [("worker", "few_workers")]


def test_the_alarm_of_one_worker_says_no_more_than_that_none_runs():
    found = judge(replace(WELL, processes=(RECEIVER,)), ALL)
    assert [each.name for each in found] == ["no_worker"]


NARROW = AlarmSettings.model_validate(
    {
        "silence": {"quiet": "1s"},
        "backlog": {"older_than": "1s"},
        "dead": {},
        "refused": {"more_than": 0},
        "circuit": {"older_than": "0s"},
        "disk": {"less_than": "10TB", "days": 1000},
        "spool": {"older_than": "1s"},
        "worker": {"less_than": 5},
        "reconcile": {},
        "certificate": {"less_than": "365d"},
    }
)
SCARCELY_WRONG = [
    {},
    erp(due=1, oldest_due_at=NOW - MINUTE / 2),
    erp(state=State.PAUSED, paused_at=NOW, due=1, oldest_due_at=NOW - MINUTE),
    erp(state=State.FAILING, failing=1, stuck=(STUCK,)),
    erp(state=State.OPEN, failures=9, failing_since=NOW, stuck=(STUCK,)),
    {"undispatched": Backlog(1, NOW - MINUTE / 2, ID)},
    {"spool": SpoolFolder("/spool", 7, 9, NOW - MINUTE / 2, None, ())},
    KNOWN | {"refused_last_10_minutes": refused(client="", requests=3)},
    {"credentials": (Expiry("prioticket", NOW + 20 * DAY, is_replaced=False),)},
    numbers(quarantined_last_10_minutes=1),
]


@pytest.mark.parametrize("changes", SCARCELY_WRONG, ids=str)
def test_whatever_fires_an_alarm_is_in_the_status_too(changes):
    readings = replace(WELL, **changes)
    told = {(finding.name, finding.subject) for _, finding in alarming(readings, NARROW)}
    assert {"few_workers", "disk", "certificate_expires"} <= {name for name, _ in told}
    found = judge(readings, NARROW)
    shown = [(finding.name, finding.subject) for finding in found]
    assert told <= set(shown)
    assert len(shown) == len(set(shown))
    severities = [finding.severity for finding in found]
    assert severities == sorted(severities)  # critical, then warning


def test_the_status_tells_the_error_that_an_alarm_leaves_out():
    stuck = replace(STUCK, last_status=None, last_error="ValueError: Jan Jansen")
    readings = replace(WELL, **erp(state=State.FAILING, failing=1, stuck=(stuck,)))
    assert "Jan Jansen" in str(judge(readings, ALL))


SILENCE = {"silence": {"quiet": "2h", "between": "08:00-22:00 Europe/Amsterdam"}}


@pytest.mark.parametrize(
    ("hour", "last", "tells"),
    [
        (7, 11, False),  # 09:00 there, one hour after opening
        (8, 12, True),
        (20, 2, True),
        (23, 2, False),  # closed for most of it
        (23, 6, True),  # it goes on at night
    ],
)
def test_only_silence_within_the_hours_counts(hour, last, tells):
    now = NOW.replace(hour=hour)
    at = now - last * HOUR
    changes = {"at": now, "last_events": (), "last_accepted": (LastAccepted("prioticket", at),)}
    assert bool(told(SILENCE, **changes)) is tells


def test_only_silence_of_the_named_types_counts():
    orders = {"silence": {"events": ["ORDER_*"]}}
    assert told(orders, **quiet_since(ORDER_CREATE=3 * HOUR, REDEMPTION=MINUTE)) == [("silence", "silence")]
    assert told(orders, **quiet_since(ORDER_CREATE=MINUTE, REDEMPTION=3 * HOUR)) == []


def test_what_was_quarantined_or_fetched_does_not_break_the_silence():
    events = (LastEvent("ORDER_CREATE", ID, NOW, None), LastEvent("ORDER_CANCEL", ID, NOW, NOW - 3 * HOUR))
    assert told({"silence": {"events": ["ORDER_*"]}}, last_events=events) == [("silence", "silence")]


def test_before_the_first_event_silence_counts_from_the_start():
    nothing = {"last_events": (), "last_accepted": ()}
    assert told({"silence": {}}, **nothing) == [("silence", "silence")]
    started = replace(WORKER, started_at=NOW - HOUR)
    assert told({"silence": {}}, **nothing, processes=(started,)) == []


def test_refusals_of_strangers_are_not_told():
    stranger = refused(requests=10_000, address="198.51.100.7", client="")
    assert told({"refused": {}}, **KNOWN, refused_last_10_minutes=stranger) == []


def test_a_few_refusals_from_a_known_address_are_told_only_of_a_configured_client():
    night = numbers(last_10_minutes=0) | KNOWN
    assert told({"refused": {}}, **night, refused_last_10_minutes=refused(requests=1, client="")) == []
    assert told({"refused": {}}, **night, refused_last_10_minutes=refused(requests=1)) == [("refused", "refused_share")]


def test_the_share_counts_and_not_the_number():
    busy = numbers(last_10_minutes=1000) | KNOWN
    assert told({"refused": {}}, **busy, refused_last_10_minutes=refused(requests=200)) == []
    assert told({"refused": {"more_than": 10}}, **busy, refused_last_10_minutes=refused(requests=200)) != []


def test_the_status_takes_the_hours_of_silence_from_the_settings():
    readings = replace(WELL, **quiet_since(ORDER_CREATE=3 * HOUR), **numbers(last_hour=0))
    hours = {"silence": {"quiet": "2h", "between": "12:00-13:00 UTC"}}
    assert [each.name for each in judge(readings)] == ["silence"]
    assert judge(readings, AlarmSettings.model_validate(hours)) == []


def test_no_error_of_a_consumer_is_told():
    stuck = replace(STUCK, last_status=None, last_error="ValueError: Jan Jansen", last_result="refused")
    (found,) = [
        finding
        for _, finding in alarming(
            replace(WELL, destinations=(replace(ERP, state=State.FAILING, stuck=(stuck,)),)), ALL
        )
    ]
    assert found.what.endswith("(refused).")


def test_quarantined_events_are_named_by_the_newest():
    kept = (Refusal("415: Not JSON.", 5, ID, NOW),)
    changes = numbers(last_10_minutes=10, quarantined_last_10_minutes=5) | {"quarantine": kept}
    ((_, found),) = alarming(replace(WELL, **changes), ALL)
    assert (found.example, found.command) == (str(ID), "priohook events list --status quarantined")
    assert (
        found.what == "Of 10 webhooks in the last 10 min, 5 (50 %) were refused or quarantined, most with: quarantined."
    )

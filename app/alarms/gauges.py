"""What Prometheus gets of the readings. Labels are bounded: names are of the settings, unknown types are `other`."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client.core import GaugeMetricFamily

from app.alarms.places import Disk, SpoolFolder
from app.alarms.readings import Readings
from app.deliveries.standings import Standing, State
from app.prioticket.webhooks import EVENTS, PRODUCT_EVENTS, UPCOMING
from app.telemetry.meter import OTHER

TYPES = frozenset((*EVENTS, *PRODUCT_EVENTS, *UPCOMING))
"""The types that are told apart; a sender can make up others."""

STATUSES = ("200", "400", "408", "413", "415", "422")
"""How the reason of a quarantined event begins."""

PROCESSES = [(kind, state) for kind in ("receiver", "worker") for state in ("running", "silent")]
SHAPES = ("due", "later", "waiting", "in_flight", "dead")

Values = Mapping[Any, float]
"""By the values of the labels, a tuple."""


def gauges(now: Readings, *, configured: Collection[str], refused_since: datetime | None) -> list[GaugeMetricFamily]:
    """One family for each name.

    Args:
        now: The readings.
        configured: The destinations of the settings: others are a replay's, named by a URL, or are left from earlier.
        refused_since: Since when Prioticket refuses the credentials with which orders are fetched.
    """
    known = [each for each in now.destinations if each.name in configured]
    families = [*_arrivals(now), *_deliveries(now, known), *_states(known), *_others(now), *_asking(now, refused_since)]
    return [*families, _build(now)]


def gauges_of_host(places: Iterable[Disk], spool: SpoolFolder | None, *, now: datetime) -> list[GaugeMetricFamily]:
    """What can be told without the database, which may be away because a disk is full."""
    free = {(each.place,): float(each.free_bytes) for each in places}
    oldest = spool.oldest_at if spool else None
    waited = "For how long the oldest event of the spool has waited."
    return [
        _family("disk_free_bytes", "Free space for a SQLite file and for the spool.", ("place",), free),
        _one("spool_oldest_seconds", waited, _age(now, oldest)),
    ]


def _arrivals(now: Readings) -> Iterator[GaugeMetricFamily]:
    last = _latest((each.type if each.type in TYPES else OTHER, each.at) for each in now.last_events)
    yield _family("last_event_timestamp_seconds", "When the last event of a type arrived.", ("type",), last)
    accepted = _latest((each.client, each.at) for each in now.last_accepted)
    meaning = "When the last event of a client was accepted; of the newest thousand events."
    yield _family("last_accepted_timestamp_seconds", meaning, ("client",), accepted)
    numbers = now.numbers
    yield _one("events_last_hour", "Events that arrived in the last hour.", numbers.last_hour)
    week = numbers.same_hour_last_week
    yield _one("events_same_hour_last_week", "Events that arrived in the same hour of last week.", week)
    kept = dict.fromkeys(((status,) for status in STATUSES), 0.0)
    for each in now.quarantine:
        status = each.reason[:3] if each.reason[:3] in STATUSES else OTHER
        kept[status,] = kept.get((status,), 0.0) + each.events
    meaning = "Events in quarantine that nobody has judged again, by the status that the reason begins with."
    yield _family("quarantined_events", meaning, ("status",), kept)
    newest = max((each.newest_at for each in now.quarantine), default=None)
    yield _moment("last_quarantined_timestamp_seconds", "When the newest of them arrived.", newest)
    yield _one("stored_events", "About how many events are stored.", now.events)


def _deliveries(now: Readings, known: Iterable[Standing]) -> Iterator[GaugeMetricFamily]:
    counts = {(each.name, shape): float(getattr(each, shape)) for each in known for shape in SHAPES}
    meaning = "Deliveries that have not ended well; none of these is counted above 100,001."
    yield _family("deliveries", meaning, ("destination", "state"), counts)
    columns = {
        "failing_deliveries": ("Deliveries that have failed and are tried again.", "failing"),
        "held_back_references": ("References that wait because a delivery of theirs fails.", "held_back"),
    }
    for name, (meaning, column) in columns.items():
        values = {(each.name,): float(getattr(each, column)) for each in known}
        yield _family(name, meaning, ("destination",), values)
    overdue = {(each.name,): _age(now.at, each.oldest_due_at) for each in known}
    yield _family("oldest_due_seconds", "For how long the oldest delivery has been due.", ("destination",), overdue)
    waiting = now.undispatched
    yield _one("undispatched_events", "Events whose deliveries are not made yet.", waiting.events)
    yield _one("undispatched_oldest_seconds", "For how long the oldest has waited.", _age(now.at, waiting.oldest_at))
    yield _one("replays", "Replays that run or are paused.", len(now.replays))
    planned = sum(each.events for each in now.replays)
    yield _one("replay_planned_events", "The events that these replays are of.", planned)
    made = sum(each.made for each in now.replays)
    yield _one("replay_made_deliveries", "The deliveries that these replays have made.", made)


def _states(known: Iterable[Standing]) -> Iterator[GaugeMetricFamily]:
    states = {(each.name, state.value): float(each.state is state) for each in known for state in State}
    meaning = "1 for the state of a destination, 0 for all others; `open` is its circuit breaker."
    yield _family("destination_state", meaning, ("destination", "state"), states)
    ends = {(each.name,): each.certificate_until.timestamp() for each in known if each.certificate_until}
    meaning = "When the certificate of a destination ends."
    yield _family("certificate_expiry_timestamp_seconds", meaning, ("destination",), ends)


def _others(now: Readings) -> Iterator[GaugeMetricFamily]:
    seen = dict.fromkeys(PROCESSES, 0.0)
    for each in now.processes:
        place = (each.kind, "running" if each.is_running else "silent")
        seen[place] = seen.get(place, 0.0) + 1
    meaning = "Receivers and workers on all hosts; silent ones gave no sign of life for 45 seconds."
    yield _family("processes", meaning, ("kind", "state"), seen)
    yield _one("database_bytes", "The size of the database.", now.database_bytes)
    ends = {(each.client,): each.at.timestamp() for each in now.credentials if not each.is_replaced}
    meaning = "When a credential ends, if it does within 30 days and no other replaces it."
    yield _family("credential_expiry_timestamp_seconds", meaning, ("client",), ends)


def _asking(now: Readings, refused_since: datetime | None) -> Iterator[GaugeMetricFamily]:
    run = now.reconciliation
    began = run.started_at if run else None
    yield _moment("reconciliation_timestamp_seconds", "When the newest `priohook reconcile` began.", began)
    missing = {(): float(run.missing)} if run else {}
    meaning = "What it found of which no webhook had arrived."
    yield _family("reconciliation_missing_orders", meaning, (), missing)
    interrupted = {(): float(run.error is not None and run.ended_at is None)} if run else {}
    yield _family("reconciliation_interrupted", "1 if it was interrupted.", (), interrupted)
    meaning = "1 if Prioticket refuses the credentials with which orders are fetched."
    yield _one("fetches_refused", meaning, refused_since is not None)


def _build(now: Readings) -> GaugeMetricFamily:
    labels = (now.version, now.database)
    return _family("build_info", "Always 1; the release and the database.", ("version", "database"), {labels: 1.0})


def _family(name: str, meaning: str, labels: tuple[str, ...], values: Values) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"priohook_{name}", meaning, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def _one(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return _family(name, meaning, (), {(): float(value)})


def _moment(name: str, meaning: str, at: datetime | None) -> GaugeMetricFamily:
    return _family(name, meaning, (), {(): at.timestamp()} if at else {})


def _latest(seen: Iterable[tuple[str, datetime]]) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for name, at in seen:
        found[name,] = max(found.get((name,), 0.0), at.timestamp())
    return found


def _age(now: datetime, at: datetime | None) -> float:
    return max(0.0, (now - at).total_seconds()) if at else 0.0

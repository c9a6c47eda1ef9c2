"""Whether all is well: what is wrong, in the order of the damage that it does. Pure."""

from collections.abc import Callable, Iterator
from datetime import datetime

from app.alarms import delivering, receiving, running
from app.alarms.findings import Finding
from app.alarms.readings import Readings
from app.deliveries.standings import Standing

Rule = Callable[[Readings], Iterator[Finding]]


def judge(readings: Readings) -> list[Finding]:
    """The findings: events that are lost first, then events that are late, then what waits for a person."""
    return [finding for rule in RULES for finding in rule(readings)]


def _each(rule: Callable[[Standing, datetime], Iterator[Finding]]) -> Rule:
    """Applies a rule to each destination."""
    return lambda now: (finding for standing in now.destinations for finding in rule(standing, now.at))


RULES: tuple[Rule, ...] = (
    receiving.not_acknowledged,
    receiving.sender_refused,
    running.disk,
    receiving.spool,
    receiving.silence,
    delivering.no_worker,
    delivering.undispatched,
    _each(delivering.down),
    _each(delivering.unusable),
    _each(delivering.late),
    _each(delivering.held_back),
    _each(delivering.dead),
    _each(delivering.paused),
    _each(delivering.unconfigured),
    receiving.reconciled,
    receiving.quarantined,
    receiving.refused,
    running.processes,
    running.credentials,
    _each(delivering.certificate),
)

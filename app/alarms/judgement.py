"""Whether all is well: what is wrong, in the order of the damage that it does. Pure."""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

from app.alarms import delivering, receiving, running
from app.alarms.findings import Finding, Severity
from app.alarms.readings import Readings, without_errors
from app.deliveries.standings import Standing, State
from app.settings.alarms import AlarmSettings

Rule = Callable[[Readings], Iterator[Finding]]


def judge(readings: Readings, alarms: AlarmSettings | None = None) -> list[Finding]:
    """The findings: events that are lost first, then events that are late, then what waits for a person.

    Whatever fires an alarm is among them, also if the bound of the settings is narrower than the one here. A database
    of a newer release comes first: nobody knows what else this release does not see.
    """
    alarms = alarms or AlarmSettings()
    found = [finding for rule in _rules(alarms) for finding in rule(readings)]
    known = {(finding.name, finding.subject) for finding in found}
    found += [finding for _, finding in alarming(readings, alarms) if (finding.name, finding.subject) not in known]
    return [*running.schema(readings), *sorted(found, key=lambda finding: finding.severity is Severity.WARNING)]


def alarming(readings: Readings, alarms: AlarmSettings) -> Iterator[tuple[str, Finding]]:
    """What is wrong of what the settings want to be told, by kind. It holds no errors of consumers."""
    told = without_errors(readings)
    for kind, rule in KINDS.items():
        alarm = getattr(alarms, kind)
        if alarm is not None:
            for finding in rule(told, alarm):
                yield kind, finding


def _each(rule: Callable[..., Iterator[Finding]], *given: Any, **named: Any) -> Rule:
    """Applies a rule to each destination."""
    return lambda now: (finding for standing in now.destinations for finding in rule(standing, now.at, *given, **named))


def _slow(erp: Standing, at: datetime) -> Iterator[Finding]:
    """It is late, and its state does not say why."""
    return delivering.late(erp, at, delivering.LATE) if erp.state in (State.READY, State.FAILING) else iter(())


def _rules(alarms: AlarmSettings) -> tuple[Rule, ...]:
    silence = alarms.silence
    return (
        receiving.no_receiver,
        receiving.not_acknowledged,
        receiving.sender_refused,
        running.standbys,
        running.disk,
        receiving.spool,
        receiving.silence if silence is None else partial(receiving.quiet, alarm=silence),
        delivering.no_worker,
        lambda now: delivering.undispatched(now, delivering.dispatch_allowed(now)),
        _each(delivering.down),
        _each(delivering.unusable),
        _each(_slow),
        _each(delivering.held_back),
        _each(delivering.dead),
        _each(delivering.paused),
        _each(delivering.unconfigured),
        receiving.reconciled,
        receiving.quarantined,
        receiving.refused,
        running.backup,
        running.silent_processes,
        running.different_settings,
        running.credentials,
        _each(delivering.certificate),
    )


KINDS: dict[str, Callable[[Readings, Any], Iterator[Finding]]] = {
    "silence": receiving.quiet,
    "backlog": lambda now, alarm: chain(
        delivering.undispatched(now, alarm.older_than),
        _each(delivering.late, alarm.older_than)(now),
        _each(delivering.held_back, alarm.older_than)(now),
    ),
    "dead": lambda now, alarm: _each(delivering.dead, alarm.more_than)(now),
    "refused": lambda now, alarm: receiving.refused_share(now, alarm.more_than),
    "circuit": lambda now, alarm: chain(_each(delivering.down, alarm.older_than)(now), _each(delivering.unusable)(now)),
    "disk": lambda now, alarm: running.disk(now, alarm.less_than, alarm.days),
    "spool": lambda now, alarm: receiving.spool(now, alarm.older_than),
    "worker": lambda now, alarm: chain(
        delivering.few_workers(now, alarm.less_than), receiving.no_receiver(now), running.silent_processes(now)
    ),
    "reconcile": lambda now, alarm: receiving.reconciled(now, alarm.more_than),
    "certificate": lambda now, alarm: chain(
        _each(delivering.certificate, alarm.less_than)(now), running.credentials(now, alarm.less_than)
    ),
}
"""The rules of each kind. They are those of the judgement, with the bounds of the settings."""

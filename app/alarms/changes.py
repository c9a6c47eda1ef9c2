"""Which alarms start, last and end. Pure: from what fires, what is wrong, and the time.

                 wrong                     not wrong for `ends_after`
    (nothing) ──────────▶ fires, told once ──────────────────────────▶ ended, told once
                            │  ▲
                            └──┘ a day after it was last told: told again

Clocks may jump. A time that was kept and lies ahead of now counts as now, so that nothing waits for a year to pass.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from app.alarms.findings import Finding
from app.events.ids import new_id

AGAIN_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """An alarm that has not ended."""

    id: UUID
    kind: str
    name: str
    subject: str
    severity: str
    what: str
    command: str
    since: datetime | None
    example: str | None
    started_at: datetime
    seen_at: datetime
    told_at: datetime

    @property
    def key(self) -> tuple[str, str, str]:
        """What only one alarm at a time has."""
        return self.kind, self.name, self.subject


class Changes(NamedTuple):
    """What one look changes."""

    started: list[Firing]
    lasting: list[Firing]
    """Still wrong, and to be told again."""
    ended: list[Firing]
    kept: list[Firing]
    """They fire on, and nobody is told."""


def changes(
    firing: Sequence[Firing],
    found: Iterable[tuple[str, Finding]],
    *,
    ends_after: Callable[[str], timedelta],
    now: datetime,
    make_id: Callable[[], UUID] = new_id,
) -> Changes:
    """What becomes of the alarms that fire, and which ones start.

    Args:
        firing: The alarms that fire, each key once.
        found: What is wrong now, by kind.
        ends_after: How long nothing must have been wrong, by kind.
        now: The time.
        make_id: Gives ids to new alarms.
    """
    made = Changes([], [], [], [])
    before = {alarm.key: alarm for alarm in firing}
    seen: set[tuple[str, str, str]] = set()
    for kind, finding in found:
        key = (kind, finding.name, finding.subject or "")
        if key in seen:
            continue
        seen.add(key)
        if key not in before:
            made.started.append(_wrong(kind, finding, alarm_id=make_id(), started_at=now, told_at=now, now=now))
            continue
        old = before[key]
        told_at, started_at = min(old.told_at, now), min(old.started_at, now)
        again = now - told_at >= AGAIN_AFTER
        alarm = _wrong(
            kind, finding, alarm_id=old.id, started_at=started_at, told_at=now if again else told_at, now=now
        )
        (made.lasting if again else made.kept).append(alarm)
    for key, alarm in before.items():
        if key not in seen:
            seen_at = min(alarm.seen_at, now)
            quiet = replace(alarm, seen_at=seen_at, told_at=min(alarm.told_at, now))
            (made.ended if now - seen_at >= ends_after(alarm.kind) else made.kept).append(quiet)
    return made


def _wrong(
    kind: str,
    finding: Finding,
    *,
    alarm_id: UUID,
    started_at: datetime,
    told_at: datetime,
    now: datetime,
) -> Firing:
    return Firing(
        id=alarm_id,
        kind=kind,
        name=finding.name,
        subject=finding.subject or "",
        severity=str(finding.severity),
        what=finding.what,
        command=finding.command,
        since=finding.since or started_at,
        example=finding.example,
        started_at=started_at,
        seen_at=now,
        told_at=told_at,
    )

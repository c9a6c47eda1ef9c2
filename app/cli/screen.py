"""The screen of `priohook status`: what is wrong, then what was read. Pure; no line is wider than asked."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from rich.cells import cell_len, chop_cells

from app.alarms.changes import Firing
from app.alarms.findings import Finding
from app.alarms.forecast import days_left
from app.alarms.readings import EXPIRES_SOON, ProcessSeen, Readings
from app.alarms.words import counted, lasting, number, size
from app.cli.output import short_id
from app.database.standbys import promised
from app.deliveries.met import met
from app.deliveries.standings import Standing, State
from app.deliveries.stuck import Stuck
from app.events.arrivals import NEWEST
from app.telemetry.printing import printable

LABEL = 12  # columns
MOST_TYPES = 6
MOST_REFUSALS = 4
MOST_STUCK = 3
MOST_ALARMS = 5
SEEN_LATELY = timedelta(minutes=1)
WELL = "All is well."


def screen(readings: Readings, findings: Sequence[Finding], *, width: int) -> list[str]:
    """The lines."""
    return [*told(findings, width=width), "", *(line for row in _rows(readings) for line in _row(*row, width))]


def told(findings: Sequence[Finding], *, width: int) -> list[str]:
    """What is wrong and what to type, or that all is well."""
    lines = []
    for finding in findings:
        lines += _wrapped(printable(finding.what), width)
        lines.append(f"  {printable(finding.command)}")  # on one line, however long, so that it can be copied
    return lines or [WELL]


def _row(label: str, text: str, width: int) -> list[str]:
    label, text = printable(label), printable(text)
    if (room := LABEL - cell_len(label)) <= 0:
        return _wrapped(f"{label} {text}", width, indent=" " * LABEL)
    return _wrapped(text, width, first=label + " " * room, indent=" " * LABEL)


def _wrapped(text: str, width: int, *, first: str = "", indent: str = "") -> list[str]:
    """The text in lines, by the columns that a terminal needs: a Chinese character takes two.

    Args:
        text: The words; one that is longer than a line is cut.
        width: The columns of a line.
        first: How the first line begins.
        indent: How the others begin.
    """
    lines, line, gap = [], first, ""
    for word in (part for whole in text.split() for part in chop_cells(whole, max(1, width - len(indent)))):
        if cell_len(line + gap + word) > width:
            lines.append(line.rstrip())
            line = indent + word
        else:
            line += gap + word
        gap = " "
    return [*lines, line.rstrip()]


def _rows(now: Readings) -> Iterator[tuple[str, str]]:
    yield "priohook", f"{now.version} on {now.database}, {_size(now)}, schema {now.schema}"
    if now.standbys is not None:
        yield "standbys", promised(now.standbys)
    yield "processes", _processes(now)
    yield "received", _received(now)
    if now.last_events:
        yield "", ", ".join(f"{each.type} {_ago(each.at, now.at)}" for each in now.last_events[:MOST_TYPES])
    yield "refused", _refused(now)
    yield "quarantine", _quarantine(now)
    yield "waiting", _waiting(now)
    for destination in now.destinations:
        yield destination.name, _destination(destination, now.at)
        for stuck in destination.stuck[:MOST_STUCK]:
            yield "", _stuck(stuck, now.at)
    for replay in now.replays:
        yield (
            "replay",
            f"{short_id(replay.id)} to {replay.destination} is {replay.status}: {replay.made} of {replay.events}",
        )
    if (run := now.reconciliation) is not None:
        ended = f"{_ago(run.ended_at, now.at)}" if run.ended_at else "not complete"
        yield (
            "reconcile",
            f"{ended}: {number(run.listed)} listed, {number(run.missing)} missing, {number(run.fetched)} fetched",
        )
    yield from _alarms(now)
    yield from _kept(now)
    yield from _ending(now)


def _alarms(now: Readings) -> Iterator[tuple[str, str]]:
    if now.alarms:
        untold = f"; {counted(now.untold, 'notice is', 'notices are')} still to be told" if now.untold else ""
        shown = (_firing(each, now.at) for each in now.alarms[:MOST_ALARMS])
        yield "alarms", f"{counted(len(now.alarms), 'fires', 'fire')}: {', '.join(shown)}{untold}"


def _firing(alarm: Firing, at: datetime) -> str:
    """An alarm. One that is not seen any more fires until its `ends_after` is over, or a worker looks again."""
    about = f"{alarm.kind} {alarm.subject}".rstrip()
    seen = f", last seen {_ago(alarm.seen_at, at)}" if at - alarm.seen_at > SEEN_LATELY else ""
    return f"{about} for {lasting(at - alarm.started_at)}{seen}"


def _ending(now: Readings) -> Iterator[tuple[str, str]]:
    """Certificates and credentials."""
    for each in now.destinations:
        if each.certificate_until is not None and each.certificate_until < now.at + EXPIRES_SOON:
            yield "expires", f"the certificate of {each.name}, {_when(each.certificate_until, now.at)}"
    for expiry in now.credentials:
        yield "expires", f"the credential of {expiry.client}, {_when(expiry.at, now.at)}"


def _kept(now: Readings) -> Iterator[tuple[str, str]]:
    for disk in now.disks:
        days = days_left(now, disk)
        lasts = f", enough for {counted(days, 'day')}" if days is not None else ""
        yield "disk", f"{size(disk.free_bytes)} of {size(disk.total_bytes)} free ({disk.place}){lasts}"
    if now.last_backup is not None:
        yield "backup", f"{_ago(now.last_backup.finished_at, now.at)} to {now.last_backup.file}"
    elif now.database.startswith("SQLite"):
        yield "backup", "none was made by priohook backup"


def _size(now: Readings) -> str:
    grows = f" and {size(int(now.growth.bytes_per_day))} a day" if now.growth else ""
    return size(now.database_bytes) + grows


def _processes(now: Readings) -> str:
    running = [each for each in now.processes if each.is_running]
    if not running:
        return "none is running"
    kinds = ("receiver", "worker")
    parts = [counted(sum(each.kind == kind for each in running), kind) for kind in kinds]
    beat = max(each.beat_at for each in running)
    return f"{', '.join(parts)}, beat {_ago(beat, now.at)}; {_versions(running)}"


def _versions(running: Sequence[ProcessSeen]) -> str:
    versions, settings = {each.version for each in running}, {each.settings for each in running}
    named = "settings " if len(settings) == 1 else "different settings "
    return f"version {', '.join(sorted(versions))}, {named}{', '.join(sorted(settings))}"


def _received(now: Readings) -> str:
    numbers = now.numbers
    last = max((each.at for each in now.last_accepted), default=None)
    counts = f"{number(numbers.last_10_minutes)} in 10 min, {number(numbers.last_hour)} in 1 h"
    copies = f"; {counted(now.copies_of_newest, 'copy', 'copies')}" if now.copies_of_newest else ""
    week = f"same hour of last week {number(numbers.same_hour_last_week)}"
    none = "nothing yet" if not now.last_events else f"none of the newest {NEWEST:,} was accepted"
    return f"{f'last {_ago(last, now.at)}' if last else none}; {counts} ({week}){copies}"


def _refused(now: Readings) -> str:
    if not now.refused_last_hour:
        return "none in 1 h"
    kinds = (
        f"{each.status} {each.reason} {number(each.requests)} ({each.client or each.door} from {each.address})"
        for each in now.refused_last_hour[:MOST_REFUSALS]
    )
    return f"{number(sum(each.requests for each in now.refused_last_hour))} in 1 h: {'; '.join(kinds)}"


def _quarantine(now: Readings) -> str:
    if not now.quarantine:
        return "empty"
    newest = now.quarantine[0]
    total = sum(each.events for each in now.quarantine)
    last = f"the last {_ago(newest.newest_at, now.at)} ({short_id(newest.newest)})"
    return f"{counted(total, 'event')}, {last}: {newest.reason}"


def _waiting(now: Readings) -> str:
    to_store = sum(each.waiting_events or 0 for each in now.processes if each.is_running)
    spooled = sum(each.spooled_events or 0 for each in now.processes if each.is_running)
    if now.spool is not None:
        spooled = max(spooled, now.spool.events)
    backlog = now.undispatched
    oldest = f" (the oldest {_ago(backlog.oldest_at, now.at)})" if backlog.oldest_at else ""
    stored = f"{number(to_store)} to be stored, {number(spooled)} in the spool"
    return f"{stored}, {number(backlog.events)} without deliveries{oldest}"


def _destination(erp: Standing, at: datetime) -> str:
    counts = {
        "due": erp.due,
        "in flight": erp.in_flight,
        "due later": erp.later,
        "waiting for another": erp.waiting,
        "failing": erp.failing,
        "dead": erp.dead,
    }
    parts = [_state(erp, at), *(f"{number(count)} {name}" for name, count in counts.items() if count)]
    if erp.oldest_due_at is not None:
        parts.append(f"the oldest due {_ago(erp.oldest_due_at, at)}")
    if erp.last_success_at is not None:
        parts.append(f"last success {_ago(erp.last_success_at, at)}")
    return ", ".join(parts)


def _state(erp: Standing, at: datetime) -> str:
    if erp.state is State.PAUSED and erp.paused_at is not None:
        return f"PAUSED for {lasting(at - erp.paused_at)}"
    if erp.state is State.OPEN and erp.failing_since is not None:
        return f"DOWN for {lasting(at - erp.failing_since)} ({erp.failures} failures)"
    if erp.state is State.UNUSABLE:
        return f"UNUSABLE: {erp.unusable_reason}"
    return {State.NOT_CONFIGURED: "not in these settings", State.READY: "ready"}.get(erp.state, str(erp.state))


def _stuck(stuck: Stuck, at: datetime) -> str:
    why = met(stuck.last_status, stuck.last_error)
    whose = f"{stuck.reference} held back" if stuck.reference else "failing"
    waits = f", {number(stuck.waiting)} wait" if stuck.waiting else ""
    tries = counted(stuck.attempts, "attempt")
    return f"{whose} for {lasting(at - stuck.since)} by {short_id(stuck.delivery_id)}: {why} ({tries}{waits})"


def _ago(then: datetime, at: datetime) -> str:
    return f"{lasting(at - then)} ago"


def _when(then: datetime, at: datetime) -> str:
    return f"in {lasting(then - at)}" if then > at else _ago(then, at)

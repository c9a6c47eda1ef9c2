"""What is wrong with what runs: disks, processes, credentials."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import PurePath

from app.alarms.findings import Finding, critical, typed, warning
from app.alarms.forecast import days_left
from app.alarms.readings import Readings
from app.alarms.words import counted, lasting, size
from app.database.schema import newer

EXPIRES_SOON = timedelta(days=14)
BACKUP_LASTS = timedelta(days=8)
"""A weekly backup is not told, a daily one that has stopped is."""

FEW_DAYS = 7
LEAST_FREE = 1_000_000_000  # bytes


def schema(now: Readings) -> Iterator[Finding]:
    """The database is of a newer release than this one."""
    if now.schema_is_newer:
        yield warning(name="schema", what=newer(now.schema), command="priohook --version")


def standbys(now: Readings) -> Iterator[Finding]:
    """PostgreSQL commits nothing, because the primary or synchronous standbys are missing."""
    if now.standbys is not None and now.standbys.no_primary:
        what = "PostgreSQL has no primary: only a standby answers, and it stores no events."
        command = 'psql -c "SELECT sender_host, status FROM pg_stat_wal_receiver"'
        yield critical(name="primary_missing", what=what, command=command)
    if now.standbys is not None and now.standbys.are_missing:
        waited_for = counted(now.standbys.wanted, "synchronous standby", "synchronous standbys")
        there = counted(now.standbys.synchronous, "is", "are") if now.standbys.synchronous else "none is"
        what = f"PostgreSQL waits for {waited_for}, and {there} there: no commit returns."
        command = 'psql -c "SELECT application_name, state, sync_state FROM pg_stat_replication"'
        yield critical(name="standby_missing", what=what, command=command)


def disk(now: Readings, least: int = LEAST_FREE, few_days: int = FEW_DAYS) -> Iterator[Finding]:
    """A disk is nearly full."""
    for each in now.disks:
        days = days_left(now, each)
        if each.free_bytes < least or (days is not None and days < few_days):
            lasts = f", enough for {counted(days, 'day')}" if days is not None else ""
            what = f"The disk of the {each.place} has only {size(each.free_bytes)} free{lasts}: {each.path}."
            yield critical(name="disk", subject=each.place, what=what, command="priohook prune --dry-run")


def backup(now: Readings) -> Iterator[Finding]:
    """No backup was made for a while, though there was one before."""
    last = now.last_backup
    if last is not None and (age := now.at - last.finished_at) > BACKUP_LASTS:
        file = PurePath(last.file).with_name(f"priohook-{now.at:%Y-%m-%d}.db")
        yield warning(
            name="backup_old",
            what=f"The last backup is {lasting(age)} old.",
            since=last.finished_at,
            command=typed("backup", str(file)),
        )


def silent_processes(now: Readings) -> Iterator[Finding]:
    """Processes that fell silent and were not replaced."""
    running = [each for each in now.processes if each.is_running]
    for silent in now.processes:
        others = [each for each in running if each.kind == silent.kind]
        replaced = any(each.started_at > silent.beat_at for each in others)
        if not silent.is_running and others and not replaced:  # that none runs at all has rules of its own
            since = lasting(now.at - silent.beat_at)
            yield warning(
                name="process_silent",
                subject=silent.name,
                what=f"A {silent.kind}, process {silent.pid} on {silent.host}, has been silent for {since}.",
                since=silent.beat_at,
                command="priohook worker" if silent.kind == "worker" else "priohook serve",
            )


def different_settings(now: Readings) -> Iterator[Finding]:
    """Processes that do not have the settings of the newest one."""
    running = [each for each in now.processes if each.is_running]
    if len({each.settings for each in running}) > 1:
        newest = max(running, key=lambda each: each.started_at)
        old = next(each for each in running if each.settings != newest.settings)
        yield warning(
            name="settings_differ",
            subject=old.name,
            what=f"A {old.kind}, process {old.pid} on {old.host}, does not have the newest settings: restart it.",
            since=newest.started_at,
            command="priohook settings",
        )


def credentials(now: Readings, within: timedelta = EXPIRES_SOON) -> Iterator[Finding]:
    """Credentials that have expired or soon will, and that no other replaces."""
    for expiry in now.credentials:
        left = expiry.at - now.at
        if not expiry.is_replaced and left < within:
            when = f"expires in {lasting(left)}" if left > timedelta(0) else f"expired {lasting(-left)} ago"
            what = f"The credential of {expiry.client} {when}."
            command = "priohook clients list"
            yield warning(name="credential_expires", subject=expiry.client, what=what, since=expiry.at, command=command)

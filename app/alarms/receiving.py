"""What is wrong with receiving."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from app.alarms.findings import Finding, critical, warning
from app.alarms.places import SpoolFolder
from app.alarms.readings import Readings, Refused
from app.alarms.words import counted, lasting, number
from app.deliveries.globs import wants
from app.settings.alarms import SilenceAlarm
from app.settings.hours import read_hours
from app.telemetry.processes import SILENT

FEW_EVENTS = 5
"""The same hour of last week must have had more events before silence means something."""

FIRST_START = timedelta(minutes=1)
"""How long the first start may take, for example in compose, which starts a worker before the first receiver."""

SPOOLED_LONG = timedelta(minutes=1)
SOME_REFUSED = 3
"""Without a configured client among them, fewer refused requests in ten minutes are not told: somebody looks around."""

MANY_REFUSED = 20
"""Refused requests in ten minutes; fewer happen when strangers look for open doors."""

DAY = timedelta(days=1)
UNAUTHORIZED, FORBIDDEN, TOO_MANY, UNAVAILABLE = 401, 403, 429, 503
NOT_LET_IN = (UNAUTHORIZED, FORBIDDEN, TOO_MANY)
REASONS = {
    "missing": "it sends no credential",
    "malformed": "its credential cannot be read",
    "unknown_username": "the username is unknown",
    "wrong_secret": "the secret is wrong",
    "expired": "its credential has expired",
    "not_yet_valid": "its credential is not valid yet",
    "scope": "it lacks the scope",
}

UNAVAILABLE_FOR = {
    "database": "the database was away, locked, full or read-only",
    "commit_timeout": "the database was slower than commit_timeout",
    "queue_full": "the database took fewer than arrived",
    "spool_full": "the spool is full",
}


def no_receiver(now: Readings) -> Iterator[Finding]:
    """Nobody takes webhooks. One that ended a moment ago is perhaps being restarted."""
    if any(each.kind == "receiver" and each.is_running for each in now.processes):
        return
    last = now.receiver_at
    started = [each.started_at for each in now.processes if each.is_running]
    began = min(filter(None, [*started, now.first_action_at]), default=None)
    silent_since, allowed = (last, SILENT) if last else (began, FIRST_START)
    if silent_since is not None and now.at - silent_since < allowed:
        return
    for_long = f"for {lasting(now.at - last)}" if last else "for a day or longer" if now.last_events else "yet"
    what = f"No receiver has run {for_long}: nobody takes webhooks."
    yield critical(name="no_receiver", what=what, since=last, command="priohook serve")


def not_acknowledged(now: Readings) -> Iterator[Finding]:
    """Webhooks that were answered 503: the sender has them alone."""
    refused = [each for each in now.refused_last_10_minutes if each.door == "webhook" and each.status == UNAVAILABLE]
    if refused:
        webhooks = counted(sum(each.requests for each in refused), "webhook was", "webhooks were")
        reason = refused[0].reason
        what = f"{webhooks} answered 503 in the last 10 min: {UNAVAILABLE_FOR.get(reason, reason)}."
        yield critical(name="not_acknowledging", what=what, command="priohook refusals list")


def sender_refused(now: Readings) -> Iterator[Finding]:
    """Clients that are known and refused, and were not let in since.

    Of several clients with one username, nobody knows for which one a wrong secret was meant. So they count as one.
    """
    uses = {use.client: use for use in now.clients}
    by_client: dict[str, list[Refused]] = {}
    for each in now.refused_last_10_minutes:
        if each.client and each.status in NOT_LET_IN:
            by_client.setdefault(each.client, []).append(each)
    for client, refused in by_client.items():
        use, refused_at = uses.get(client), max(each.last_at for each in refused)
        if use and use.refused_at and use.refused_status in NOT_LET_IN:
            refused_at = max(refused_at, use.refused_at)
        is_guess = all(each.reason == "wrong_secret" for each in refused)
        meant = (client, *(use.same_username if use and is_guess else ()))
        successes = [uses[name].succeeded_at for name in meant if name in uses]
        last = max(filter(None, successes), default=None)
        if last is None or last < refused_at:
            most = refused[0]
            times = counted(sum(each.requests for each in refused), "time")
            yield critical(
                name="sender_refused",
                subject=client,
                what=f"{' or '.join(meant)} was refused {times} in the last 10 min, {_whence(refused)}: {_why(most)}.",
                since=last,
                example=most.address,
                command="priohook clients list",
            )


def silence(now: Readings) -> Iterator[Finding]:
    """Nothing arrives at a time at which something arrived last week."""
    before = now.numbers.same_hour_last_week
    if now.numbers.last_hour or before <= FEW_EVENTS:
        return
    last = max((each.at for each in now.last_accepted), default=None)
    for_long = f"for {lasting(now.at - last)}" if last else "for more than an hour"
    what = f"Nothing has arrived {for_long}. In the same hour of last week, {counted(before, 'event')} arrived."
    yield critical(name="silence", what=what, since=last, command="priohook refusals list")


def quiet(now: Readings, alarm: SilenceAlarm) -> Iterator[Finding]:
    """Nothing of what the settings name was accepted for so long, within the hours that they name.

    Before the first event, the time counts from the start of the process that has run for the longest.
    """
    accepted = [each.accepted_at for each in now.last_events if each.accepted_at and wants(alarm.events, each.type)]
    if "*" in alarm.events:  # also events without a type
        accepted += [each.at for each in now.last_accepted]
    started = [each.started_at for each in now.processes if each.is_running]
    since = max(accepted, default=None) or min(started, default=now.at)
    hours = read_hours(alarm.between) if alarm.between else None
    passed = hours.open_time(since, now.at, enough=alarm.quiet) if hours else now.at - since
    if passed < alarm.quiet:
        return
    events = "Nothing" if "*" in alarm.events else f"No event of {', '.join(alarm.events)}"
    within = f", {lasting(alarm.quiet)} of it within {alarm.between}" if alarm.between else ""
    ever = f"for {lasting(now.at - since)}" if accepted else f"since the start {lasting(now.at - since)} ago"
    yield critical(
        name="silence",
        what=f"{events} was accepted {ever}{within}.",
        since=since,
        example=_newest(now, alarm.events),
        command="priohook refusals list",
    )


def refused_share(now: Readings, more_than: float) -> Iterator[Finding]:
    """Much of what known senders sent was refused or quarantined; `more_than` is in percent.

    A sender is known by an address from which events were accepted: strangers who guess do not count.
    """
    known = set(now.sender_addresses)
    refusals = [
        each
        for each in now.refused_last_10_minutes
        if each.door == "webhook"
        and (each.status == UNAVAILABLE or (each.status in (UNAUTHORIZED, FORBIDDEN) and each.address in known))
    ]
    quarantined = now.numbers.quarantined_last_10_minutes
    refused = sum(each.requests for each in refusals)
    failed, total = refused + quarantined, refused + now.numbers.last_10_minutes
    named = quarantined or any(each.client for each in refusals)
    if not failed or 100 * failed <= more_than * total or not (named or failed >= SOME_REFUSED):
        return
    worst = refusals[0] if refusals else None
    why = f"{worst.status} {worst.reason}" if worst and refused >= quarantined else "quarantined"
    newest = next((str(each.newest) for each in now.quarantine), None)
    share = round(100 * failed / total)
    yield critical(
        name="refused_share",
        what=f"Of {counted(total, 'webhook')} in the last 10 min, {number(failed)} ({share} %) were refused or "
        f"quarantined, most with: {why}.",
        example=newest if quarantined else worst.address if worst else None,
        command="priohook refusals list" if refused >= quarantined else "priohook events list --status quarantined",
    )


def spool(now: Readings, older_than: timedelta = SPOOLED_LONG) -> Iterator[Finding]:
    """Events that wait on this host while PostgreSQL takes none."""
    if now.spool is not None:
        yield from spooled(now.spool, now.at, older_than)


def spooled(folder: SpoolFolder, at: datetime, older_than: timedelta = SPOOLED_LONG) -> Iterator[Finding]:
    """What is wrong with a spool, also while the database cannot be read."""
    if folder.unreadable:
        what = folder.unreadable[0]
        yield critical(name="spool_unreadable", subject=folder.path, what=what, command="priohook spool list")
    if folder.oldest_at is not None and at - folder.oldest_at > older_than:
        waiting = counted(folder.events, "event has", "events have")
        why = f"the database refuses one: {folder.refused}" if folder.refused else "the database takes none."
        yield critical(
            name="spool",
            subject=folder.path,
            what=f"In the spool, {waiting} waited for {lasting(at - folder.oldest_at)}: {why}",
            since=folder.oldest_at,
            command="priohook spool list",
        )


def reconciled(now: Readings, more_than: int = 0) -> Iterator[Finding]:
    """Orders of which no webhook arrived, and runs that were interrupted; of the last day."""
    run = now.reconciliation
    if run is None or now.at - run.started_at > DAY:
        return
    if run.error is not None and run.ended_at is None:
        what = f"priohook reconcile was interrupted {lasting(now.at - run.started_at)} after its start: {run.error}"
        yield warning(name="reconcile_interrupted", what=what, since=run.started_at, command="priohook reconcile")
    if run.missing > more_than:
        orders = counted(run.missing, "state of an order", "states of orders")
        what = f"priohook reconcile found {orders} that had never arrived, and fetched {run.fetched}."
        yield warning(
            name="reconcile_found_missing", what=what, since=run.started_at, command="priohook prioticket webhooks list"
        )


def quarantined(now: Readings) -> Iterator[Finding]:
    """Events that were quarantined within a day, and not judged again."""
    recent = [each for each in now.quarantine if now.at - each.newest_at < DAY]
    if recent:
        newest = recent[0]
        events = counted(sum(each.events for each in recent), "event is", "events are")
        yield warning(
            name="quarantined",
            what=f"{events} in quarantine, the last {lasting(now.at - newest.newest_at)} ago: {newest.reason}",
            since=newest.newest_at,
            example=str(newest.newest),
            command="priohook events list --status quarantined",
        )


def refused(now: Readings) -> Iterator[Finding]:
    """Many requests of strangers."""
    strangers = [
        each for each in now.refused_last_10_minutes if not each.client and each.status in (UNAUTHORIZED, TOO_MANY)
    ]
    total = sum(each.requests for each in strangers)
    if total > MANY_REFUSED:
        worst = strangers[0]
        what = f"{counted(total, 'request')} of strangers were refused in the last 10 min, most from {worst.address}."
        yield warning(name="refused", what=what, example=worst.address, command="priohook refusals list")


def _whence(refused: Sequence[Refused]) -> str:
    others = len({each.address for each in refused}) - 1
    most = refused[0].address
    return f"most from {most} and {counted(others, 'other address', 'other addresses')}" if others else f"from {most}"


def _newest(now: Readings, globs: Sequence[str]) -> str | None:
    """The id of the newest event that was accepted."""
    events = [each for each in now.last_events if each.accepted_at == each.at and wants(globs, each.type)]
    return str(max(events, key=lambda event: event.at).id) if events else None


def _why(refusal: Refused) -> str:
    return REASONS.get(refusal.reason, refusal.reason)

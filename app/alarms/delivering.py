"""What is wrong with delivering."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from app.alarms.findings import Finding, critical, typed, warning
from app.alarms.readings import Readings
from app.alarms.words import counted, lasting, number
from app.deliveries.met import met
from app.deliveries.standings import Standing, State
from app.deliveries.stuck import Stuck

LATE = timedelta(minutes=10)
BUSY = 100
"""A destination with so many due deliveries may hold up the making of further ones."""

DISPATCH_LATE = timedelta(minutes=1)
CERTIFICATE_SOON = timedelta(days=14)
STUCK_AFTER = 3
"""Failed attempts of a delivery: fewer happen when a consumer restarts."""


def no_worker(now: Readings) -> Iterator[Finding]:
    """Nobody delivers."""
    workers = [each for each in now.processes if each.kind == "worker"]
    if any(each.is_running for each in workers) or not (now.destinations or now.undispatched.events):
        return
    last = max((each.beat_at for each in workers), default=None)
    yield critical(
        name="no_worker",
        what=f"No worker {f'has run for {lasting(now.at - last)}' if last else 'runs'}: nothing is delivered.",
        since=last,
        example=workers[0].name if workers else None,
        command="priohook worker",
    )


def few_workers(now: Readings, less_than: int) -> Iterator[Finding]:
    """Fewer workers run than should."""
    workers = sum(each.kind == "worker" and each.is_running for each in now.processes)
    if workers < less_than and not any(no_worker(now)):
        what = f"{counted(workers, 'worker runs', 'workers run')}; there should be {less_than} or more."
        yield critical(name="few_workers", what=what, command="priohook worker")


def dispatch_allowed(now: Readings) -> timedelta:
    """How long events may wait for their deliveries: long only while destinations have enough to do."""
    return LATE if any(erp.due >= BUSY for erp in now.destinations) else DISPATCH_LATE


def undispatched(now: Readings, allowed: timedelta) -> Iterator[Finding]:
    """Events that wait for their deliveries to be made."""
    oldest = now.undispatched.oldest_at
    if oldest is not None and now.at - oldest > allowed:
        events = number(now.undispatched.events)
        what = f"Events without deliveries: {events}. The oldest has waited for {lasting(now.at - oldest)}."
        example = str(now.undispatched.oldest)
        yield critical(
            name="undispatched", what=what, since=oldest, example=example, command="priohook status --worker"
        )


def down(erp: Standing, at: datetime, failing_for: timedelta = timedelta(0)) -> Iterator[Finding]:
    """Its circuit breaker is open."""
    if erp.state is State.OPEN and (erp.failing_since is None or at - erp.failing_since >= failing_for):
        since = f" for {lasting(at - erp.failing_since)}" if erp.failing_since else ""
        last = max(erp.stuck, key=lambda stuck: stuck.last_at or stuck.since, default=None)
        why = f" ({_why(last)})" if last else ""
        yield critical(
            name="destination_down",
            subject=erp.name,
            what=f"{erp.name} has failed {counted(erp.failures, 'time')} in a row{since}{why}, and {_queue(erp)}.",
            since=erp.failing_since,
            example=str(last.delivery_id) if last else None,
            command=typed("deliveries", "list", "--failing", "--destination", erp.name),
        )


def unusable(erp: Standing, _at: datetime) -> Iterator[Finding]:
    """A worker cannot use its settings."""
    if erp.state is State.UNUSABLE:
        yield critical(
            name="destination_unusable",
            subject=erp.name,
            what=f"{erp.name} cannot be used, and {_queue(erp)}: {erp.unusable_reason}",
            command="priohook settings",
        )


def late(erp: Standing, at: datetime, older_than: timedelta) -> Iterator[Finding]:
    """Its queue does not get shorter."""
    oldest = erp.oldest_due_at
    if oldest is not None and at - oldest > older_than:
        yield critical(
            name="destination_late",
            subject=erp.name,
            what=f"Deliveries to {erp.name} are {lasting(at - oldest)} late, and {_queue(erp)}.",
            since=oldest,
            example=str(erp.oldest_due),
            command=typed("deliveries", "list", "--status", "pending", "--sort", "oldest", "--destination", erp.name),
        )


def unconfigured(old: Standing, _: datetime) -> Iterator[Finding]:
    """It is in no settings, and something waits for it."""
    if old.state is State.NOT_CONFIGURED and _pending(old):
        yield warning(
            name="destination_unconfigured",
            subject=old.name,
            what=f"{old.name} is not in these settings, and {_queue(old)}.",
            command=typed("destinations", "remove", old.name),
        )


def paused(erp: Standing, at: datetime) -> Iterator[Finding]:
    """A person or an answer 410 has paused it."""
    if erp.state is State.PAUSED and erp.paused_at is not None:
        for_long = lasting(at - erp.paused_at)
        yield warning(
            name="destination_paused",
            subject=erp.name,
            what=f"{erp.name} has been paused for {for_long}, and {_queue(erp)}: {erp.paused_reason}",
            since=erp.paused_at,
            command=typed("destinations", "resume", erp.name),
        )


def held_back(erp: Standing, at: datetime, older_than: timedelta = timedelta(0)) -> Iterator[Finding]:
    """Some deliveries fail again and again, while others succeed."""
    stuck = [each for each in erp.stuck if each.attempts >= STUCK_AFTER and at - each.since >= older_than]
    if erp.state is State.FAILING and stuck:
        first = stuck[0]
        fail = f"{erp.name} keeps failing for {counted(erp.failing, 'delivery', 'deliveries')}"
        whose = f"{first.reference} is held back" if first.reference else "the oldest has failed"
        yield warning(
            name="held_back",
            subject=erp.name,
            what=f"{fail}: {whose} for {lasting(at - first.since)} ({_why(first)}).",
            since=first.since,
            example=str(first.delivery_id),
            command=typed("deliveries", "list", "--failing", "--destination", erp.name),
        )


def dead(erp: Standing, _at: datetime, more_than: int = 0) -> Iterator[Finding]:
    """Deliveries that are tried no more."""
    if erp.dead > more_than:
        deliveries = counted(erp.dead, "dead delivery", "dead deliveries")
        yield warning(
            name="dead",
            subject=erp.name,
            what=f"{erp.name} has {deliveries}, tried no more: retry or drop them.",
            example=str(erp.newest_dead),
            command=typed("deliveries", "list", "--status", "dead", "--destination", erp.name),
        )


def certificate(erp: Standing, at: datetime, within: timedelta = CERTIFICATE_SOON) -> Iterator[Finding]:
    """Its certificate has expired or soon will."""
    until = erp.certificate_until
    if until is not None and until - at < within and erp.state is not State.NOT_CONFIGURED:
        when = f"expires in {lasting(until - at)}" if until > at else f"expired {lasting(at - until)} ago"
        yield warning(
            name="certificate_expires",
            subject=erp.name,
            what=f"The certificate of {erp.name} {when}.",
            since=until,
            command=typed("destinations", "list"),
        )


def _why(stuck: Stuck) -> str:
    return met(stuck.last_status, stuck.last_error).rstrip(".") or str(stuck.last_result or "no answer is known")


def _pending(erp: Standing) -> int:
    return erp.due + erp.later + erp.waiting + erp.in_flight


def _queue(erp: Standing) -> str:
    return counted(_pending(erp), "delivery waits", "deliveries wait")

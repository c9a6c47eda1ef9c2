"""How destinations stand: their queues, their last attempts and their settings, with no secret of them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request

from app.api.acting import acting
from app.api.deliveries import DeliverySummary
from app.api.destinations import NoSuchDestination
from app.api.state import State
from app.audit.chain import Act
from app.audit.queries import AuditFilter, list_entries
from app.audit.tables import Action, Kind
from app.database.clock import ahead
from app.deliveries.queries import DeliveryFilter, list_deliveries
from app.deliveries.recent import Performance, RecentAttempt, performance, recent_attempts
from app.deliveries.standings import Backlog, Standing, standings, undispatched
from app.deliveries.tables import AttemptResult, DeliveryStatus
from app.deliveries.trial import Trial, send_test
from app.settings.brokers import OPTIONS
from app.settings.model import DestinationSettings
from app.settings.urls import masked
from app.web.problems import Problem, Unavailable
from app.web.transactions import DEADLINE, MARGIN, reading

MOST_WITH_ATTEMPTS = 20
"""More destinations are listed without their last attempts."""

MOST_DEAD = 5
TEST_WITHIN = timedelta(seconds=10)


class OnlyWhereItRuns(Problem):
    """A test of this destination cannot be sent from here; the message says why."""

    status = 409


class TooManyTests(Unavailable):
    """Too many requests wait for destinations."""


class Shown(NamedTuple):
    """The settings of a destination as they may be shown."""

    url: str
    names: Mapping[str, str]
    """At a broker: the subject, or what it has instead."""
    is_function: bool
    events: Sequence[str]
    secrets: int
    """How many signing secrets it has."""
    headers: Sequence[str]
    """The names of its own headers."""
    timeout: timedelta
    max_in_flight: int
    rate: float | None
    thin: str


class TrialShown(BaseModel):
    """What became of a test event."""

    id: UUID
    sent_at: datetime
    duration_ms: int
    result: AttemptResult
    status: int | None
    error: str | None
    answer: str | None
    """The first 2 KiB of the answer."""

    @classmethod
    def of(cls, trial: Trial) -> Self:
        """The trial as it is shown."""
        outcome = trial.outcome
        return cls(
            id=trial.id,
            sent_at=trial.started_at,
            duration_ms=trial.duration // timedelta(milliseconds=1),
            result=outcome.result,
            status=outcome.status,
            error=outcome.error,
            answer=outcome.answer.decode("utf-8", "replace") if outcome.answer else None,
        )


class Look(NamedTuple):
    """A destination."""

    standing: Standing
    settings: Shown | None
    """None if these settings do not have it."""
    performance: Performance | None
    """None if it was not looked at."""


class LongLook(NamedTuple):
    """A destination, with what its page alone shows."""

    standing: Standing
    settings: Shown | None
    performance: Performance
    attempts: Sequence[RecentAttempt]
    dead: Sequence[DeliverySummary]
    """The newest."""
    paused_by: str | None
    """Who paused it; None if it is not paused, or answered 410."""


async def all_looks(request: Request[State]) -> tuple[list[Look], Backlog]:
    """All destinations by name, and the events that have no deliveries yet.

    Raises:
        DatabaseAway: 503.
    """
    configured = request.state["destinations"]
    async with reading(request.state["engine"]) as connection:
        found = await standings(connection, configured, now=await _now(connection))
        looked = {each.name: performance(await _attempts(connection, each)) for each in found[:MOST_WITH_ATTEMPTS]}
        backlog = await undispatched(connection)
    return [Look(each, _shown(configured.get(each.name)), looked.get(each.name)) for each in found], backlog


async def look(request: Request[State], name: str) -> LongLook:
    """A destination.

    Raises:
        NoSuchDestination: 404.
        DatabaseAway: 503.
    """
    configured = request.state["destinations"]
    async with reading(request.state["engine"]) as connection:
        found = await standings(connection, configured, now=await _now(connection))
        standing = next((each for each in found if each.name == name), None)
        if standing is None:
            raise NoSuchDestination
        attempts = await _attempts(connection, standing)
        newest = DeliveryFilter(destination=name, status=DeliveryStatus.DEAD.value)
        dead = await list_deliveries(connection, newest, limit=MOST_DEAD) if standing.dead else []
        return LongLook(
            standing=standing,
            settings=_shown(configured.get(name)),
            performance=performance(attempts),
            attempts=attempts,
            dead=[DeliverySummary.model_validate(each) for each in dead],
            paused_by=await _paused_by(connection, standing),
        )


async def tested(request: Request[State], name: str, *, reason: str | None) -> TrialShown:
    """What becomes of a test event that this process sends.

    Raises:
        NoSuchDestination: 404, these settings do not have it.
        OnlyWhereItRuns: 409, it is a function.
        TooManyTests: 503.
        DatabaseAway: 503.
    """
    settings = request.state["destinations"].get(name)
    if settings is None:
        raise NoSuchDestination
    if settings.url.startswith("python:"):
        raise OnlyWhereItRuns(
            f"{name} is a Python function, which runs beside a worker.",
            "Run the command `priohook destinations test` there.",
        )
    if request.state["waits"].locked():
        raise TooManyTests("Too many requests wait for a destination.", "Nothing was sent: ask again later.")
    async with request.state["waits"]:
        async with acting(request, Act(action=Action.TEST, kind=Kind.DESTINATION, target=name, reason=reason)):
            pass  # that it is sent is recorded first; no transaction is open while it is
        return TrialShown.of(await send_test(settings, now=datetime.now(UTC), within=TEST_WITHIN))


async def _now(connection: AsyncConnection) -> datetime:
    return datetime.now(UTC) + await ahead(connection)


async def _attempts(connection: AsyncConnection, standing: Standing) -> list[RecentAttempt]:
    since = min((at for at in (standing.failing_since, standing.paused_at) if at is not None), default=None)
    return await recent_attempts(connection, standing.name, trouble_since=since)


async def _paused_by(connection: AsyncConnection, standing: Standing) -> str | None:
    """Who paused it. The audit has the row, which was stored in the same transaction as the pause."""
    if standing.paused_at is None:
        return None
    until = standing.paused_at + DEADLINE + MARGIN
    narrowed = AuditFilter(action=Action.PAUSE, target=standing.name, since=standing.paused_at, until=until)
    return next((entry.client for entry in await list_entries(connection, narrowed, limit=1)), None)


def _shown(settings: DestinationSettings | None) -> Shown | None:
    if settings is None:
        return None
    return Shown(
        url=masked(settings.url),
        names={option: value for option in OPTIONS if (value := getattr(settings, option))},
        is_function=settings.url.startswith("python:"),
        events=settings.events,
        secrets=len(settings.secret),
        headers=sorted(settings.headers),
        timeout=settings.timeout,
        max_in_flight=settings.max_in_flight,
        rate=settings.rate,
        thin=settings.thin,
    )

"""Replays: the list, a new one with its plan, the progress of one, and its controls."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Annotated, NamedTuple
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.api import replays
from app.api.acting import Reason, Why
from app.api.events import EventChoice
from app.api.groups import GroupChoice, retry_group
from app.api.plans import (
    DEFAULT_RATE,
    FASTEST,
    SLOWEST,
    NothingToReplay,
    ReplayAnswer,
    ReplayRequest,
    replay_of,
)
from app.api.state import State
from app.audit.tables import Action
from app.console.forms import fields_of
from app.console.pages import CONSOLE, page
from app.deliveries.replays import FILTER
from app.deliveries.tables import ReplayStatus
from app.events.ids import made_at
from app.events.queries import EventFilter
from app.web.pagination import PageQuery
from app.web.parameters import Text, read_query

MOST_UNCONFIRMED = 1000
"""A replay of more events is started only when somebody types how many they are."""

MOST_TYPES = 20
"""Of a plan, how many types are shown."""


class NewReplay(EventChoice):
    """A new replay, as the address of its page says it."""

    to: Text | None = None
    rate: Annotated[float, Field(ge=SLOWEST, le=FASTEST)] = DEFAULT_RATE
    plan: bool = False

    def wanted(self, *, dry_run: bool, reason: str | None = None) -> ReplayRequest:
        """The same as the API takes it."""
        return ReplayRequest(filter=self, to=self.to, rate=self.rate, dry_run=dry_run, reason=reason)

    def fixed(self, now: datetime) -> "NewReplay":
        """The same without events that arrive from now on, so that a plan and its replay are of the same events."""
        now = now.replace(microsecond=0)
        return self.model_copy(update={"until": min(self.until or now, now)})

    def address(self) -> str:
        """The query of the page."""
        return urlencode(self.model_dump(mode="json", exclude_none=True) | {"plan": "true"})

    def command(self) -> str:
        """What does the same in a shell."""
        return shlex.join(["priohook", "replay", *self._options()])

    def _options(self) -> Iterator[str]:
        values = self.model_dump(mode="json", exclude_none=True, exclude={"plan"})
        for name in (*EventChoice.model_fields, "to"):
            if name in values:
                yield from (f"--{name}", values[name])
        yield from ("--rate", f"{self.rate:g}")


class Confirmation(BaseModel):
    """What somebody fills in who starts a replay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    events: int
    typed: Text = ""
    reason: Reason = None

    def is_enough(self) -> bool:
        """Whether the number was typed, if it had to be."""
        digits = "".join(each for each in self.typed if each.isdigit())
        return self.events <= MOST_UNCONFIRMED or digits == str(self.events)


class Shown(NamedTuple):
    """A replay as its page shows it.

    Attributes:
        choice: Which events; None if they were chosen by their ids.
        events: How many there are in all.
        ended: How many were delivered, dropped or are dead.
        left: How long it still takes at its rate, if it goes on.
    """

    replay: replays.ReplayShown
    started_at: datetime
    choice: EventFilter | None
    events: int
    ended: int
    left: timedelta | None

    @classmethod
    def of(cls, replay: replays.ReplayShown) -> "Shown":
        events, ended = max(replay.events, replay.made), replay.made - replay.pending
        return cls(
            replay,
            started_at=made_at(replay.id),
            choice=FILTER.validate_python(replay.filter) if replay.filter else None,
            events=events,
            ended=ended,
            left=timedelta(seconds=(events - ended) / replay.rate) if replay.status is ReplayStatus.RUNNING else None,
        )


async def list_page(request: Request[State]) -> Response:
    """The replays, newest first."""
    query = read_query(request, PageQuery)
    found = await replays.listed(request, query)
    return page(request, "replays.html", query=query, shown=map(Shown.of, found.replays), next=found.next)


async def new(request: Request[State]) -> Response:
    """The form of a new replay; when a plan is asked for, the plan, and the form that starts it."""
    query = read_query(request, NewReplay)
    if not query.plan:
        return _form(request, query)
    fixed = query.fixed(datetime.now(UTC))
    try:
        planned = await replay_of(request, fixed.wanted(dry_run=True))
        return _form(request, query, fixed=fixed, planned=planned)
    except NothingToReplay as nothing:
        return _form(request, query, wrong=f"{nothing.message} Release them first.", status=nothing.status)


async def start(request: Request[State]) -> Response:
    """Starts the replay whose plan was shown, and leads to it."""
    query, confirmed = read_query(request, NewReplay), fields_of(request, Confirmation)
    if not confirmed.is_enough():
        planned = await replay_of(request, query.wanted(dry_run=True))
        return _form(
            request, query, fixed=query, planned=planned, wrong="That is not the number of events.", status=422
        )
    wanted = query.wanted(dry_run=False, reason=confirmed.reason)
    started = await replay_of(request, wanted.model_copy(update={"expected": confirmed.events}))
    assert started.replay is not None  # noqa: S101 - it was no dry run
    return RedirectResponse(f"{CONSOLE}/replays/{started.replay.id}?done=started", 303)


async def show(request: Request[State]) -> Response:
    """One replay, and how far it has come."""
    return page(request, "replay.html", shown=Shown.of(await replays.found(request)))


async def pause(request: Request[State]) -> Response:
    """Pauses a replay."""
    return await _control(request, Action.PAUSE, "paused")


async def resume(request: Request[State]) -> Response:
    """Resumes a replay."""
    return await _control(request, Action.RESUME, "resumed")


async def cancel(request: Request[State]) -> Response:
    """Cancels a replay."""
    return await _control(request, Action.CANCEL, "cancelled")


async def again(request: Request[State]) -> Response:
    """Tries the dead deliveries of a replay again."""
    replay = await replays.found(request)
    group = GroupChoice(destination=replay.destination, replay=replay.id)
    over = await retry_group(request, group, reason=fields_of(request, Why).reason)
    return RedirectResponse(
        f"{CONSOLE}/replays/{replay.id}?done={'group-retried' if over else 'group-partly-retried'}", 303
    )


async def _control(request: Request[State], action: Action, done: str) -> Response:
    replay = await replays.controlled(request, action, reason=fields_of(request, Why).reason)
    return RedirectResponse(f"{CONSOLE}/replays/{replay.id}?done=replay-{done}", 303)


def _form(
    request: Request[State],
    query: NewReplay,
    *,
    fixed: NewReplay | None = None,
    planned: ReplayAnswer | None = None,
    wrong: str | None = None,
    status: int = 200,
) -> Response:
    types = sorted(planned.plan.types.items(), key=lambda each: -each[1]) if planned else []
    return page(
        request,
        "new-replay.html",
        status=status,
        query=query,
        fixed=fixed,
        planned=planned,
        takes=timedelta(seconds=ceil(planned.seconds)) if planned else None,
        types=types[:MOST_TYPES],
        more_types=len(types) - MOST_TYPES,
        must_type=planned is not None and planned.plan.events > MOST_UNCONFIRMED,
        wrong=wrong,
        destinations=sorted(request.state["destinations"]),
    )

"""/api/replays: a filter or ids, the plan, the job that workers carry out, and its controls."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from app.api.replay import UnknownDestination
from app.api.replays_description import (
    HasEnded,
    NoSuchReplay,
    NothingToReplay,
    PlanShown,
    ReplayAnswer,
    ReplayPage,
    ReplayRequest,
    ReplayShown,
    TooManyPlans,
)
from app.deliveries.queries import get_replay, list_replays
from app.deliveries.replays import InQuarantine, NotReplayable, plan, set_status, start
from app.deliveries.tables import Destination, ReplayStatus
from app.deliveries.wake import notify
from app.events.queries import EventFilter
from app.settings.model import DestinationSettings
from app.web.pagination import PageQuery, link, next_page
from app.web.parameters import Unprocessable, answer, read_id, read_json, read_query
from app.web.transactions import changing, reading

PLANS = 2
"""How many may be counted at once: each holds a connection all that time."""

PLANNED_WITHIN = timedelta(seconds=30)
"""A plan counts all that match, which no index makes quick."""


class BulkReplays:
    """Makes replays.

    Args:
        destinations: Those of the settings; a request can name no other but those that a worker knows.
    """

    def __init__(self, *, destinations: Mapping[str, DestinationSettings]) -> None:
        self._destinations = destinations
        self._counting = asyncio.Semaphore(PLANS)

    async def create(self, request: Request) -> Response:
        """The plan, and without `dry_run` the replay."""
        wanted = await read_json(request, ReplayRequest)
        if (wanted.filter is None) == (wanted.ids is None):
            raise Unprocessable("Neither filter nor ids, or both.", "Send one; an empty filter means all events.")
        narrowed = wanted.filter.narrowed() if wanted.filter is not None else EventFilter()
        if self._counting.locked():
            raise TooManyPlans("Other replays are being planned.", "Ask again in a moment: nothing was started.")
        try:
            # Counted before anything is locked: on SQLite a transaction that may write lets nobody else write.
            async with self._counting, reading(request.state.engine, within=PLANNED_WITHIN) as connection:
                name = await self._target(connection, wanted.to)
                planned = await plan(connection, narrowed, wanted.ids)
        except NotReplayable as error:
            raise NothingToReplay(str(error), _what_now(error)) from None
        seconds = planned.events / wanted.rate
        shown = ReplayAnswer(to=name, seconds=seconds, plan=PlanShown.model_validate(planned), replay=None)
        if wanted.dry_run:
            return answer(shown)
        if not planned.events:
            raise NothingToReplay("No accepted event matches.", "Send `dry_run: true` to see what a filter selects.")
        async with changing(request.state.engine) as connection:
            replay_id = await start(
                connection,
                narrowed,
                ids=wanted.ids,
                destination=name,
                rate=wanted.rate,
                planned=planned,
                now=datetime.now(UTC),
            )
            await notify(connection)
            shown.replay = await _found(connection, replay_id)
        return answer(shown, status=202, headers={"Location": f"/api/replays/{replay_id}"})

    async def _target(self, connection: AsyncConnection, to: str | None) -> str:
        """The destination's name.

        Raises:
            UnknownDestination: 422.
        """
        if to is None:
            if len(self._destinations) != 1:
                raise UnknownDestination("There is not exactly one destination.", "Name one with `to`.")
            return next(iter(self._destinations))
        # One with a URL of its own is an operator's at the shell, and no request's.
        here = select(Destination.name).where(Destination.name == to, Destination.url.is_(None))
        known = await connection.scalar(here)
        if known is None and to not in self._destinations:
            raise UnknownDestination(f"There is no destination {to}.", "GET /api/destinations lists them.")
        return to


def _what_now(error: NotReplayable) -> str:
    if isinstance(error, InQuarantine):
        return "Nothing was started. POST /api/events/{event_id}/release judges a quarantined event again."
    return "Nothing was started. GET /api/events lists the events there are."


async def list_page(request: Request) -> Response:
    """A page of replays."""
    query = read_query(request, PageQuery)
    before = query.before()
    async with reading(request.state.engine) as connection:
        rows = await list_replays(connection, limit=query.limit + 1, before=before)
    last = rows[query.limit - 1].id if len(rows) > query.limit else None
    following = next_page(request.scope["path"], query, last)
    return answer(
        ReplayPage(replays=[_shown(row) for row in rows[: query.limit]], next=following), headers=link(following)
    )


async def show(request: Request) -> Response:
    """How far a replay is."""
    async with reading(request.state.engine) as connection:
        return answer(await _found(connection, _replay_id(request)))


async def pause(request: Request) -> Response:
    """Makes no more deliveries."""
    return await _set(request, ReplayStatus.PAUSED)


async def resume(request: Request) -> Response:
    """Goes on."""
    return await _set(request, ReplayStatus.RUNNING)


async def cancel(request: Request) -> Response:
    """Ends it."""
    return await _set(request, ReplayStatus.CANCELLED)


async def _set(request: Request, status: ReplayStatus) -> Response:
    replay_id = _replay_id(request)
    try:
        async with changing(request.state.engine) as connection:
            await _found(connection, replay_id)
            await set_status(connection, replay_id, status, now=datetime.now(UTC))
            await notify(connection)
            shown = await _found(connection, replay_id)
    except NotReplayable as error:
        raise HasEnded(str(error), "It stays as it is.") from None
    return answer(shown)


async def _found(connection: AsyncConnection, replay_id: UUID) -> ReplayShown:
    row = await get_replay(connection, replay_id)
    if row is None:
        raise NoSuchReplay
    return _shown(row)


def _shown(row: Row[Any]) -> ReplayShown:
    return ReplayShown.model_validate(row._asdict() | {"delivered_or_dropped": row.made - row.pending - row.dead})


def _replay_id(request: Request) -> UUID:
    replay_id = read_id(request, "replay_id")
    if replay_id is None:
        raise NoSuchReplay
    return replay_id

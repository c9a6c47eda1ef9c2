"""/api/deliveries and /api/destinations: what was delivered where, and the controls."""

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from app.api.deliveries_description import (
    AttemptShown,
    DeliveryDetail,
    DeliveryPage,
    DeliveryQuery,
    DeliverySummary,
    DestinationList,
    DestinationShown,
    NoSuchDelivery,
    NoSuchDestination,
    PauseRequest,
    StaysAsItIs,
)
from app.deliveries import operations
from app.deliveries.dispatch import register
from app.deliveries.operations import NobodyKnows, NotDone, WasDelivered
from app.deliveries.queries import get_delivery, list_attempts, list_deliveries, list_destinations
from app.deliveries.wake import notify
from app.web.pagination import link, next_page
from app.web.parameters import answer, read_id, read_json, read_query
from app.web.transactions import DatabaseAway, changing, reading


async def list_page(request: Request) -> Response:
    """A page of deliveries."""
    query = read_query(request, DeliveryQuery)
    before = query.before()
    async with reading(request.state.engine) as connection:
        rows = await list_deliveries(connection, query.narrowed(), limit=query.limit + 1, before=before)
    last = rows[query.limit - 1].id if len(rows) > query.limit else None
    following = next_page(request.scope["path"], query, last)
    shown = [DeliverySummary.model_validate(row) for row in rows[: query.limit]]
    return answer(DeliveryPage(deliveries=shown, next=following), headers=link(following))


async def show(request: Request) -> Response:
    """One delivery with its attempts."""
    delivery_id = _delivery_id(request)
    async with reading(request.state.engine) as connection:
        delivery = await get_delivery(connection, delivery_id)
        if delivery is None:
            raise NoSuchDelivery
        attempts = await list_attempts(connection, delivery_id)
    shown = DeliveryDetail(
        delivery=DeliverySummary.model_validate(delivery),
        attempts=[AttemptShown.model_validate(_readable(each)) for each in attempts],
    )
    return answer(shown)


async def retry(request: Request) -> Response:
    """Tries a delivery again."""
    return await _change(request, operations.retry)


async def drop(request: Request) -> Response:
    """Gives a delivery up."""
    return await _change(request, operations.drop)


class DestinationControls:
    """The handlers of /api/destinations.

    Args:
        configured: The names in the settings; those that no worker has seen yet are destinations too.
    """

    def __init__(self, *, configured: Collection[str]) -> None:
        self._configured = frozenset(configured)

    async def show_all(self, request: Request) -> Response:
        """All destinations with their queues."""
        async with reading(request.state.engine) as connection:
            return answer(DestinationList(destinations=await self._all(connection)))

    async def pause(self, request: Request) -> Response:
        """Sends nothing more."""
        wanted = await read_json(request, PauseRequest)
        reason = wanted.reason or f"Paused by {request.state.client.name} over the API."

        async def pause(connection: AsyncConnection, name: str, *, now: datetime) -> None:
            await operations.pause(connection, name, reason=reason, now=now)

        return await self._change(request, pause)

    async def resume(self, request: Request) -> Response:
        """Sends again."""
        return await self._change(request, operations.resume)

    async def _change(self, request: Request, operation: Callable[..., Awaitable[None]]) -> Response:
        name = request.path_params["name"]
        if not name.isprintable():
            raise NoSuchDestination
        now = datetime.now(UTC)
        try:
            async with changing(request.state.engine) as connection:
                if name in self._configured:
                    await register(connection, [name], now=now)
                await operation(connection, name, now=now)
                await notify(connection)
        except NobodyKnows:
            raise NoSuchDestination from None
        try:
            async with reading(request.state.engine) as connection:  # counts long, so not while it is locked
                destinations = await self._all(connection)
        except DatabaseAway:
            raise DatabaseAway("It is done, and its queue cannot be counted now.", "Look again later.") from None
        return answer(next(each for each in destinations if each.name == name))

    async def _all(self, connection: AsyncConnection) -> list[DestinationShown]:
        rows = await list_destinations(connection, now=datetime.now(UTC))
        known = {row.name: row._asdict() for row in rows}
        names = sorted({*known, *self._configured})
        return [
            DestinationShown.model_validate(known.get(name, {"name": name}) | {"configured": name in self._configured})
            for name in names
        ]


async def _change(request: Request, operation: Callable[..., Awaitable[None]]) -> Response:
    delivery_id = _delivery_id(request)
    try:
        async with changing(request.state.engine) as connection:
            if await get_delivery(connection, delivery_id) is None:
                raise NoSuchDelivery
            await operation(connection, delivery_id, now=datetime.now(UTC))
            await notify(connection)
            delivery = await get_delivery(connection, delivery_id)
    except NotDone as error:
        raise StaysAsItIs(str(error), _what_now(error)) from None
    return answer(DeliverySummary.model_validate(delivery))


def _what_now(error: NotDone) -> str:
    if not isinstance(error, WasDelivered):
        return "It stays as it is."
    return f"POST /api/events/{error.event_id}/replay delivers its event again."


def _delivery_id(request: Request) -> UUID:
    delivery_id = read_id(request, "delivery_id")
    if delivery_id is None:
        raise NoSuchDelivery
    return delivery_id


def _readable(attempt: Row[Any]) -> dict[str, Any]:
    text = None if attempt.answer is None else attempt.answer.decode("utf-8", "replace")
    return attempt._asdict() | {"answer": text}

"""Destinations behind `python:package.module:function`: the place for a company's own business logic."""

import asyncio
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from importlib import import_module
from inspect import isawaitable, iscoroutinefunction
from threading import Thread
from typing import Any, cast
from uuid import UUID

from pydantic_core import from_json

from app.body import without_mark
from app.deliveries.claims import Claim
from app.deliveries.results import Outcome
from app.settings import DestinationSettings, SettingsProblem

MOST_KEPT = 2 * 1024  # bytes of a traceback


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredEvent:
    """What a function is called with. It returns for success and raises for failure, which is tried again.

    Attributes:
        id: The same on every attempt and replay: what was done for it once need not be done again.
        type: Such as `ORDER_CANCEL`; None where Prioticket sent none.
        reference: The order's, or other object's.
        order: The order as Prioticket sent it; None where it did not, or in a content coding such as gzip.
        body: The exact bytes that arrived.
        attempt: From 1.
        replay: Whether a person asked for it.
        superseded: Whether a newer version of the same order is stored.
    """

    id: UUID
    type: str | None
    reference: str | None
    order: Mapping[str, Any] | None
    body: bytes
    attempt: int
    replay: bool
    superseded: bool


class PythonDestination:
    """A function, plain or async, called once an attempt.

    A plain one runs in a thread, which cannot be ended: one that takes too long fails and goes on by itself.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        self._function = _find(settings.url)
        self._timeout = settings.timeout.total_seconds()
        self._most = settings.max_in_flight
        self._threads: set[Thread] = set()

    async def send(self, claim: Claim, *, now: datetime) -> Outcome:  # noqa: ARG002 - the kind's signature
        """As `Kind.send` says; a function that returned is a 200 without an answer."""
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        if len(self._threads) >= self._most:
            return Outcome(error=f"{self._most} earlier calls still run, and none may run beside them.")
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                await self._call(_event(claim))
        except TimeoutError as error:
            if deadline.expired():
                return Outcome(error=f"It did not return within {self._timeout:g} seconds.")
            return _failed(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises, the next event must have its turn
            return _failed(error)
        return Outcome(status=HTTPStatus.OK)

    async def close(self) -> None:
        """As `Kind.close` says; threads that still run end with the process."""

    async def _call(self, event: DeliveredEvent) -> None:
        if iscoroutinefunction(self._function):
            await self._function(event)
            return
        loop = asyncio.get_running_loop()
        returned: asyncio.Future[Any] = loop.create_future()

        def run() -> None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = self._function(event)
            except BaseException as raised:  # noqa: BLE001 - it is raised again where it is awaited
                error = raised
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_resolve, returned, value, error)

        # Not one of a pool's: Python waits for those at its end, for ever if the function does not return.
        thread = Thread(target=run, name="destination", daemon=True)
        self._threads.add(thread)
        thread.start()
        value = await returned
        if isawaitable(value):  # an async function behind a decorator
            await value


def _resolve(returned: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if returned.done():
        return
    if error is None:
        returned.set_result(value)
    else:
        returned.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))


def _find(url: str) -> Callable[[DeliveredEvent], Any]:
    _, module_name, name = url.split(":")
    try:
        function = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise SettingsProblem(
            f"{url} cannot be used: {error}. Modules are looked for in the working directory and in PYTHONPATH."
        ) from None
    if not callable(function):
        raise SettingsProblem(f"{url} cannot be used: it is no function.")
    return cast("Callable[[DeliveredEvent], Any]", function)


def _event(claim: Claim) -> DeliveredEvent:
    return DeliveredEvent(
        id=claim.event_id,
        type=claim.type,
        reference=claim.reference,
        order=_order(claim.body),
        body=claim.body,
        attempt=claim.attempt,
        replay=claim.replay_id is not None,
        superseded=claim.superseded,
    )


def _order(body: bytes) -> Mapping[str, Any] | None:
    try:
        order = from_json(without_mark(body))["data"]["order"]
    except (ValueError, KeyError, TypeError):  # a body in a content coding, or an event without an order
        return None
    return order if isinstance(order, dict) else None


def _failed(error: BaseException) -> Outcome:
    where = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
    return Outcome(error=f"{type(error).__name__}: {error}"[:MOST_KEPT], answer=where[-MOST_KEPT:])

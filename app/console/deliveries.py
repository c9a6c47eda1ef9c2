"""Deliveries: the list by state, and one with its attempts."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.alarms.findings import typed
from app.api import deliveries, queues
from app.api.acting import Why
from app.api.deliveries import DeliveryQuery, NoSuchDelivery, Phase, StaysAsItIs
from app.api.state import State
from app.audit.tables import Action
from app.console.forms import fields_of
from app.console.pages import CONSOLE, page
from app.deliveries.counts import MOST, Counts
from app.deliveries.operations import NotDone, WaitsBehind, WasDelivered
from app.deliveries.retry import MOST_ATTEMPTS
from app.deliveries.tables import DeliveryStatus
from app.events.ids import made_at
from app.web.parameters import read_id, read_query

LIST = f"{CONSOLE}/deliveries"
STATES = ("status", "failing", "phase")
"""The filters between which the tabs choose."""

EMPTY = {
    "failing": "No delivery fails. One that does is tried again for about two days, and stands here meanwhile.",
    "waiting": "No delivery waits: all that is due is sent.",
    "in flight": "Nothing is being sent at this moment.",
    "dead": f"No delivery is dead. One is after {MOST_ATTEMPTS} failed attempts, in about two days.",
    "delivered": "Nothing was delivered. Is a worker running? The first page says so.",
    "dropped": "No delivery was dropped. A person does that to one that need not arrive any more.",
    "all": "There are no deliveries. A worker makes one for each accepted event and each destination that wants it.",
}


class Tab(NamedTuple):
    """A choice of deliveries by their state."""

    name: str
    address: str
    number: str | None
    """How many there are, if that was counted."""
    here: bool


async def list_page(request: Request[State]) -> Response:
    """The deliveries that match, newest first."""
    query = read_query(request, DeliveryQuery)
    found = await queues.queue(request, query)
    tabs = list(_tabs(query, found.counts))
    return page(
        request,
        "deliveries.html",
        query=query,
        kept={name: value for name, value in _chosen(query).items() if name in (*STATES, "event_id")},
        found=found,
        tabs=tabs,
        empty=EMPTY[next((tab.name for tab in tabs if tab.here), "all")],
        narrowed=bool(_others(query)),
        made_at=made_at,
    )


async def show(request: Request[State]) -> Response:
    """One delivery."""
    delivery_id = read_id(request, "delivery_id", NoSuchDelivery)
    story = await queues.story(request, delivery_id)
    commands = {name: typed("deliveries", name, str(delivery_id)) for name in ("show", "retry", "drop")}
    return page(request, "delivery.html", story=story, commands=commands, most_attempts=MOST_ATTEMPTS)


async def retry(request: Request[State]) -> Response:
    """Tries a delivery again."""
    return await _change(request, Action.RETRY, "retried")


async def drop(request: Request[State]) -> Response:
    """Gives a delivery up."""
    return await _change(request, Action.DROP, "dropped")


async def _change(request: Request[State], action: Action, done: str) -> Response:
    delivery_id = read_id(request, "delivery_id", NoSuchDelivery)
    try:
        await deliveries.changed(request, action, delivery_id, reason=fields_of(request, Why).reason)
    except NotDone as error:
        raise StaysAsItIs(str(error), _what_now(error)) from None
    return RedirectResponse(f"{LIST}/{delivery_id}?done={done}", 303)


def _what_now(error: NotDone) -> str:
    if isinstance(error, WasDelivered):
        return "Nothing was changed. The page of its event can replay it."
    if isinstance(error, WaitsBehind):
        return "Nothing was changed. Its page leads to the one that goes first: retry that."
    return "Nothing was changed. Load its page again to see how it stands."


def _tabs(query: DeliveryQuery, counts: Counts) -> Iterator[Tab]:
    others = _others(query)
    counted = not set(others) - {"destination"}
    chosen = {name: value for name, value in _chosen(query).items() if name in STATES}
    for name, choice, number in (
        ("failing", {"failing": True}, counts.failing),
        ("waiting", {"phase": Phase.WAITING.value}, counts.waiting),
        ("in flight", {"phase": Phase.IN_FLIGHT.value}, counts.in_flight),
        ("dead", {"status": DeliveryStatus.DEAD.value}, counts.dead),
        ("delivered", {"status": DeliveryStatus.DELIVERED.value}, None),
        ("dropped", {"status": DeliveryStatus.DROPPED.value}, counts.dropped),
        ("all", {}, None),
    ):
        shown = None if number is None or not counted else _bounded(number)
        yield Tab(name, f"{LIST}?{urlencode(others | _written(choice))}", shown, chosen == choice)


def _bounded(number: int) -> str:
    """A count that stopped at its bound."""
    return f"more than {MOST:,}" if number > MOST else f"{number:,}"


def _chosen(query: DeliveryQuery) -> dict[str, Any]:
    """The filters that were chosen."""
    return {name: value for name, value in query.filters().items() if value is not False}


def _others(query: DeliveryQuery) -> dict[str, Any]:
    """The filters besides the state."""
    return {name: value for name, value in _chosen(query).items() if name not in STATES}


def _written(choice: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "true" if value is True else value for name, value in choice.items()}

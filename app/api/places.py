"""Where to look at something that has a reference or an id."""

from urllib.parse import quote

from starlette.requests import Request

from app.api.state import State
from app.database.beginnings import beginning_in, ids_with
from app.deliveries.tables import Delivery, Replay
from app.events.queries import EventFilter, list_events
from app.events.search import ids_announced
from app.events.tables import Event
from app.web.transactions import reading

WITH_IDS = (("events", Event.id), ("deliveries", Delivery.id), ("replays", Replay.id))


async def place_of(request: Request[State], text: str) -> str | None:
    """The path of an order, event, delivery or replay; None if nothing has the text, or more than one thing.

    Args:
        request: The request that asks.
        text: A reference, a notification id, or an id or at least the first eight digits of one.

    Raises:
        DatabaseAway: 503.
    """
    digits = beginning_in(text)
    async with reading(request.state["engine"]) as connection:
        if await list_events(connection, EventFilter(reference=text), limit=1):
            return f"orders/{quote(text, safe='')}"
        found = [f"events/{event_id}" for event_id in await ids_announced(connection, text, limit=2)]
        for kind, column in WITH_IDS if digits and not found else ():
            found += [f"{kind}/{each}" for each in await ids_with(connection, column, digits or "")]
    return found[0] if len(found) == 1 else None

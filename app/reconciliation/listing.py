"""Lists the orders that changed at Prioticket, however many they are."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.prioticket.client import Prioticket
from app.prioticket.errors import PrioticketError
from app.prioticket.messages import REACHABLE_ITEMS, Page

NARROWEST = timedelta(minutes=1)
OVERLAP = timedelta(seconds=1)
"""How much two neighbouring ranges share: requests have whole seconds, and whether a bound is included is unknown."""


class TooMany(PrioticketError):
    """More orders were made within a minute than a list can reach."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the list: a page of the orders that were made within a range.

    Attributes:
        created_to: The end of the range; None if it has none.
        page: Counted from 1.
    """

    created_from: datetime
    created_to: datetime | None = None
    page: int = 1


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A page of the list, and the place from where a later run goes on after it; None after the last page."""

    page: Page
    next: Place | None


async def changed_orders(
    client: Prioticket, *, modified_since: datetime, place: Place, now: datetime
) -> AsyncIterator[ListedPage]:
    """The pages with all orders that were modified after a time, from a place on. An order may be there twice.

    The list only grows while it is read, as times of modification rise: orders move to later pages and none is left
    out. Only `REACHABLE_ITEMS` of a query can be reached. A range of more orders is halved and read again.

    Raises:
        TooMany: a minute has more than `REACHABLE_ITEMS` orders.
        PrioticketError: see errors.py.
    """
    ranges = [place]
    if place.created_to is not None:
        ranges.append(Place(place.created_to - OVERLAP))
    while ranges:
        here = ranges.pop(0)
        read = 0
        pages = client.order_pages(
            modified_since=modified_since,
            created_from=here.created_from,
            created_to=here.created_to,
            first=here.page,
        )
        async for page in pages:
            read += len(page.items)
            if (page.total_items or 0) > REACHABLE_ITEMS or (not page.last and read >= REACHABLE_ITEMS):
                ranges = [*_halves(here, now), *ranges]
                break
            if page.last:
                yield ListedPage(page, ranges[0] if ranges else None)
            else:
                yield ListedPage(page, Place(here.created_from, here.created_to, page.number + 1))


def _halves(here: Place, now: datetime) -> tuple[Place, Place]:
    width = (here.created_to or now) - here.created_from
    if width <= NARROWEST:
        raise TooMany(
            f"More than {REACHABLE_ITEMS} orders were made within a minute of {here.created_from.isoformat()}: "
            "Prioticket's list cannot reach them all."
        )
    middle = (here.created_from + width / 2).replace(microsecond=0)
    return Place(here.created_from, middle), Place(middle - OVERLAP, here.created_to)

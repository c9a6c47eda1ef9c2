"""The events of one order, sorted by the versions of the order and not by arrival."""

from collections.abc import Iterable
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple

from app.events.queries import ListedEvent

LOWEST = (-(2**63), datetime.min.replace(tzinfo=UTC))
"""Lower than the version and time of any order."""


class Placed(NamedTuple):
    """An event of a timeline.

    Attributes:
        late: It arrived after a newer version of the order.
    """

    event: ListedEvent
    late: bool


def timeline(events: Iterable[ListedEvent]) -> list[Placed]:
    """Sorts the events by `order_version`, then by `order_modified`, then by arrival.

    An event without a version, such as a notification without payload, gets the newest version that arrived before it.
    An event without a time gets the newest time of that version in the same way.
    """
    placed: list[tuple[tuple[int, datetime, int], Placed]] = []
    newest = LOWEST
    for event in sorted(events, key=attrgetter("id")):
        at = _at(event, newest)
        late = at < newest
        newest = max(newest, at)
        placed.append(((*at, event.id.int), Placed(event, late)))
    return [place for _, place in sorted(placed, key=lambda pair: pair[0])]


def _at(event: ListedEvent, newest: tuple[int, datetime]) -> tuple[int, datetime]:
    version = newest[0] if event.order_version is None else event.order_version
    if event.order_modified is not None:
        return version, event.order_modified
    return version, newest[1] if version == newest[0] else LOWEST[1]

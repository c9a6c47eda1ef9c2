"""The events of one order in the order's own order, which is not that of their arrival."""

from collections.abc import Iterable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Row

LOWEST = (-(2**63), datetime.min.replace(tzinfo=UTC))
"""Before every version and time that an order can say."""


class Placed(NamedTuple):
    """An event in its place.

    Attributes:
        late: It arrived after a newer version of the order.
    """

    event: Row[Any]
    late: bool


def timeline(events: Iterable[Row[Any]]) -> list[Placed]:
    """The events by `order_version`, then `order_modified`, then arrival.

    One that says no version, such as a notification without payload, stands behind the newest version that had arrived
    before it; the same for its time within a version.
    """
    placed: list[tuple[tuple[int, datetime, int], Placed]] = []
    newest = LOWEST
    for event in sorted(events, key=attrgetter("id")):
        at = _at(event, newest)
        late = at < newest
        newest = max(newest, at)
        placed.append(((*at, event.id.int), Placed(event, late)))
    return [each for _, each in sorted(placed, key=lambda pair: pair[0])]


def _at(event: Row[Any], newest: tuple[int, datetime]) -> tuple[int, datetime]:
    version = newest[0] if event.order_version is None else event.order_version
    if event.order_modified is not None:
        return version, event.order_modified
    return version, newest[1] if version == newest[0] else LOWEST[1]

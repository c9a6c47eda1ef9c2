from typing import Any, get_args, get_type_hints

import pytest

from app.database.columns import Base
from app.database.rows import columns
from app.deliveries.destination_queries import ListedDestination
from app.deliveries.outlook import Times
from app.deliveries.queries import ListedDelivery
from app.deliveries.replay_queries import ListedReplay
from app.deliveries.replays import Running
from app.deliveries.tables import Delivery, Destination, Replay
from app.events.queries import EventBody, WholeEvent
from app.events.tables import Event

ROWS = (
    (Event, WholeEvent),
    (Event, EventBody),
    (Delivery, ListedDelivery),
    (Destination, ListedDestination),
    (Destination, Times),
    (Replay, ListedReplay),
    (Replay, Running),
)


@pytest.mark.parametrize(("table", "kind"), ROWS)
def test_a_row_has_the_types_of_the_columns_it_is_read_from(table: type[Base], kind: type[Any]):
    stored, read = get_type_hints(table), get_type_hints(kind)
    names = [column.name for column in columns(table, kind)]
    assert names
    assert {name: (read[name],) for name in names} == {name: get_args(stored[name]) for name in names}

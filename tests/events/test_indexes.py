import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from app.database.beginnings import ids_with
from app.database.writing import writing
from app.events.arrivals import known_types
from app.events.queries import EventFilter, list_events
from app.events.search import ids_announced, search_events
from app.events.tables import Event
from app.receiver.quarantine import QuarantineFilter, newest_reasons
from app.reconciliation.comparing import STORED
from tests.events.stores import new_event

pytestmark = pytest.mark.slow  # thousands of rows

MANY = 10_000
OLD = datetime(2026, 1, 1, tzinfo=UTC)
MIDDLE = OLD + timedelta(minutes=MANY // 2)


@pytest.fixture
async def full(engine):
    """A database with ten thousand events; only the oldest few are of a rare kind."""
    rows = []
    for number in range(MANY):
        rare = number < 20
        rows.append(
            new_event(
                f"event-{number}",
                received_at=OLD + timedelta(minutes=number),
                type="RARE" if rare else f"TYPE_{number % 4}",
                event_name="NAME" if number < 10 else None,
                client="rare" if rare else "prioticket",
                status="quarantined" if 20 <= number < 40 else "accepted",
                reference=f"PRI{number % 3000}",
            )._asdict()
        )
    async with writing(engine) as connection:
        await connection.execute(insert(Event), rows)
    async with engine.connect() as connection:
        await connection.execute(text("ANALYZE"))
        await connection.commit()
    return engine


async def plan(engine, query: Any, *arguments: Any, **more: Any) -> str:
    """The plan by which the database runs the last statement of the query."""
    seen: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
        seen.append((statement, parameters))

    async with engine.connect() as connection:
        event.listen(engine.sync_engine, "before_cursor_execute", note)
        await query(connection, *arguments, **more)
        event.remove(engine.sync_engine, "before_cursor_execute", note)
        explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
        plans = [(await connection.exec_driver_sql(explain + each, parameters)).all() for each, parameters in seen]
    return "\n".join(str(row[-1]) for rows in plans for row in rows)


PRIMARY = r"pk_events|sqlite_autoindex_events_1"


INDEXES: list[tuple[dict[str, Any], str]] = [
    ({}, PRIMARY),
    ({"type": "RARE"}, "ix_events_type_id"),
    ({"type": "NAME"}, "ix_events_event_name_id"),
    ({"type": "TYPE_1"}, rf"ix_events_type_id|{PRIMARY}"),
    ({"reference": "PRI7"}, "ix_events_reference_id"),
    ({"status": "quarantined"}, "ix_events_quarantined"),
    ({"status": "accepted"}, PRIMARY),
    ({"status": "quarantined", "type": "TYPE_1"}, "ix_events_quarantined"),
    ({"status": "quarantined", "reference": "PRI7"}, "ix_events_reference_id|ix_events_quarantined"),
    ({"reference": "PRI7", "type": "TYPE_1"}, "ix_events_reference_id"),
    ({"since": MIDDLE, "until": MIDDLE + timedelta(hours=1)}, PRIMARY),
]


async def test_each_filter_finds_its_rows_by_an_index_on_every_page(full):
    async with full.connect() as connection:
        deep = (await list_events(connection, EventFilter(until=MIDDLE), limit=1))[0].id
    for narrowed, index in INDEXES:  # one database for all, as filling it takes longest
        for before in (None, deep):
            found = await plan(full, list_events, EventFilter(**narrowed), limit=50, before=before)
            assert re.search(index, found), found
            assert not re.search(r"Seq Scan|SCAN events(?! USING)", found), found


async def test_a_search_looks_at_no_whole_table(full):
    found = await plan(full, search_events, "part", EventFilter(), limit=50)
    assert "ix_events_reference_id" in found
    assert "ix_events_notification_id" in found
    assert not re.search(r"SCAN events(?! USING)", found), found


async def test_what_pages_ask_besides_looks_at_no_whole_table(full):
    queries: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
        (known_types, (), {}, "ix_events_type_id"),
        (newest_reasons, (QuarantineFilter(since=OLD),), {"most": 100}, "ix_events_quarantined"),
        (ids_announced, ("note",), {"limit": 2}, "ix_events_notification_id"),
        (ids_with, (Event.id, "0199a1b2"), {}, PRIMARY),
    ]
    for query, arguments, more, index in queries:
        found = await plan(full, query, *arguments, **more)
        assert re.search(index, found), found
        assert not re.search(r"Seq Scan|SCAN events(?! USING)", found), found


async def test_the_events_of_a_page_of_orders_are_found_by_an_index(full):
    references = [f"PRI{number}" for number in range(0, 3000, 30)]
    found = await plan(full, lambda connection: connection.execute(STORED, {"references": references}))
    assert "ix_events_reference_id" in found
    assert not re.search(r"Seq Scan|SCAN events(?! USING)", found), found

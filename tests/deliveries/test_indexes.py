import re
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.clock import SharedClock
from app.database.writing import writing
from app.deliveries.counts import count_states
from app.deliveries.outlook import outlooks
from app.deliveries.queries import DeliveryFilter, deliveries_of, list_deliveries
from app.deliveries.queue import lock_for_turn
from app.deliveries.recent import recent_attempts
from app.deliveries.tables import Claimed, Delivery
from app.deliveries.waits import behind, first_of
from app.events.ids import new_id
from app.events.tables import Event
from tests.deliveries.workers import Workers
from tests.events.stores import new_event

pytestmark = pytest.mark.slow  # thousands of rows

MANY = 4000


@pytest.fixture
async def full(workers: Workers) -> Workers:
    """A database with some thousand finished deliveries and a few that wait, live ones and those of a replay."""
    replay_id = await workers.start(rate=1)
    events = [new_event(f"old-{number}", reference=f"R{number % 500}") for number in range(MANY)]
    rows: list[dict[str, Any]] = [
        {
            "id": new_id(),
            "event_id": each.id,
            "destination": "erp",
            "reference": each.reference,
            "replay_id": None if number % 2 else replay_id,
            "status": "pending" if number % 50 < 2 else "delivered",
            "due_at": workers.now + timedelta(seconds=number) if number % 50 < 2 else None,
        }
        for number, each in enumerate(events)
    ]
    async with writing(workers.engine) as connection:
        await connection.execute(insert(Event), [each._asdict() for each in events])
        await connection.execute(text("DELETE FROM undispatched"))
        await connection.execute(insert(Delivery), rows)
        claimed = {"destination": "erp", "delivery_id": rows[0]["id"], "worker": "one", "attempt": 1, "lost": 0}
        await connection.execute(
            insert(Claimed).values(**claimed, started_at=workers.now, ends_at=workers.now + timedelta(seconds=15))
        )
    async with workers.engine.connect() as connection:
        await connection.execute(text("ANALYZE"))
        await connection.commit()
    return workers


async def plans(engine: AsyncEngine, work: Awaitable[Any]) -> list[str]:
    """The plan of each statement that the work executes."""
    seen: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
        seen.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await work
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    found = []
    async with engine.connect() as connection:
        for statement, parameters in seen:
            if (
                re.match("SELECT|UPDATE|DELETE", statement)
                and "deliveries" in statement
                and isinstance(parameters, tuple)
            ):
                rows = (await connection.exec_driver_sql(explain + statement, parameters)).all()
                found.append("\n".join(str(row[-1]) for row in rows))
    return found


def whole_table(plan: str) -> bool:
    return bool(re.search(r"Seq Scan on deliveries|SCAN deliveries(?! USING)", plan))


async def assert_uses(workers: Workers, work: Awaitable[Any], *indexes: str) -> None:
    found = await plans(workers.engine, work)
    assert not [plan for plan in found if whole_table(plan)]
    for index in indexes:
        assert re.search(rf"{index}\b", "\n".join(found)), "\n".join(found)


async def test_a_turn_looks_at_what_is_due_and_claimed_only(full):
    await assert_uses(full, full.turn(), "ix_deliveries_due", "ix_deliveries_due_replay")


async def test_whether_a_newer_version_of_an_order_is_stored_is_one_look_for_each_delivery(full):
    await assert_uses(full, full.turn(), "ix_events_version")


async def test_what_all_destinations_have_to_do_is_a_look_at_the_first_due_of_each(full):
    async def look():
        async with full.engine.connect() as connection:
            await outlooks(connection, now=full.now)

    await assert_uses(full, look(), "ix_deliveries_due", "ix_deliveries_due_replay")


async def test_what_follows_an_attempt_is_found_by_its_reference(full):
    full.wait(60)
    claim = next(claim for claim in (await full.turn()).claims if claim.replay_id)
    await assert_uses(full, full.turn(full.ended(claim)), "ix_deliveries_first", "ix_deliveries_waiting")


async def test_dispatch_finds_what_is_pending_by_the_reference(full):
    for number in range(20):
        await full.store(f"R{number}")
    await assert_uses(full, full.dispatch(), "ix_deliveries_first")


async def test_a_replay_counts_its_pending_deliveries_only(full):
    await assert_uses(full, full.advance(), "ix_deliveries_replay")


async def test_leaving_finds_deliveries_by_the_claims_of_the_worker(full):
    await assert_uses(full, full.leave())


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_turn_finds_claims_by_their_index_however_few_there_seem_to_be(full):
    async with full.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE claims"))
    async with writing(full.engine) as connection:
        await lock_for_turn(connection, "erp", SharedClock())
        rows = (await connection.execute(text("EXPLAIN SELECT * FROM claims WHERE destination = 'erp'"))).all()
    assert "pk_claims" in "\n".join(str(row[0]) for row in rows)


async def test_the_deliveries_of_a_page_of_events_are_found_by_their_events(full):
    async def look():
        async with full.engine.connect() as connection:
            ids = list(await connection.scalars(select(Event.id).limit(5)))
            assert len(await deliveries_of(connection, ids, most=2000)) == 5

    await assert_uses(full, look(), "uq_deliveries_live", "ix_deliveries_event")


async def test_a_list_of_what_is_pending_does_not_read_what_is_over(full):
    async with full.engine.connect() as connection:
        for narrowed in (DeliveryFilter(status="pending"), DeliveryFilter(waiting=True)):
            found = await plans(full.engine, list_deliveries(connection, narrowed, limit=50))
            assert re.search(r"ix_deliveries_\w*replay\b", "\n".join(found))


async def test_what_a_page_counts_and_the_last_attempts_have_their_indexes(full):
    async with full.engine.connect() as connection:
        await assert_uses(full, count_states(connection), "ix_deliveries_waiting", "ix_deliveries_dead")
        await assert_uses(full, count_states(connection, "erp"), "ix_deliveries_waiting")
        await assert_uses(full, recent_attempts(connection, "erp"), "ix_deliveries_dead", "ix_deliveries_failing")
        narrowed = DeliveryFilter(in_flight_at=full.now)
        await assert_uses(full, list_deliveries(connection, narrowed, limit=50))
        waiting = await list_deliveries(connection, DeliveryFilter(waiting=True), limit=20)
        await assert_uses(full, first_of(connection, waiting), "ix_deliveries_first")
        await assert_uses(full, behind(connection, waiting[0]), "ix_deliveries_waiting")

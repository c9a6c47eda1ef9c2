"""Dispatch and the queue look at few rows, however many events and deliveries wait."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engines import prefer_indexes
from app.database.writing import writing
from app.deliveries import operations
from app.deliveries.tables import Delivery, PassedOver
from app.events.ids import new_id
from app.events.tables import Event
from tests.deliveries.workers import Workers
from tests.events.stores import new_event

FEW, MANY = 100, 3000
LOOKED_AT = text("""
SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0) + (
    SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index WHERE indrelid = relid
)) FROM pg_stat_xact_user_tables WHERE relname = ANY(:tables)
""")


class Looks:
    """Counts the rows and index entries that PostgreSQL reads of tables, or the steps of SQLite's virtual machine."""

    def __init__(self, engine: AsyncEngine, *tables: str) -> None:
        self.count = 0
        self._engine = engine
        self._tables = tables
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", self._count_steps)
        else:
            event.listen(engine.sync_engine, "begin", self._plan_for_any_parameters)
            event.listen(engine.sync_engine, "commit", self._read_statistics)

    async def of(self, work: Callable[[], Awaitable[Any]]) -> int:
        await self._engine.dispose()
        self.count = 0
        await work()
        return self.count

    def _count_steps(self, connection: Any, _: object) -> None:
        connection.run_async(lambda driver: driver.set_progress_handler(self._step, 1))

    def _step(self) -> int:
        self.count += 1
        return 0

    def _plan_for_any_parameters(self, connection: Connection) -> None:
        """PostgreSQL may do so after five executions of a statement."""
        connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")

    def _read_statistics(self, connection: Connection) -> None:
        self.count += int(connection.scalar(LOOKED_AT, {"tables": list(self._tables)}) or 0)


async def waiting(workers: Workers, many: int, *, of_replays: bool) -> None:
    """Stores deliveries of one reference, of which the first is due, and updates the statistics."""
    events = [new_event(f"before-{uuid4()}", reference="ONE") for _ in range(many)]
    rows = [
        {
            "id": new_id(),
            "event_id": each.id,
            "destination": "erp",
            "reference": "ONE",
            "replay_id": new_id() if of_replays else None,
            "due_at": None if number else workers.now,
        }
        for number, each in enumerate(events)
    ]
    async with writing(workers.engine) as connection:
        await connection.execute(text("DELETE FROM deliveries"))
        await connection.execute(insert(Event), [each._asdict() for each in events])
        await connection.execute(text("DELETE FROM undispatched"))
        await connection.execute(insert(Delivery), rows)
    await analyze(workers)


async def analyze(workers: Workers) -> None:
    async with workers.engine.connect() as connection:
        await connection.execute(text("ANALYZE"))
        await connection.commit()


@pytest.mark.parametrize("of_replays", [False, True])
async def test_what_waits_of_one_reference_is_not_looked_at(workers, of_replays):
    looks = Looks(workers.engine, "deliveries")
    counted = []
    for number in (FEW, MANY):
        await waiting(workers, number, of_replays=of_replays)
        for _ in range(5):
            await workers.store("ONE")
        costs = [await looks.of(workers.dispatch)]
        for status in (500, 200):
            (claim,) = (await workers.turn()).claims
            costs.append(await looks.of(partial(workers.turn, workers.ended(claim, status))))
            workers.wait(9 * 3600)
        counted.append(costs)
    few, many = counted
    assert all(cost < 2 * before + 50 for before, cost in zip(few, many, strict=True)), counted


@pytest.mark.parametrize("analyzed", ["while nothing waited", "with all that waits"])
async def test_what_waits_for_dispatch_is_not_looked_at_before_its_turn(workers, analyzed):
    looks = Looks(workers.engine, "events", "undispatched", "passed_over", "deliveries")
    counted = []
    prefer_indexes(workers.engine)
    await workers.register("crm")
    for number in (FEW, MANY):
        if analyzed == "while nothing waited":
            await analyze(workers)
        async with writing(workers.engine) as connection:
            events = [new_event(f"before-{uuid4()}") for _ in range(number)]
            await connection.execute(insert(Event), [each._asdict() for each in events])
            passed_over = [{"event_id": each.id, "destination": "crm"} for each in events]
            await connection.execute(insert(PassedOver), passed_over)
        if analyzed == "with all that waits":
            await analyze(workers)

        async def two_batches():
            for _ in range(2):
                assert await workers.dispatch({"crm": ["*"], "erp": ["*"]}, most=5) == 5

        counted.append(await looks.of(two_batches))
        async with writing(workers.engine) as connection:
            await connection.execute(text("DELETE FROM undispatched"))
            await connection.execute(text("DELETE FROM passed_over"))
    few, many = counted
    assert many < 2 * few + 50, counted


@pytest.mark.parametrize("state", ["waiting", "due", "dead"])
async def test_what_operators_drop_later_is_not_looked_at(workers, monkeypatch, state):
    monkeypatch.setattr(operations, "BATCH", 20)
    looks = Looks(workers.engine, "deliveries")
    prefer_indexes(workers.engine)
    counted = []
    for number in (FEW, MANY):
        rows = [
            {
                "id": new_id(),
                "event_id": new_id(),
                "destination": "erp",
                "reference": f"R{place // 2}",
                "status": "dead" if state == "dead" else "pending",
                "due_at": workers.now if state == "due" else None,
            }
            for place in range(number)
        ]
        async with writing(workers.engine) as connection:
            await connection.execute(text("DELETE FROM deliveries"))
            await connection.execute(insert(Delivery), rows)
        await analyze(workers)

        async def drop_some():
            async with writing(workers.engine) as connection:
                operation = operations.drop_dead if state == "dead" else operations.drop_pending
                assert await operation(connection, "erp", now=workers.now) == 20

        counted.append(await looks.of(drop_some))
    few, many = counted
    assert many < 2 * few + 50, counted

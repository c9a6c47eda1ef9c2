import asyncio
from typing import Any

from sqlalchemy import event

from app.deliveries.worker import Worker
from app.settings import DestinationSettings
from tests.deliveries.workers import Workers

PATIENCE = 60  # seconds; a busy machine may need some of them


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


async def test_a_destination_with_nothing_to_do_takes_no_turn(engine, database_url, tmp_path, monkeypatch):
    (tmp_path / "idle_business.py").write_text("async def take(event): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ["busy", "idle", "idler"]
    destinations = {
        name: DestinationSettings(url="python:idle_business:take", events=("ORDER_*",) if name == "busy" else ("NONE",))
        for name in names
    }
    locked: list[str] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
        if "FROM destinations" in statement:
            locked.extend(name for name in names if name in parameters)

    async def each_has_had_its_first_turn():
        return all(locked.count(name) == 2 for name in names)  # a turn locks once before it looks at the time

    async def delivered():
        return [row.status for row in await workers.deliveries()] == ["delivered"] * 20

    workers = Workers(engine)
    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        async with Worker(engine, database_url, destinations).running():
            await until(each_has_had_its_first_turn)
            locked.clear()
            for _ in range(20):
                await workers.store()
            await until(delivered)
            assert set(locked) == {"busy"}
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)

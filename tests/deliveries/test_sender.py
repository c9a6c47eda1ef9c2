import asyncio
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import event

from app.deliveries.claims import Claim
from app.deliveries.results import Outcome
from app.deliveries.sender import Sender
from app.deliveries.tables import AttemptResult
from tests.deliveries.test_worker import until
from tests.deliveries.workers import Workers

MOST_IN_FLIGHT = 8
MANY = 20 * MOST_IN_FLIGHT


class Prompt:
    """A consumer that answers at once, but not all requests in the same moment."""

    def __init__(self) -> None:
        self._came = 0

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def send(self, claim: Claim, *, now: datetime) -> Outcome:
        self._came += 1
        for _ in range(3 * (self._came % MOST_IN_FLIGHT)):
            await asyncio.sleep(0)
        return Outcome(AttemptResult.DELIVERED, status=200)


@pytest.mark.slow
async def test_one_transaction_is_for_all_attempts_that_a_prompt_consumer_is_about_to_answer(engine):
    workers = Workers(engine, max_in_flight=MOST_IN_FLIGHT)
    await workers.register()
    for _ in range(MANY):
        await workers.store()
    await workers.dispatch()
    turns = 0

    def note(_: Any, __: Any, statement: str, ___: Any, ____: Any, _____: Any) -> None:
        nonlocal turns
        turns += "FROM destinations" in statement

    async def delivered():
        return [row.status for row in await workers.deliveries()] == ["delivered"] * MANY

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    sender = Sender(engine, workers.limits, Prompt(), worker="one")
    running = asyncio.create_task(sender.run())
    await until(delivered)
    sender.end()
    await running
    assert turns < 1.5 * MANY / MOST_IN_FLIGHT

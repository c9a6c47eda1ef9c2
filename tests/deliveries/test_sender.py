import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from app.deliveries import sender as senders
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
        self.came = 0

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def send(self, claim: Claim, *, now: datetime) -> Outcome:
        self.came += 1
        for _ in range(3 * (self.came % MOST_IN_FLIGHT)):
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


async def test_an_attempt_that_would_begin_too_late_for_its_claim_is_not_made(engine, monkeypatch):
    monkeypatch.setattr(senders, "MARGIN", timedelta(seconds=-1))  # as if it had been frozen after its turn
    workers = Workers(engine)
    await workers.register()
    await workers.store("A")
    await workers.dispatch()
    kind = Prompt()

    async def ended():
        return bool(await workers.attempts())

    sender = Sender(engine, workers.limits, kind, worker="one")
    running = asyncio.create_task(sender.run())
    await until(ended)
    sender.end()
    await running
    assert kind.came == 0
    (attempt,) = await workers.attempts()
    assert (attempt.result, attempt.error) == ("timed_out", senders.HELD_UP)
    (delivery,) = await workers.deliveries()
    assert (delivery.status, delivery.attempts, delivery.attempts_before) == ("pending", 1, 1)

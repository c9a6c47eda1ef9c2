import asyncio
import logging

from app.database import surviving as module
from app.database.surviving import TELL_AGAIN, Told, surviving


def test_a_trouble_is_told_when_it_changes_and_once_a_minute_while_it_lasts():
    told = Told()
    assert told.is_news("away", now=0)
    assert not told.is_news("away", now=TELL_AGAIN)
    assert told.is_news("read-only", now=TELL_AGAIN)
    assert told.is_news("away", now=TELL_AGAIN + 1)
    assert not told.is_news("away", now=2 * TELL_AGAIN)
    assert told.is_news("away", now=2 * TELL_AGAIN + 2)


async def test_work_that_fails_again_and_again_goes_on_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(module, "TROUBLE_WAIT", 0)
    times = 0

    async def work() -> None:
        nonlocal times
        times += 1
        if times < 10:
            raise ConnectionRefusedError("nobody is there")

    with caplog.at_level(logging.INFO):
        async with asyncio.timeout(30):
            await surviving(work)
    assert times == 10
    assert [record.message for record in caplog.records] == ["worker_waits"]

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import timedelta

from app.database.columns import Base
from app.database.health import Health
from app.events.handover import Handover
from app.receiver import following as module
from app.receiver.following import following
from app.settings.model import Settings
from app.transfer.columns import moving_tables
from app.transfer.source import Source
from tests.conftest import CLIENTS


async def test_a_receiver_that_cannot_open_the_new_database_tries_on_and_says_so_once(sqlite_url, monkeypatch, caplog):
    monkeypatch.setattr(module, "OPEN_AGAIN", 0.01)
    tries, enough = 0, asyncio.Event()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        if tries == 5:
            enough.set()
        writer.close()

    @asynccontextmanager
    async def opened(_: Settings):
        raise AssertionError
        yield

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        url = f"postgresql://nobody@127.0.0.1:{server.sockets[0].getsockname()[1]}/db?sslmode=disable"
        with closing(Source(sqlite_url, moving_tables(Base.metadata))) as source:
            source.begin("a-move", target=url, url=url)
            with source.writing():
                source.mark_moved()
        handover = Handover(most=5, most_bytes=1000, timeout=timedelta(seconds=1))
        settings = Settings(database_url=sqlite_url, clients=CLIENTS)
        health = Health()
        async with following(handover, settings, opened, health, before=AsyncExitStack(), told=[]):
            async with asyncio.timeout(30):
                await enough.wait()
    assert [record.message for record in caplog.records].count("move_waits") == 1
    assert health.problem == "The database to which all was moved cannot be opened; the log says why."

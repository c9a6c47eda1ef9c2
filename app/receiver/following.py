"""Lets a receiver go on with PostgreSQL when its SQLite file is moved there."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import TypeVar

from app.database.engines import STATEMENT, engine_for
from app.database.health import Health, first_line
from app.database.leaving import Moved, complete, shown
from app.database.surviving import Told
from app.events.handover import Handover
from app.receiver.endpoint import State
from app.settings.model import Settings

logger = logging.getLogger(__name__)

MISSED = (
    "All that was in this SQLite file was moved to PostgreSQL while this receiver did not answer. Restart it with "
    "database_url naming that database."
)
OPEN_AGAIN = 0.2  # seconds between attempts to open the database that a SQLite file was moved to

S = TypeVar("S", bound=State)


@asynccontextmanager
async def following(
    handover: Handover | None,
    settings: Settings,
    opened: Callable[[Settings], AbstractAsyncContextManager[S]],
    known: Health,
    *,
    before: AsyncExitStack,
    told: Sequence[Callable[[S], None]],
) -> AsyncIterator[None]:
    """Goes on with PostgreSQL when the SQLite file is moved there. No connection of a client notices.

    Args:
        handover: Gets the store of the new database.
        settings: With the SQLite file.
        opened: Opens a database.
        known: Is told while it cannot be opened.
        before: Holds what uses the file, and is closed once PostgreSQL is open.
        told: Are called with the new state.
    """
    if handover is None:
        yield
        return
    ending = asyncio.Event()

    async def follow() -> None:
        async with engine_for(settings.database_url) as engine:
            try:
                url = await handover.until_moved(engine)
            except Moved as error:
                known.fails("commits", MISSED, error=error)
                return
        new = settings.model_copy(update={"database_url": url})
        trouble = Told()
        async with AsyncExitStack() as stack:
            while True:
                try:
                    async with engine_for(url, within=STATEMENT) as engine:
                        await complete(engine)
                    state = await stack.enter_async_context(opened(new))
                    break
                except Exception as error:  # noqa: BLE001 - whatever it is, events wait for it to end
                    if trouble.is_news(first_line(error)):
                        logger.warning("move_waits", extra={"fields": {"error": first_line(error)}})
                    why = "The database to which all was moved cannot be opened; the log says why."
                    known.fails("commits", why, error=error)  # until the first trial there
                    await asyncio.sleep(OPEN_AGAIN)
            handover.follow(state["events"], url)
            for tell in told:
                tell(state)
            logger.warning("moved", extra={"fields": {"target": shown(url)}})
            with suppress(Exception):  # the file takes no more; however it closes, the new database stays open
                await before.aclose()
            await ending.wait()

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        ending.set()
        if handover.url is None:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task

"""Work of a worker that goes on after any error."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

logger = logging.getLogger(__name__)

TROUBLE_WAIT = 1.0  # seconds before work begins again after an error
TELL_AGAIN = 60.0  # seconds
TROUBLE = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class Told:
    """Whether a trouble that comes again and again is worth another line in the log."""

    def __init__(self) -> None:
        self._why = ""
        self._at = 0.0

    def is_news(self, why: str, *, now: float | None = None) -> bool:
        """Whether the trouble is another one than the last, or was told more than `TELL_AGAIN` ago."""
        now = monotonic() if now is None else now
        news = why != self._why or now - self._at > TELL_AGAIN
        if news:
            self._why, self._at = why, now
        return news


async def surviving(work: Callable[[], Awaitable[None]]) -> None:
    """Begins the work again after any error: otherwise a destination would get nothing more, and nobody would know."""
    told = Told()
    while True:
        try:
            await work()
        except TROUBLE as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            if told.is_news(why):  # no warning: several tasks log this, and `database_lost` is logged once
                logger.info("worker_waits", extra={"fields": {"error": why}})
        except Exception:  # as its docstring says
            logger.exception("worker_failed")
        else:
            return
        await asyncio.sleep(TROUBLE_WAIT)

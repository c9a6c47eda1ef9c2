"""Work of a worker that goes on after any error."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

logger = logging.getLogger(__name__)

TROUBLE_WAIT = 1.0  # seconds before work begins again after an error
TROUBLE = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


async def surviving(work: Callable[[], Awaitable[None]]) -> None:
    """Begins the work again after any error: otherwise a destination would get nothing more, and nobody would know."""
    while True:
        try:
            await work()
        except TROUBLE as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            # Not a warning: several tasks log this every second, and `database_lost` is logged once.
            logger.info("worker_waits", extra={"fields": {"error": why}})
        except Exception:  # as its docstring says
            logger.exception("worker_failed")
        else:
            return
        await asyncio.sleep(TROUBLE_WAIT)

"""Whether a receiver can start while its database is away."""

from collections.abc import Awaitable

from app.database.away import is_away
from app.settings.model import Settings


async def can_start(check: Awaitable[None], settings: Settings) -> bool:
    """Whether the check of the database succeeded. If not, the database is away, and events go to the spool.

    Raises:
        Exception: the check failed, and there is no spool or waiting will not help; it is the exception of the check.
    """
    try:
        await check
    except Exception as error:
        if settings.spool is None or not is_away(error):
            raise
        return False
    return True

"""Tells of clients whose credentials end soon, while there is time to rotate them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from app.auth.clients import Client, Clients

logger = logging.getLogger(__name__)

SOON = timedelta(days=14)
LOOK_EVERY = timedelta(hours=1)


def expiring(clients: Clients, *, now: datetime) -> list[Client]:
    """The clients that are valid and end within `SOON`, unless another one of their username lasts longer."""
    lasting = {client.username for client in clients if client.not_after is None or client.not_after > now + SOON}
    valid = (client for client in clients if client.valid_at(now))
    return [client for client in valid if client.not_after is not None and client.username not in lasting]


@asynccontextmanager
async def telling_of_expiry(
    clients: Clients, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> AsyncIterator[None]:
    """Logs each client that ends soon, once."""
    task = asyncio.create_task(_tell(clients, clock))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _tell(clients: Clients, clock: Callable[[], datetime]) -> None:
    told: set[str] = set()
    while True:
        for client in expiring(clients, now=clock()):
            if client.name not in told:
                fields = {"client": client.name, "not_after": str(client.not_after)}
                logger.warning("client_expires_soon", extra={"fields": fields})
                told.add(client.name)
        await asyncio.sleep(LOOK_EVERY.total_seconds())

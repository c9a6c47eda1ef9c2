"""Changes of many deliveries, some in each transaction, so that neither the receiver nor a worker waits long."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from time import monotonic

from sqlalchemy.ext.asyncio import AsyncConnection

from app.audit.chain import Act
from app.database.clock import shared_time
from app.deliveries.operations import BATCH

REST = 0.03  # seconds between two transactions on SQLite, where those who wait do not queue, but try again and again

Change = Callable[..., Awaitable[int]]
"""Changes up to `BATCH` deliveries of a destination, and returns how many; fewer when there are none left."""


async def change_in_batches(
    acting: Callable[[Act], AbstractAsyncContextManager[AsyncConnection]],
    act: Act,
    change: Change,
    destination: str,
    *,
    within: timedelta | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> bool:
    """Changes all deliveries of a destination that the change concerns. Returns whether none is left.

    Args:
        acting: A transaction that records the act at its end.
        act: What is recorded with each transaction, together with how many deliveries it changed.
        change: What is done.
        destination: The destination's name.
        within: No transaction begins after this time; None changes all.
        advance: Is called with the number of deliveries after each transaction.
    """
    until = None if within is None else monotonic() + within.total_seconds()
    while True:
        async with acting(act) as connection:
            done = await change(connection, destination, now=await shared_time(connection))
            act.details = act.details | {"deliveries": done}
            rests = connection.dialect.name == "sqlite"
        advance(done)
        if done < BATCH:  # what comes meanwhile is left, otherwise this might never end
            return True
        if until is not None and monotonic() >= until:
            return False
        if rests:
            await asyncio.sleep(REST)

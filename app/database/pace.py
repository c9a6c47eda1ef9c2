"""The pace of a worker: it rests to let the receivers go first, but only while events wait there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from time import monotonic

FEW, MANY = 24, 40
"""Up to `FEW` events usually wait in a receiver for their commit; from `MANY` on a worker rests longest."""

MOST = 20.0
"""A worker rests at most so many times as long as its transaction took."""

LONGEST = 2.0  # seconds that a worker rests at most, so that deliveries go on

FRESH = 0.25  # seconds for which a receiver's number counts: after that the receiver may have ended


def rest(held: float, waiting: int) -> float:
    """How many seconds to rest after a transaction, unless the receiver tells something else meanwhile.

    Args:
        held: How many seconds the transaction took.
        waiting: How many events wait in a receiver.
    """
    share = min(1.0, max(0.0, (waiting - FEW) / (MANY - FEW)))
    return min(LONGEST, MOST * share * held)


class Pace:
    """Lets a worker rest after each transaction while events wait; its transactions then go one after the other.

    Args:
        one_writer: Whether they always do, as on SQLite, where only one can write.
    """

    def __init__(self, *, one_writer: bool) -> None:
        self._one_writer = one_writer
        self._turn = asyncio.Lock()
        self._ended = self._held = 0.0  # of the last transaction
        self._before = self._waiting = 0
        self._told_at = float("-inf")
        self._told = asyncio.Event()

    def tell(self, waiting: int) -> None:
        """Notes how many events wait in a receiver."""
        self._before, self._waiting, self._told_at = self._waiting, waiting, monotonic()
        self._told.set()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["Pace"]:
        """Waits for the turn, and for the rest after the transaction before.

        No caller waits for rests that end more than `LONGEST` after it came, however many callers there are. Otherwise
        claims could run out before their answers are recorded, and another worker would send the events again.
        """
        until = monotonic() + LONGEST
        async with self._turn if self._one_writer or self._lately() > FEW else nullcontext():
            while (left := min(self._ended + rest(self._held, self._lately()), until) - monotonic()) > 0:
                self._told.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._told.wait()
            yield self

    def held(self, seconds: float) -> None:
        """Notes how long a transaction took that has just ended."""
        self._ended, self._held = monotonic(), seconds

    def _lately(self) -> int:
        """The larger one of the last two numbers told: at its limit a receiver has moments in which few wait."""
        return max(self._before, self._waiting) if monotonic() - self._told_at < FRESH else 0

"""The pace of a worker: the receivers go first while events wait there, and otherwise nothing slows it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from time import monotonic

FEW, MANY = 24, 40
"""Up to so many events that wait in a receiver for their commit are usual; from `MANY` on a worker rests most."""

MOST = 20.0
"""How many times as long as its transaction took a worker rests at most."""

LONGEST = 2.0  # seconds that it rests at most, so that deliveries go on

FRESH = 0.25  # seconds; what a receiver told before that counts no longer, as it may have ended


def rest(held: float, waiting: int) -> float:
    """How many seconds to rest after a transaction, unless the receiver tells something else meanwhile.

    Args:
        held: How many seconds the transaction took.
        waiting: How many events wait in a receiver.
    """
    share = min(1.0, max(0.0, (waiting - FEW) / (MANY - FEW)))
    return min(LONGEST, MOST * share * held)


class Pace:
    """Lets a worker's transactions rest while events wait; they then go one after the other.

    Args:
        one_writer: Whether they always do, as on SQLite only one can write.
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
        """Waits for the turn, and for the rest after the one before.

        However many wait for their turns, none waits for rests that end more than `LONGEST` after it came: the answers
        that it is to record would otherwise come after their claims have run out, and be sent again by another worker.
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

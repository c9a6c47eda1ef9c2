"""The pace of a worker: the receivers go first while their backlog grows, and otherwise nothing slows it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from math import exp
from time import monotonic

FEW, MANY = 16, 32
"""Below so many events that wait for their commit in each receiver, the worker does not rest; from `MANY` on, most."""

MOST = 20.0
"""How many times as long as its transaction took a worker rests at most."""

LONGEST = 2.0  # seconds that it rests at most, so that deliveries go on

LATELY = 0.25  # seconds; what the receivers told longer ago counts for little


def rest(held: float, waiting: float) -> float:
    """How many seconds to rest after a transaction that took `held` seconds, while so many events wait."""
    share = min(1.0, max(0.0, (waiting - FEW) / (MANY - FEW)))
    return min(LONGEST, MOST * share * held)


class Backlog:
    """How many events wait to be committed in a receiver, on average over what was told lately."""

    def __init__(self) -> None:
        self._waiting = 0.0
        self._at = 0.0

    def tell(self, waiting: int, *, now: float) -> None:
        """Notes how many events wait in a receiver at this time."""
        before = self.at(now)
        self._waiting = before + waiting * (1 - exp((self._at - now) / LATELY))
        self._at = now

    def at(self, now: float) -> float:
        """The average at this time. It falls to nothing if nothing more is told, as when the receivers have ended."""
        return self._waiting * exp((self._at - now) / LATELY)


class Pace:
    """Lets a worker's transactions rest while events wait; they then go one after the other.

    Args:
        one_writer: Whether they always do, as on SQLite only one can write.
    """

    def __init__(self, *, one_writer: bool) -> None:
        self._one_writer = one_writer
        self._backlog = Backlog()
        self._turn = asyncio.Lock()
        self._rests_until = 0.0

    def tell(self, waiting: int) -> None:
        """Notes how many events wait to be committed in a receiver now."""
        self._backlog.tell(waiting, now=monotonic())

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["Pace"]:
        """Waits for the turn, and for the rest after the one before.

        However many wait for their turns, none waits for rests that end more than `LONGEST` after it came: the answers
        that it is to record would otherwise come after their claims have run out, and be sent again by another worker.
        """
        until = monotonic() + LONGEST
        async with self._turn if self._one_writer or self._backlog.at(monotonic()) > FEW else nullcontext():
            left = min(self._rests_until, until) - monotonic()
            if left > 0:
                await asyncio.sleep(left)
            yield self

    def held(self, seconds: float) -> None:
        """Notes how long a transaction took."""
        now = monotonic()
        self._rests_until = now + rest(seconds, self._backlog.at(now))

"""When the next request may be sent. Prioticket blocks an address after 60 answers of 4xx within a minute."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic

MINUTE = 60.0  # seconds
MOST_REFUSALS = 20  # in a minute; a third of what Prioticket tolerates, as other processes may share the address


class Clock:
    """Tells the time and sleeps; tests have a clock of their own."""

    def __init__(
        self, now: Callable[[], float] = monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.now = now
        self.sleep = sleep


class Pace:
    """Spaces the requests of one process evenly, and pauses for a minute after `MOST_REFUSALS` answers of 4xx.

    Workers share the rate of their fetches through the database, see `app.reconciliation.fetching`.
    """

    def __init__(self, rate: float, clock: Clock) -> None:
        self._between = 1 / rate
        self._clock = clock
        self._next = 0.0
        self._refusals: deque[float] = deque(maxlen=MOST_REFUSALS)

    async def turn(self) -> None:
        """Returns when one more request may be sent."""
        at = max(self._next, self._clock.now())
        self._next = at + self._between  # set before waiting, so that two callers do not get the same turn
        while (wait := at - self._clock.now()) > 0:
            await self._clock.sleep(wait)

    def hold(self, seconds: float) -> None:
        """Gives nobody a turn for so many seconds."""
        self._next = max(self._next, self._clock.now() + seconds)

    def answered(self, status: int) -> None:
        """Counts an answer."""
        if not 400 <= status < 500:  # noqa: PLR2004 - HTTP's class of the client's errors
            return
        now = self._clock.now()
        self._refusals.append(now)
        if len(self._refusals) == MOST_REFUSALS and now - self._refusals[0] <= MINUTE:
            self.hold(MINUTE)
            self._refusals.clear()

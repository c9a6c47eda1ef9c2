"""How often a sender may do something within a minute: fail with a credential, or ask for a token."""

from array import array
from bisect import bisect_right
from collections import OrderedDict
from datetime import timedelta
from math import ceil

from starlette.types import Scope

from app.web.addresses import address_of, network

FAILURES = 60
REQUESTS = 1000
WINDOW = timedelta(minutes=1)
"""Prioticket's own limits on its callers: 60 failed calls a minute, 1000 calls a minute."""

SENDERS = 10_000
"""The most senders that one limit remembers."""


class Limit:
    """Counts what each sender does, in a sliding window; the sender that has been quiet longest is forgotten first.

    A count takes 8 bytes; each sender takes about 500 more.

    Args:
        most: How often a sender may do it within the window.
        window: How long each count is kept.
        senders: The most senders that are remembered.
    """

    def __init__(self, most: int, *, window: timedelta = WINDOW, senders: int = SENDERS) -> None:
        self._most = most
        self._window = window.total_seconds()
        self._senders = senders
        self._times: OrderedDict[str, array[float]] = OrderedDict()

    def wait(self, sender: str, *, now: float) -> int | None:
        """The whole seconds to wait for a sender that has reached the limit; None for any other.

        Args:
            sender: A client's name, or an address as `sender_of` gives it.
            now: Seconds on a clock that never goes back.
        """
        times = self._times.get(sender, ())
        if len(times) < self._most or now - times[-self._most] >= self._window:
            return None
        return max(1, ceil(times[-self._most] + self._window - now))

    def count(self, sender: str, *, now: float) -> int | None:
        """Counts once more, unless the sender must wait; gives what `wait` gave before the count."""
        wait = self.wait(sender, now=now)
        times = self._times.setdefault(sender, array("d"))
        self._times.move_to_end(sender)
        if len(self._times) > self._senders:
            self._times.popitem(last=False)
        if wait is None:
            del times[: bisect_right(times, now - self._window)]
            times.append(now)
        return wait


def sender_of(scope: Scope) -> str:
    """The sender of a request whose client is not known: its address, as `network` gives it."""
    return network(address_of(scope))

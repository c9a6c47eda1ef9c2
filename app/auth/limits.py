"""How many wrong credentials an address may try."""

from collections import OrderedDict, deque
from datetime import timedelta
from ipaddress import IPv4Address, ip_address
from math import ceil

FAILURES = 60
WINDOW = timedelta(minutes=1)
"""Prioticket's own limit on its callers: 60 failed calls a minute from one address."""

ADDRESSES = 10_000
"""The most addresses remembered, about 6 MB at worst; the one longest quiet is forgotten first."""


class FailureLimit:
    """Counts failed authentications by address, in a sliding window.

    It only ever chooses between two refusals: a right credential never asks it, so nobody can lock the sender out.
    """

    def __init__(self, *, failures: int = FAILURES, window: timedelta = WINDOW, addresses: int = ADDRESSES) -> None:
        self._failures = failures
        self._window = window.total_seconds()
        self._addresses = addresses
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def failed(self, address: str, *, now: float) -> int | None:
        """Counts one failure; the whole seconds to wait where the address has used up its share, else None.

        Args:
            now: Seconds on a clock that never goes back.
        """
        key = _network(address)
        times = self._times.setdefault(key, deque(maxlen=self._failures))
        self._times.move_to_end(key)
        if len(self._times) > self._addresses:
            self._times.popitem(last=False)
        if len(times) == self._failures and now - times[0] < self._window:
            return max(1, ceil(times[0] + self._window - now))
        times.append(now)
        return None


def _network(address: str) -> str:
    """The address, or its /64 where it is IPv6: one host owns that many. `::ffff:192.0.2.1` is IPv4."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return address
    return str(parsed.ipv4_mapped or int(parsed) >> 64)  # as a number, since `exploded` fails on `fe80::1%eth0`

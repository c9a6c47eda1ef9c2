"""How many wrong credentials an address may try, and how many requests whoever is known by name may send."""

from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, ip_address
from math import ceil

from starlette.types import Scope

FAILURES = 60
REQUESTS = 1000
WINDOW = timedelta(minutes=1)
"""Prioticket's own limits on its callers: 60 failed calls a minute, 1000 calls a minute."""

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
        key = network(address)
        times = self._times.setdefault(key, deque(maxlen=self._failures))
        self._times.move_to_end(key)
        if len(self._times) > self._addresses:
            self._times.popitem(last=False)
        if len(times) == self._failures and now - times[0] < self._window:
            return max(1, ceil(times[0] + self._window - now))
        times.append(now)
        return None


class RequestLimit:
    """Counts requests, and those that failed, by whoever sent them, in windows that begin with the first.

    Who has used up one of the two waits for the end of the window. Prioticket's own limits on its callers.
    """

    def __init__(
        self,
        *,
        requests: int = REQUESTS,
        failures: int = FAILURES,
        window: timedelta = WINDOW,
        senders: int = ADDRESSES,
    ) -> None:
        self._requests = requests
        self._failures = failures
        self._window = window.total_seconds()
        self._senders = senders
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def begun(self, sender: str, *, now: float) -> int | None:
        """Counts one request; the whole seconds to wait where its share is used up, else None.

        Args:
            sender: A client's name, or the network of an address.
            now: Seconds on a clock that never goes back.
        """
        count = self._count(sender, now)
        if count.requests >= self._requests or count.failures >= self._failures:
            return max(1, ceil(count.began + self._window - now))
        count.requests += 1
        return None

    def failed(self, sender: str, *, now: float) -> None:
        """Counts one of the sender's requests as failed."""
        self._count(sender, now).failures += 1

    def _count(self, key: str, now: float) -> "_Count":
        count = self._counts.get(key)
        if count is None or now - count.began >= self._window:
            count = self._counts[key] = _Count(now)
        self._counts.move_to_end(key)
        if len(self._counts) > self._senders:
            self._counts.popitem(last=False)
        return count


@dataclass(slots=True)
class _Count:
    began: float
    requests: int = 0
    failures: int = 0


def address_of(scope: Scope) -> str:
    """The address that a request came from, as far as the server knows it.

    A proxy may pass on as an address what its client wrote; what is none is `unknown`.
    """
    host = scope["client"][0].partition("%")[0] if scope.get("client") else ""
    try:
        return str(ip_address(host))
    except ValueError:
        return "unknown"


def network(address: str) -> str:
    """The address, or its /64 where it is IPv6: one host owns that many. `::ffff:192.0.2.1` is IPv4."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return address
    return str(parsed.ipv4_mapped or int(parsed) >> 64)  # as a number, since `exploded` fails on `fe80::1%eth0`

"""Bounds the open connections, in total and by address; the one that has waited longest makes room."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import islice
from operator import itemgetter
from typing import Protocol

from app.web.addresses import network

COMPARED = 32
"""How many waiting connections are compared: comparing thousands would take a millisecond for each new one."""


class Connection(Protocol):
    """A connection, as it is counted here."""

    def waiting_since(self) -> float | None:
        """Since when it has waited for its peer; None while its request is being worked on."""

    def drop(self, why: str) -> None:
        """Ends it at once."""


class Connections:
    """The open connections.

    Args:
        most: How many all addresses together may have.
        most_of_address: How many one address, or one /64 of IPv6, may have; a proxy is only bound by `most`.
        proxies: The networks of proxies.
    """

    def __init__(self, *, most: int, most_of_address: int, proxies: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        self._most = most
        self._most_of_address = most_of_address
        self._proxies = proxies
        self._addresses: dict[Connection, str] = {}
        self._by_address: dict[str, dict[Connection, None]] = {}

    def admit(self, connection: Connection, address: str) -> bool:
        """Whether there is room for the connection; if so, it counts until `left` is called."""
        key = network(address)
        here = self._by_address.get(key, {})
        if len(here) >= self._most_of_address and not self._is_proxy(address):
            room = self._make_room(here)
        else:
            room = len(self._addresses) < self._most or self._make_room(self._addresses)
        if room:
            self._addresses[connection] = key
            self._by_address.setdefault(key, {})[connection] = None
        return room

    def left(self, connection: Connection) -> None:
        """Stops counting the connection, if it was admitted."""
        key = self._addresses.pop(connection, None)
        if key is not None:
            del self._by_address[key][connection]
            if not self._by_address[key]:
                del self._by_address[key]

    def _make_room(self, among: Iterable[Connection]) -> bool:
        """Drops the connection that has waited longest, compared among the oldest; False if none waits."""
        waiting = ((since, each) for each in among if (since := each.waiting_since()) is not None)
        oldest = list(islice(waiting, COMPARED))
        if not oldest:
            return False
        _, longest = min(oldest, key=itemgetter(0))
        self.left(longest)
        longest.drop("It had waited longest, and a new connection needed room.")
        return True

    def _is_proxy(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return True  # a socket that has no addresses
        return any(parsed in proxies for proxies in self._proxies)

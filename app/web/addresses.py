"""Addresses of senders."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.types import Scope

UNKNOWN = "unknown"
LONGEST = 45  # characters; RFC 4291, section 2.2, form 3. Longer texts are not kept in memory


def address_of(scope: Scope) -> str:
    """The address that a request came from, as far as the server knows it.

    A proxy may pass on whatever its client wrote; anything that is not an address becomes `unknown`.
    """
    client = scope.get("client")
    if not client:
        return UNKNOWN
    host: str = client[0]
    return _kept(host) if len(host) <= LONGEST else _parsed(host)


def _parsed(host: str) -> str:
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return UNKNOWN


_kept = lru_cache(maxsize=1024)(_parsed)
"""Parsing takes longer than all else that is done for a log line."""


def network(address: str) -> str:
    """The address, or the /64 of an IPv6 address: one host owns that many. `::ffff:192.0.2.1` counts as IPv4."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"

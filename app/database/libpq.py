"""Reads PostgreSQL URLs as libpq does: which parameters are used, and by whom.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy.engine import URL, make_url

DRIVERS = frozenset(
    (
        *("dbname", "database", "user", "password", "passfile", "service", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
    )
)
"""Parameters that asyncpg reads."""

STARTUP = frozenset(("application_name", "options"))
"""Parameters that the server must get before anything else; hosted servers route by `options`."""

WITHOUT_MEANING = frozenset(
    (
        *("channel_binding", "require_auth", "gssencmode", "gssdelegation", "requirepeer", "requiressl", "replication"),
        *("sslcompression", "sslcertmode", "sslcrldir", "sslsni", "sslkeylogfile", "load_balance_hosts", "servicefile"),
        *("min_protocol_version", "max_protocol_version", "scram_client_key", "scram_server_key", "client_encoding"),
        *("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"),
    )
)
"""Parameters of libpq that the driver does not support, or always handles in its own way."""

KEEPALIVE = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""Parameters and their defaults: a peer that is gone is noticed within 25 seconds."""

USER_TIMEOUT = 20_000  # milliseconds that sent bytes may stay unacknowledged; libpq's tcp_user_timeout
LAST_PORT = 65535
FILES = ("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl")
ADDRESS = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>\d+))?")


class Target(NamedTuple):
    """Where to connect, and how."""

    dsn: str
    """What asyncpg reads; without hosts if `hosts` are given."""

    hosts: tuple[tuple[str | None, int | None], ...]
    """In the order in which they are tried; None stands for what `dsn` or the environment says."""

    connect_timeout: float | None
    """Seconds for one host."""

    startup: Mapping[str, str]
    session: Mapping[str, str]
    """Server settings for the session; those that the server does not know are ignored."""

    keepalive: Mapping[str, int]
    files: tuple[str, ...]
    """The files that the URL names."""

    system_roots: bool
    """`sslrootcert=system`: the certificates that the system trusts, and the host's name is checked."""

    ignored: tuple[str, ...]
    """The names of parameters that change nothing."""


def target(url: str) -> Target:
    """Where and how to connect, as the URL says.

    Raises:
        ValueError: a parameter's value cannot be read; the text names it.
    """
    parsed = make_url(url)
    given = {name: value if isinstance(value, str) else ",".join(value) for name, value in parsed.query.items()}
    given = {name: value for name, value in given.items() if value}
    if given.get("ssl"):  # as other libraries write it
        given.setdefault("sslmode", {"true": "require", "1": "require"}.get(given["ssl"], given["ssl"]))
    hosts = _hosts(parsed, given)
    driver = {name: value for name, value in given.items() if name in DRIVERS}
    system_roots = driver.get("sslrootcert") == "system"
    if system_roots:
        driver = {name: value for name, value in driver.items() if not name.startswith("ssl")}
    ours = DRIVERS | STARTUP | WITHOUT_MEANING | KEEPALIVE.keys()
    ours |= {"host", "hostaddr", "port", "ssl", "connect_timeout", "tcp_user_timeout", "fallback_application_name"}
    ours |= {"target_session_attrs"}
    startup = {name: value for name, value in given.items() if name in STARTUP}
    startup.setdefault("application_name", given.get("fallback_application_name", "priohook"))
    keepalive = {name: _number(given, name, default) for name, default in KEEPALIVE.items()}
    keepalive["tcp_user_timeout"] = _number(given, "tcp_user_timeout", USER_TIMEOUT)
    if hosts != ((None, None),):
        parsed = parsed.set(host="", port=None)
    return Target(
        dsn=parsed.set(drivername="postgresql", query=driver).render_as_string(hide_password=False),
        hosts=hosts,
        connect_timeout=_number(given, "connect_timeout", 0) or None,
        startup=startup,
        session={name: value for name, value in given.items() if name not in ours},
        keepalive=keepalive,
        files=tuple(driver[name] for name in FILES if name in driver),
        system_roots=system_roots,
        ignored=tuple(sorted(given.keys() & (WITHOUT_MEANING | {"target_session_attrs"}))),
    )


def _hosts(url: URL, given: Mapping[str, str]) -> tuple[tuple[str | None, int | None], ...]:
    names = given.get("host") or given.get("hostaddr")
    if not names and "port" not in given:
        return ((None, None),)
    addresses = [_address(each) for each in (names or url.host or "localhost").split(",")]
    ports = [_port(each) for each in given["port"].split(",")] if "port" in given else [url.port]
    if len(ports) not in (1, len(addresses)):
        raise ValueError(f"port has {len(ports)} values, but host has {len(addresses)}")
    ports = ports * len(addresses) if len(ports) == 1 else ports
    return tuple((host, own or port) for (host, own), port in zip(addresses, ports, strict=True))


def _address(text: str) -> tuple[str, int | None]:
    bare_v6 = text.count(":") > 1 and not text.startswith("[")
    if text.startswith("/") or bare_v6:  # a socket's folder
        return text, None
    match = ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError("host must be a name or an address, with a port if needed")
    return match["v6"] or match["name"] or "localhost", _port(match["port"]) if match["port"] else None


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= LAST_PORT:
        raise ValueError("port is not a number from 1 to 65535")
    return int(text)


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    try:
        return max(0, int(given.get(name, default)))
    except ValueError:
        raise ValueError(f"{name} is not a whole number") from None

"""URLs in settings: their parts, and what of them may be shown."""

import re
from base64 import b64encode
from hashlib import sha256
from typing import Annotated, NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit

from pydantic import AfterValidator

from app.settings.brokers import SCHEMES

VISIBLE = "".join(chr(each) for each in range(0x21, 0x7F))
HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?")
VALUE = re.compile(r"(?<==)[^&#]+|(?<=[?&#])[^=&#]+(?=[&#]|$)|(?<=#).+")
"""Each value in a query, a parameter without one, and the fragment."""

SHOWN = ("http", "postgres", "sqlite", *SCHEMES)
"""Schemes of URLs whose host may be shown."""


class HTTPTarget(NamedTuple):
    """Where a request goes."""

    tls: bool
    host: str
    """A name in ASCII, or an address without brackets."""
    port: int
    host_header: str
    path: str
    """With the query, as it was configured: signed URLs would not fit otherwise."""
    authorization: str | None
    """Of a URL with a user in it."""


def _is_public(url: str) -> str:
    """A URL that can be registered at Prioticket, which may show it to others of the account."""
    http_target(url)
    if not url.startswith(("https://", "http://")) or not url.isprintable() or "@" in url or "?" in url or "#" in url:
        raise ValueError("must be a URL such as https://hooks.example.com, without credentials, query and fragment")
    return url


PublicURL = Annotated[str, AfterValidator(_is_public)]


def http_target(url: str) -> HTTPTarget:
    """The parts of an `http://` or `https://` URL.

    Raises:
        ValueError: its host or port is missing or invalid; the text does not repeat the URL, which may hold a password.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port
    except ValueError:
        host, port = "", None
    if not host or port == 0:
        raise ValueError("must have a host, and a port from 1 to 65535 if any")
    tls = parts.scheme == "https"
    usual_port = 443 if tls else 80
    name = f"[{host}]" if ":" in host else host
    authorization = None
    if parts.username is not None:
        user = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
        authorization = f"Basic {b64encode(user).decode()}"
    after_host = url.partition("://")[2][len(parts.netloc) :].partition("#")[0]
    path = after_host if after_host.startswith("/") else f"/{after_host}"
    return HTTPTarget(
        tls=tls,
        host=host,
        port=port or usual_port,
        host_header=name if port in (None, usual_port) else f"{name}:{port}",
        path=quote(path, safe=VISIBLE),
        authorization=authorization,
    )


def masked(url: str) -> str:
    """The URL as it may be shown: without its password, its path, the values of its query and its fragment.

    Many services put a secret into the path of a webhook's URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    if not scheme.startswith(SHOWN):  # apprise's: any part of these may be a token
        return f"{scheme}://***"
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    path, *query = re.split("(?=[?#])", rest[len(authority) :], maxsplit=1)
    user, at, host = authority.rpartition("@")
    name, colon, _ = user.partition(":")
    hosts = host.split(",") if scheme in SCHEMES else [host]
    if not at and not all(map(HOST_AND_PORT.fullmatch, hosts)):  # not a URL; what is after a colon may be a password
        return f"{scheme}://{authority.partition(':')[0]}:***"
    path = path if path in ("", "/") else "/***"
    shown = f"{name}:***@" if colon else "***@" if at else ""  # a user alone is often a token
    return f"{scheme}://{shown}{host}{path}{VALUE.sub('***', ''.join(query))}"


def short_name(url: str) -> str:
    """A name for a destination that has none: its host, and a digest. Path, query and user may be secrets."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    host = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    return f"{scheme}://{host}#{sha256(url.encode()).hexdigest()[:8]}"

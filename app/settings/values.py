"""Values of settings as people write them: words, seconds, signing secrets."""

import json
import re
from base64 import b64decode, b64encode
from datetime import timedelta
from hashlib import sha256
from secrets import token_bytes
from typing import Annotated, Literal, NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from app.settings.brokers import SCHEMES

HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
OURS = ("content-type", "content-encoding", "content-length", "connection", "host", "transfer-encoding")
TOKEN_KEY = re.compile(r"[\w+/=-]{32,}", re.ASCII)  # HS256 wants 32 bytes; RFC 7518, section 3.2
MOST_TOKEN_KEYS = 2
VISIBLE = "".join(chr(each) for each in range(0x21, 0x7F))
HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?")
VALUE = re.compile(r"(?<==)[^&#]+|(?<=[?&#])[^=&#]+(?=[&#]|$)|(?<=#).+")
"""Each value in a query, a parameter without one, and the fragment."""

SHOWN = ("http", "postgres", "sqlite", *SCHEMES)
"""Schemes of URLs whose host may be shown."""

SHORTEST_KEY, LONGEST_KEY = 24, 64  # bytes; Standard Webhooks, "Signature scheme"


def words(value: object) -> object:
    """Lets an environment variable say `events:read events:replay` as well as a JSON list."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else value.split()


OpenURLs = Annotated[frozenset[Literal["/docs", "/openapi.json"]], NoDecode, BeforeValidator(words)]
"""The URLs that can be switched off."""


def _number(value: object) -> object:
    """An environment variable's `2.5` as a number, which pydantic reads as seconds."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def secrets(value: object) -> object:
    """Accepts one secret as well as several."""
    if isinstance(value, SecretStr):
        return (value,)
    return words(value)


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be more than 0 seconds")
    return value


SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _span(value: object) -> object:
    """`15m`, `24h` or `7d` as a number of seconds."""
    if isinstance(value, str) and (written := SPAN.fullmatch(value)):
        return float(written[1]) * SECONDS[written[2]]
    return _number(value)


def _a_minute(value: timedelta) -> timedelta:
    if value < timedelta(minutes=1):
        raise ValueError("must be a minute or more, such as 15m")
    return value


Every = Annotated[timedelta, BeforeValidator(_span), AfterValidator(_a_minute)]
"""How often something is done: seconds, or `15m`, `24h`, `7d`."""


def _not_negative(value: timedelta) -> timedelta:
    if value < timedelta(0):
        raise ValueError("must not be less than 0 seconds")
    return value


Span = Annotated[timedelta, BeforeValidator(_span), AfterValidator(_not_negative)]
"""How long something lasts: seconds, or `15m`, `24h`, `7d`."""


def written_span(span: timedelta) -> str:
    """A span as people write it, in the largest unit of which it is a whole number."""
    seconds = span.total_seconds()
    unit = next((name for name in "dhm" if seconds and seconds % SECONDS[name] == 0), "s")
    return f"{seconds / SECONDS[unit]:g}{unit}"


SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]?B)")
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _size(value: object) -> object:
    if not isinstance(value, str) or value.isdigit():
        return value
    if (written := SIZE.fullmatch(value)) is None:
        raise ValueError('must be a number of bytes, such as 500000000, "500MB" or "5GB"')
    return int(float(written[1]) * BYTES[written[2]])


Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
"""Bytes, or `500MB`, `5GB`, in powers of 1000 as disks are sold."""

Seconds = Annotated[
    timedelta, BeforeValidator(_number), AfterValidator(_positive), Field(json_schema_extra={"unit": "seconds"})
]
Delay = Annotated[
    timedelta, BeforeValidator(_number), AfterValidator(_not_negative), Field(json_schema_extra={"unit": "seconds"})
]
"""How long to wait; 0 for not at all."""

Bytes = Annotated[int, Field(gt=0, json_schema_extra={"unit": "bytes"})]
Events = Annotated[int, Field(gt=0, json_schema_extra={"unit": "events"})]
OpenConnections = Annotated[int, Field(gt=0, le=1_000_000, json_schema_extra={"unit": "connections"})]


MOST_PORT = 65_535


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of `127.0.0.1:9464` or `[::1]:9464`.

    Raises:
        ValueError: it is neither.
    """
    host, _, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or "]" in host or not port.isascii() or not port.isdigit() or int(port) > MOST_PORT:
        raise ValueError("must be host:port, such as 127.0.0.1:9464 or [::1]:9464")
    return host, int(port)


def _listens(address: str) -> str:
    host_and_port(address)
    return address


Listens = Annotated[str, AfterValidator(_listens)]
"""Where a server listens."""

LONGEST_TIMEOUT = timedelta(minutes=5)


def _bounded(value: timedelta) -> timedelta:
    if value > LONGEST_TIMEOUT:
        raise ValueError(f"must be {LONGEST_TIMEOUT.total_seconds():.0f} seconds at most")
    return value


Timeout = Annotated[Seconds, AfterValidator(_bounded)]
"""For one request that priohook sends."""


def _fit_http(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise ValueError(f"{name!r} cannot be sent: names are letters, digits and dashes, values plain ASCII")
        if name.lower() in OURS or name.lower().startswith(("webhook-", "priohook-")):
            raise ValueError(f"{name!r} is set by priohook itself")
    return headers


Headers = Annotated[dict[str, str], AfterValidator(_fit_http)]


def _fit_tokens(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if len(keys) > MOST_TOKEN_KEYS:
        raise ValueError("must be one key, or two while rotating: the first signs, both are accepted")
    if any(not TOKEN_KEY.fullmatch(key.get_secret_value()) for key in keys):
        raise ValueError("must have 32 characters or more of A-Z a-z 0-9 - _ + / =; `priohook keys new` makes one")
    return keys


TokenKeys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(secrets), AfterValidator(_fit_tokens)]


def signing_key(secret: SecretStr) -> bytes:
    """The key in a secret as Standard Webhooks writes it, `whsec_` and base64.

    Raises:
        ValueError: it is not such a secret.
    """
    key = b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
    if not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
        raise ValueError
    return key


def fit_signing(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """The secrets, if each can sign."""
    for secret in secrets:
        try:
            signing_key(secret)
        except ValueError:
            raise ValueError(
                "must be whsec_ and the base64 of 24 to 64 bytes; `priohook secrets new` makes one"
            ) from None
    return secrets


def new_signing_secret() -> str:
    """A secret of 256 random bits, as Standard Webhooks writes it."""
    return f"whsec_{b64encode(token_bytes(32)).decode()}"


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

"""Values of settings as people write them: words, seconds, bytes, addresses, headers."""

import json
import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
OURS = ("content-type", "content-encoding", "content-length", "connection", "host", "transfer-encoding")


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

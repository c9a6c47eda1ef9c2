"""Destinations at a message broker: their URLs, and the names under which messages go there."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

PLACE = re.compile(r"\{(\w*)\}")
PLACES = ("type", "reference")
"""What a name may have in braces."""

LONGEST_NAME = 249
"""Characters: the most of a topic of Kafka's. AMQP's routing keys may have 255, and NATS advises no more."""

LONGEST_VALUE = 80  # characters of a type or a reference in a name


class Broker(NamedTuple):
    """A kind of message broker."""

    name: str
    extra: str
    """The extra of this package that brings its library; also the module of its destinations."""
    package: str
    """Its library, as it is imported."""
    options: tuple[str, ...]
    """The settings of a destination that only this kind has."""


NATS = Broker("NATS", "nats", "nats", ("subject",))
BROKERS = (NATS,)
OPTIONS = tuple(option for broker in BROKERS for option in broker.options)


class Scheme(NamedTuple):
    """The beginning of a broker's URL."""

    broker: Broker
    tls: bool
    usual_port: int


SCHEMES: Mapping[str, Scheme] = {
    "nats": Scheme(NATS, tls=False, usual_port=4222),
    "tls": Scheme(NATS, tls=True, usual_port=4222),
}


class BrokerTarget(NamedTuple):
    """Where a broker is, and who we are there."""

    broker: Broker
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    """The members of one cluster: any of them will do."""
    username: str | None
    password: str | None


def broker_target(url: str) -> BrokerTarget:
    """The parts of a broker's URL.

    Raises:
        ValueError: it cannot be used; the text does not repeat the URL, which may hold a password.
    """
    scheme, _, rest = url.partition("://")
    broker, tls, usual_port = SCHEMES[scheme]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    credentials, at, hosts = authority.rpartition("@")
    name, colon, password = credentials.partition(":")
    parts = urlsplit(f"//host{rest[len(authority) :]}")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"has a part after the host that means nothing to {broker.name}: remove it")
    return BrokerTarget(
        broker=broker,
        tls=tls,
        hosts=tuple(_host(each, usual_port) for each in hosts.split(",")),
        username=unquote(name) if at else None,
        password=unquote(password) if colon else None,
    )


def fit_broker(url: str, options: Mapping[str, str | None]) -> None:
    """Checks the names under which messages go to the broker at this URL, and that its library is installed.

    Args:
        url: Of the destination.
        options: The values of `OPTIONS`, None where there is none.

    Raises:
        ValueError: something does not fit; the text says what.
    """
    scheme = SCHEMES.get(url.partition(":")[0])
    broker = scheme.broker if scheme else None
    for name, value in options.items():
        if value is not None and (broker is None or name not in broker.options):
            owner = next(each for each in BROKERS if name in each.options)
            schemes = " or ".join(f"{each}://" for each, its in SCHEMES.items() if its.broker is owner)
            raise ValueError(f"{name} is only for a destination at {schemes}")
    if broker is None:
        return
    if find_spec(broker.package) is None:
        raise ValueError(
            f"needs a library for {broker.name} that is not installed: pip install 'priohook[{broker.extra}]'"
        )
    given = {name: options[name] for name in broker.options}
    if not any(given.values()):
        raise ValueError(MISSING[broker.extra])
    for name, value in given.items():
        if value is not None:
            _fit_name(name, value)


MISSING = {
    "nats": 'needs a subject, such as subject = "prioticket.{type}.{reference}"',
}


def _fit_name(option: str, template: str) -> None:
    places = PLACE.findall(template)
    fixed = PLACE.sub("", template)
    if "{" in fixed or "}" in fixed or not set(places) <= set(PLACES):
        braces = " and ".join(f"{{{each}}}" for each in PLACES)
        raise ValueError(f"{option} may have {braces}, and no other braces")
    if not fixed.isascii() or not fixed.isprintable() or re.search(r"[ *>]", fixed):
        raise ValueError(f"{option} must be plain ASCII, without spaces, * and >")
    if template.startswith("{"):  # else a sender could choose it, such as _INBOX
        raise ValueError(f"{option} must begin with a name of its own, such as prioticket.")
    if "" in PLACE.sub("_", template).split("."):
        raise ValueError(f"{option} must have something before, between and after its dots")
    if len(fixed) + LONGEST_VALUE * len(places) > LONGEST_NAME:
        most = LONGEST_NAME - LONGEST_VALUE * len(places)
        raise ValueError(f"{option} is too long: besides what is in braces it may have {max(0, most)} characters")


def _host(written: str, usual_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{written}")
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port
    except ValueError:
        host, port = "", None
    if not host or port == 0:
        raise ValueError("must have a host, and a port from 1 to 65535 if any; several hosts have commas between them")
    return host, port or usual_port

"""Destinations at a message broker: their URLs, and the names under which messages go there."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

PLACE = re.compile(r"\{(\w*)\}")
PLACES = ("type", "reference")
"""What a name may have in braces."""

LONGEST_NAME = 249
"""Characters: the most of a topic of Kafka's. AMQP's routing keys may have 255, and NATS advises no more."""

SASL = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
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
AMQP = Broker("AMQP", "amqp", "aiormq", ("exchange", "routing_key"))
KAFKA = Broker("Kafka", "kafka", "aiokafka", ("topic",))
BROKERS = (NATS, AMQP, KAFKA)
OPTIONS = tuple(option for broker in BROKERS for option in broker.options)


class Scheme(NamedTuple):
    """The beginning of a broker's URL."""

    broker: Broker
    tls: bool
    usual_port: int


SCHEMES: Mapping[str, Scheme] = {
    "nats": Scheme(NATS, tls=False, usual_port=4222),
    "tls": Scheme(NATS, tls=True, usual_port=4222),
    "amqp": Scheme(AMQP, tls=False, usual_port=5672),
    "amqps": Scheme(AMQP, tls=True, usual_port=5671),
    "kafka": Scheme(KAFKA, tls=False, usual_port=9092),
    "kafka+ssl": Scheme(KAFKA, tls=True, usual_port=9093),
}


class BrokerTarget(NamedTuple):
    """Where a broker is, and who we are there."""

    broker: Broker
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    """The members of one cluster: any of them will do."""
    username: str | None
    password: str | None
    path: str
    """What follows the host: the virtual host of AMQP."""
    sasl: str
    """How Kafka is told the password."""


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
    path = unquote(parts.path.removeprefix("/"))
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    sasl = query.pop("sasl", SASL[0]) if broker is KAFKA else SASL[0]
    if query or parts.fragment or (path and broker is not AMQP):
        raise ValueError(f"has a part after the host that means nothing to {broker.name}: remove it")
    if sasl not in SASL:
        raise ValueError(f"has an unknown sasl: use {', '.join(SASL)}")
    if broker is not NATS and at and not colon:  # a token alone is of NATS
        raise ValueError("must have a password after the user, as in user:password@host")
    return BrokerTarget(
        broker=broker,
        tls=tls,
        hosts=tuple(_host(each, usual_port) for each in hosts.split(",")),
        username=unquote(name) if at else None,
        password=unquote(password) if colon else None,
        path=path,
        sasl=sasl,
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
            _fit_name(name, value, broker, of_its_own=not given.get("exchange"))


MISSING = {
    "nats": 'needs a subject, such as subject = "prioticket.{type}.{reference}"',
    "amqp": 'needs an exchange, or the name of a queue as routing_key, such as routing_key = "prioticket"',
    "kafka": 'needs a topic, such as topic = "prioticket"',
}


def _fit_name(option: str, template: str, broker: Broker, *, of_its_own: bool) -> None:
    """Checks a template. If it is `of_its_own`, a sender could choose any name by what it begins with."""
    allowed = {"exchange": (), "topic": ("type",)}.get(option, PLACES)
    places = PLACE.findall(template)
    fixed = PLACE.sub("", template)
    if "{" in fixed or "}" in fixed or not set(places) <= set(allowed):
        braces = " and ".join(f"{{{each}}}" for each in allowed)
        raise ValueError(
            f"{option} may have {braces}, and no other braces" if braces else f"{option} may have no braces"
        )
    if not fixed.isascii() or not fixed.isprintable():
        raise ValueError(f"{option} must be plain ASCII")
    if broker is KAFKA and not re.fullmatch(r"[A-Za-z0-9._-]*", fixed):
        raise ValueError(f"{option} must be of letters, digits, dots, dashes and underscores")
    if of_its_own and template.startswith("{"):
        raise ValueError(f"{option} must begin with a name of its own, such as prioticket.")
    if broker is NATS and (re.search(r"[ *>]", fixed) or "" in PLACE.sub("_", template).split(".")):
        raise ValueError(f"{option} must have names between its dots, without spaces, * and >")
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

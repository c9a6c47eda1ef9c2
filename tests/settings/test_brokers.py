import pytest
from pydantic import ValidationError

from app.settings import brokers
from app.settings.brokers import LONGEST_NAME, LONGEST_VALUE, broker_target
from app.settings.model import DestinationSettings
from app.settings.urls import masked


def refused(**settings: object) -> str:
    with pytest.raises(ValidationError) as caught:
        DestinationSettings.model_validate(settings)
    return str(caught.value)


def test_a_url_says_where_a_broker_is_and_who_signs_in():
    target = broker_target("nats://user:p%40ss%2Fword@one,two:4333,[::1]:4334")
    assert target.hosts == (("one", 4222), ("two", 4333), ("::1", 4334))
    assert (target.username, target.password, target.tls) == ("user", "p@ss/word", False)


@pytest.mark.parametrize(
    ("url", "tls", "port"),
    [
        ("nats://host", False, 4222),
        ("tls://host", True, 4222),
        ("amqp://host", False, 5672),
        ("amqps://host", True, 5671),
        ("kafka://host", False, 9092),
        ("kafka+ssl://host", True, 9093),
    ],
)
def test_the_scheme_says_whether_tls_is_used_and_which_port(url, tls, port):
    target = broker_target(url)
    assert (target.tls, target.hosts) == (tls, (("host", port),))


@pytest.mark.parametrize(
    "url", ["nats://:4222", "nats://host:0", "nats://host:x", "nats://one,,two", "nats://host:70000"]
)
def test_a_url_without_a_host_or_with_a_wrong_port_is_refused_and_not_repeated(url):
    assert "must have a host, and a port from 1 to 65535 if any" in refused(url=url, subject="orders")


@pytest.mark.parametrize(
    "url", ["nats://me:secret@host/path", "nats://me:secret@host?token=secret", "nats://me:secret@host#secret"]
)
def test_what_means_nothing_to_a_broker_is_refused_without_the_password(url):
    told = refused(url=url, subject="orders")
    assert "means nothing to NATS" in told
    assert "secret" not in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"url": "nats://host"}, "needs a subject"),
        ({"url": "https://host", "subject": "orders"}, "subject is only for a destination at nats:// or tls://"),
        (
            {"url": "nats://host", "subject": "orders.{id}"},
            "subject may have {type} and {reference}, and no other braces",
        ),
        ({"url": "nats://host", "subject": "orders.{type"}, "no other braces"),
        ({"url": "nats://host", "subject": "orders.*"}, "without spaces, * and >"),
        ({"url": "nats://host", "subject": "orders >"}, "without spaces, * and >"),
        ({"url": "nats://host", "subject": "orders.\r\n"}, "must be plain ASCII"),
        ({"url": "nats://host", "subject": "orders..new"}, "must have names between its dots"),
        ({"url": "nats://host", "subject": ".orders"}, "must have names between its dots"),
        ({"url": "nats://host", "subject": "{type}.{reference}"}, "must begin with a name of its own"),
        ({"url": "kafka://host"}, "needs a topic"),
        ({"url": "kafka://host", "topic": "orders.{reference}"}, "topic may have {type}, and no other braces"),
        ({"url": "kafka://host", "topic": "orders new"}, "must be of letters, digits, dots, dashes and underscores"),
        ({"url": "kafka://host", "topic": "{type}"}, "must begin with a name of its own"),
        ({"url": "kafka://me:secret@host?sasl=MD5", "topic": "orders"}, "has an unknown sasl"),
        ({"url": "kafka://host/orders", "topic": "orders"}, "means nothing to Kafka"),
        ({"url": "https://host", "topic": "orders"}, "topic is only for a destination at kafka:// or kafka+ssl://"),
        ({"url": "amqp://host"}, "needs an exchange, or the name of a queue as routing_key"),
        ({"url": "amqp://host", "subject": "orders"}, "subject is only for a destination at nats:// or tls://"),
        ({"url": "nats://host", "exchange": "orders"}, "exchange is only for a destination at amqp:// or amqps://"),
        ({"url": "amqp://host", "exchange": "orders.{type}"}, "exchange may have no braces"),
        ({"url": "amqp://host", "routing_key": "{type}"}, "must begin with a name of its own"),
        ({"url": "amqp://me@host", "exchange": "orders"}, "must have a password after the user"),
        ({"url": "amqp://host?heartbeat=0", "exchange": "orders"}, "means nothing to AMQP"),
        ({"url": "nats://host", "subject": "x" * (LONGEST_NAME + 1)}, "is too long"),
        ({"url": "nats://host", "subject": "x" * (LONGEST_NAME - LONGEST_VALUE + 1) + "{type}"}, "is too long"),
    ],
)
def test_what_does_not_fit_a_broker_is_refused_with_what_to_do(settings, told):
    assert told in refused(**settings)


def test_in_an_exchange_that_is_named_a_routing_key_may_begin_with_the_type():
    DestinationSettings(url="amqp://host/shop", exchange="orders", routing_key="{type}.{reference}")
    assert broker_target("amqp://host/a%2Fb").path == "a/b"


def test_without_the_extra_a_destination_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(
        brokers.SCHEMES, "nats", brokers.SCHEMES["nats"]._replace(broker=brokers.NATS._replace(package="gone"))
    )
    told = refused(url="nats://host", subject="orders")
    assert "needs a library for NATS that is not installed: pip install 'priohook[nats]'" in told


MASKED = {
    "nats://user:s,e@cret@one:4222,two:4222": "nats://user:***@one:4222,two:4222",
    "nats://token@host": "nats://***@host",
    "nats://one:4222,two:4222": "nats://one:4222,two:4222",
    "nats://user:se/cret@host": "nats://user:***",
}


@pytest.mark.parametrize(("url", "shown"), MASKED.items(), ids=MASKED)
def test_a_url_is_shown_without_its_credentials(url, shown):
    assert masked(url) == shown

"""Deliveries to a real RabbitMQ: what it confirms is in its queue, whatever happens to it."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

import aiormq
import pytest
from aiormq.abc import AbstractChannel, DeliveredMessage
from standardwebhooks import Webhook

from app.deliveries.results import Outcome
from app.deliveries.tables import AttemptResult
from app.deliveries.trial import send_test
from app.events.ids import new_id
from app.settings.model import DestinationSettings
from tests.e2e.brokers import LARGE, RabbitMQ, arrives, given_up, hanging_up, in_order, sending, until_delivered
from tests.e2e.conftest import configured
from tests.e2e.test_deliveries import SIGNING, send

CERTIFICATE = Path(__file__).with_name("untrusted.pem")


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"), certificate=CERTIFICATE)
    yield server
    server.close()


@pytest.fixture
async def channel(rabbitmq: RabbitMQ) -> AsyncIterator[AbstractChannel]:
    async with aiormq.connect(rabbitmq.url) as connection:
        yield await connection.channel()


@pytest.fixture
async def queue(channel: AbstractChannel) -> AsyncIterator[str]:
    """A durable queue that is bound to the exchange `orders` with `prioticket.#`."""
    await channel.exchange_declare("orders", exchange_type="topic", durable=True)
    await channel.queue_declare("prioticket", durable=True)
    await channel.queue_bind("prioticket", "orders", "prioticket.#")
    yield "prioticket"
    await channel.queue_delete("prioticket")
    await channel.exchange_delete("orders")


async def messages(channel: AbstractChannel, queue: str) -> list[DeliveredMessage]:
    """What is in the queue; it is empty then."""
    found = []
    while (message := await channel.basic_get(queue, no_ack=True)).delivery_tag:
        found.append(message)
    return found


async def test_the_exact_bytes_are_in_the_queue_with_the_headers_of_http(rabbitmq, channel, queue):
    body, delivery_id = bytes(range(256)), new_id()
    settings = {"exchange": "orders", "routing_key": "prioticket.{type}.{reference}", "headers": {"X-Tenant": "nl"}}
    async with sending(rabbitmq.url, **settings) as send:
        outcome = await send(body=body, delivery_id=delivery_id, reference="PRI.1 #")
    where = b"the exchange orders, routing key prioticket.ORDER_UPDATE.PRI%2E1%20%23"
    assert outcome == Outcome(AttemptResult.DELIVERED, 200, answer=where)
    (message,) = await messages(channel, queue)
    assert message.body == body
    properties: Any = message.header.properties
    assert (properties.delivery_mode, properties.message_id) == (2, str(delivery_id))
    assert properties.content_type == "application/json"
    expected = {"X-Tenant": "nl", "Priohook-Event-Type": "ORDER_UPDATE", "Priohook-Reference": "PRI.1 #"}
    assert expected.items() <= properties.headers.items()


async def test_a_message_is_signed_as_over_http(rabbitmq, channel, queue):
    async with sending(rabbitmq.url, routing_key=queue, secret=SIGNING) as send:
        assert (await send()).answer == b"the default exchange, routing key prioticket"
    (message,) = await messages(channel, queue)
    headers: Any = message.header.properties.headers
    Webhook(SIGNING).verify(message.body, headers)


async def test_a_message_that_no_queue_takes_is_refused_and_harms_no_other(rabbitmq, channel, queue):
    event_id = new_id()
    async with sending(rabbitmq.url, exchange="orders", routing_key="{type}.{reference}") as send:
        attempts = [send(type=event_type, event_id=event_id) for event_type in ("gone", "prioticket", "gone") * 5]
        outcomes = await asyncio.gather(*attempts)
    why = "No queue takes the routing key gone.PRI1 of the exchange orders: bind one."
    assert {(outcome.result, outcome.error) for outcome in outcomes[::3]} == {(AttemptResult.REFUSED, why)}
    assert [outcome.result for outcome in outcomes[1::3]] == [AttemptResult.DELIVERED] * 5
    assert outcomes[2::3] == outcomes[::3]
    assert len(await messages(channel, queue)) == 5


async def test_a_full_queue_refuses_and_takes_it_once_there_is_room(rabbitmq, channel):
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.queue_declare("small", durable=True, arguments=full)
    async with sending(rabbitmq.url, routing_key="small") as send:
        outcomes = [await send() for _ in range(3)]
        assert outcomes[0].result is AttemptResult.DELIVERED
        assert outcomes[-1].result is AttemptResult.REFUSED
        assert outcomes[-1].error == "A queue does not take it: it is full or not available. Consume its messages."
        await messages(channel, "small")
        assert (await send()).result is AttemptResult.DELIVERED
    await channel.queue_delete("small")


async def test_an_exchange_that_does_not_exist_is_named_and_used_once_it_does(rabbitmq, channel):
    async with sending(rabbitmq.url, exchange="later", routing_key="prioticket") as send:
        outcome = await send()
        assert outcome.result is AttemptResult.REFUSED
        assert "no exchange 'later'" in outcome.error
        await channel.exchange_declare("later", durable=True)
        assert "No queue takes the routing key prioticket of the exchange later" in (await send()).error
    await channel.exchange_delete("later")


async def test_a_wrong_password_and_a_virtual_host_that_does_not_exist_are_refused(rabbitmq):
    for login, path in (("guest:wrong-one", ""), ("guest:guest", "/nowhere")):
        url = f"amqp://{login}@127.0.0.1:{rabbitmq.port}{path}"
        async with sending(url, routing_key="prioticket") as send:
            outcome = await send()
        assert outcome.result is AttemptResult.REFUSED
        assert ("does not accept the user and password" if "wrong" in login else "nowhere") in outcome.error
        assert "wrong-one" not in outcome.error


async def test_tls_is_verified(rabbitmq, channel, queue, monkeypatch):
    async with sending(f"amqps://127.0.0.1:{rabbitmq.tls_port}", routing_key=queue) as send:
        untrusted = await send()
        assert untrusted.result is AttemptResult.UNREACHABLE
        assert "certificate verify failed" in untrusted.error
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert (await send()).result is AttemptResult.DELIVERED


async def test_a_frozen_broker_costs_the_timeout_and_what_is_sent_later_arrives(rabbitmq, channel, queue):
    async with sending(rabbitmq.url, routing_key=queue, timeout=0.5) as send:
        await arrives(send)
        rabbitmq.freeze()
        stuck, unconnected = await send(), await send()
        rabbitmq.thaw()
        await arrives(send)
    assert (stuck.result, stuck.error) == (
        AttemptResult.TIMED_OUT,
        "It did not confirm the message within 0.5 seconds.",
    )
    assert (unconnected.result, unconnected.error) == (
        AttemptResult.TIMED_OUT,
        "It could not be connected to within 0.5 seconds.",
    )


async def test_a_message_that_was_given_up_is_not_sent_once_the_broker_goes_on(rabbitmq, channel, queue):
    async with sending(rabbitmq.url, routing_key=queue, timeout=1.5) as send:
        await given_up(rabbitmq, send)
    assert max(len(each.body) for each in await messages(channel, queue)) < LARGE


async def test_a_host_that_hangs_up_costs_the_others_no_event(rabbitmq, channel, queue):
    async with hanging_up() as port, sending(f"amqp://127.0.0.1:{port}", routing_key=queue) as send:
        alone = await send()
        assert alone.result is AttemptResult.UNREACHABLE
        assert alone.error.startswith("It could not be connected to: Server connection unexpectedly closed")
        both = f"amqp://127.0.0.1:{port},127.0.0.1:{rabbitmq.port}"
        async with sending(both, routing_key=queue) as send_to_both:
            assert (await send_to_both()).result is AttemptResult.DELIVERED


async def test_a_broker_that_is_silent_does_not_hold_up_the_end(rabbitmq, queue, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    over = Event()

    def say_nothing(listener: socket.socket) -> None:
        with context.wrap_socket(listener.accept()[0], server_side=True):
            over.wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = Thread(target=say_nothing, args=(listener,))
        silent.start()
        for port in (rabbitmq.tls_port, listener.getsockname()[1]):
            async with sending(f"amqps://127.0.0.1:{port}", routing_key=queue, timeout=1) as send:
                outcome = await send()
                rabbitmq.freeze()
                began = monotonic()
            took = monotonic() - began
            rabbitmq.thaw()
            assert took < 15
        assert outcome.error == "It could not be connected to within 1 seconds."
        over.set()
        silent.join()


async def test_a_broker_that_blocks_publishers_is_told(rabbitmq, channel, queue):
    await asyncio.to_thread(rabbitmq.control, "set_vm_memory_high_watermark", "0.00001")
    async with sending(rabbitmq.url, routing_key=queue, timeout=3) as send:
        why = "It takes nothing from anybody: free memory or disk space there."
        assert await send() == Outcome(AttemptResult.TIMED_OUT, error=why)
        await asyncio.to_thread(rabbitmq.control, "set_vm_memory_high_watermark", "0.4")
        await arrives(send)


async def test_a_test_event_says_where_it_went(rabbitmq, channel, queue):
    settings = DestinationSettings(url=rabbitmq.url, routing_key=queue)
    trial = await send_test(settings, now=datetime.now(UTC))
    assert (trial.succeeded, trial.outcome.answer) == (True, b"the default exchange, routing key prioticket")


def test_a_broker_that_is_killed_under_load_has_every_event_in_order(sqlite_url, serve, priohook, rabbitmq):
    asyncio.run(declare(rabbitmq.url, "orders"))
    erp = {"url": rabbitmq.url, "routing_key": "orders", "timeout": 2, "max_in_flight": 16}
    settings = configured(sqlite_url, destinations=json.dumps({"erp": erp}))
    receiver = serve(with_worker=True, **settings)
    references = [f"P{number % 25}" for number in range(150)]
    ids = send(receiver, *references)
    rabbitmq.kill()
    ids += send(receiver, *references)
    rabbitmq.start()
    until_delivered(sqlite_url, len(ids), priohook, settings)
    in_order(asyncio.run(arrived(rabbitmq.url, "orders")), zip(references * 2, ids, strict=True))


async def declare(url: str, queue: str) -> None:
    async with aiormq.connect(url) as connection:
        await (await connection.channel()).queue_declare(queue, durable=True)


async def arrived(url: str, queue: str) -> list[tuple[str, str]]:
    """The reference and event of each message, in the queue's order."""
    async with aiormq.connect(url) as connection:
        found: list[Any] = [
            each.header.properties.headers for each in await messages(await connection.channel(), queue)
        ]
    return [(each["Priohook-Reference"], each["webhook-id"]) for each in found]

"""Deliveries over Kafka's protocol, to the cluster that librdkafka has for its own tests, read by librdkafka.

No package brings a real Kafka. So what happens when one dies is not tested here, nor is a sign-in that succeeds.
"""

import asyncio
import json
import socket
import ssl
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from standardwebhooks import Webhook

from app.deliveries.results import Outcome
from app.deliveries.tables import AttemptResult
from app.deliveries.trial import send_test
from app.settings.model import DestinationSettings
from tests.e2e.brokers import LARGE, MockKafka, arrives, free_port, given_up, in_order, sending, until_delivered
from tests.e2e.conftest import configured
from tests.e2e.proxy import Proxy
from tests.e2e.test_deliveries import SIGNING, send

CERTIFICATE = Path(__file__).with_name("untrusted.pem")
PARTITIONS = 4
PRODUCE, UNKNOWN_TOPIC, TOO_LARGE, TOO_FEW_REPLICAS, NOT_ALLOWED = 0, 3, 10, 19, 29
READ_WITHIN = 60.0  # seconds; a bound for a slow machine, never waited for


@pytest.fixture(scope="module")
def shared() -> Iterator[MockKafka]:
    cluster = MockKafka()
    yield cluster
    cluster.close()


@pytest.fixture
def topic(shared: MockKafka, request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    name = request.node.name
    shared.do("create", name, PARTITIONS)
    return str(name)


class Record(NamedTuple):
    """What was written to a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: dict[str, str]


def records(cluster: MockKafka, topic: str) -> list[Record]:
    """All records of a topic, each partition's in its order."""
    consumer = Consumer({"bootstrap.servers": cluster.servers, "group.id": "tests", "enable.auto.commit": False})
    partitions = [TopicPartition(topic, each, OFFSET_BEGINNING) for each in range(PARTITIONS)]
    number = sum(consumer.get_watermark_offsets(each, timeout=READ_WITHIN)[1] for each in partitions)
    consumer.assign(partitions)
    found: list[Record] = []
    ends = monotonic() + READ_WITHIN
    while len(found) < number:
        assert monotonic() < ends, f"{len(found)} of {number}"
        found += [_record(each) for each in consumer.consume(number - len(found), timeout=1) if each.error() is None]
    consumer.close()
    return found


def _record(message: Any) -> Record:
    headers = {name: value.decode() for name, value in message.headers()}
    return Record(message.partition(), message.offset(), message.key(), message.value(), headers)


async def test_the_exact_bytes_are_in_the_topic_with_the_headers_of_http(shared, topic):
    body = bytes(range(256))
    async with sending(shared.url, topic=topic, headers={"X-Tenant": "nl"}) as send:
        outcome = await send(body=body, reference="PRI.1 *")
    (record,) = await asyncio.to_thread(records, shared, topic)
    where = f"topic {topic}, partition {record.partition}, offset 0".encode()
    assert outcome == Outcome(AttemptResult.DELIVERED, 200, answer=where)
    assert (record.key, record.value) == (b"PRI.1 *", body)
    expected = {
        "Content-Type": "application/json",
        "X-Tenant": "nl",
        "Priohook-Event-Type": "ORDER_UPDATE",
        "Priohook-Reference": "PRI.1 *",
    }
    assert expected.items() <= record.headers.items()


async def test_a_record_is_signed_as_over_http(shared, topic):
    async with sending(shared.url, topic=topic, secret=SIGNING) as send:
        await send(reference=None)
    (record,) = await asyncio.to_thread(records, shared, topic)
    assert record.key is None
    Webhook(SIGNING).verify(record.value, record.headers)


async def test_the_records_of_an_order_are_in_one_partition(shared, topic):
    async with sending(shared.url, topic=topic) as send:
        await asyncio.gather(*(send(reference=f"P{number % 10}") for number in range(60)))
    partitions: dict[bytes | None, set[int]] = defaultdict(set)
    for record in await asyncio.to_thread(records, shared, topic):
        partitions[record.key].add(record.partition)
    assert {len(each) for each in partitions.values()} == {1}
    assert len(set.union(*partitions.values())) > 1


async def test_the_topic_may_have_the_type(shared):
    shared.do("create", "of.A.20B", PARTITIONS)
    async with sending(shared.url, topic="of.{type}") as send:
        assert (await send(type="A B")).result is AttemptResult.DELIVERED


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (UNKNOWN_TOPIC, "It has no topic {topic}: create it."),
        (NOT_ALLOWED, "The user may not write to the topic {topic}: allow it there."),
    ],
    ids=["unknown", "not_allowed"],
)
async def test_a_topic_that_cannot_be_written_to_is_told_and_taken_once_it_can(shared, code, told):
    topic = f"topic-{code}"
    shared.do("create", topic, PARTITIONS)
    shared.do("error", topic, code)
    async with sending(shared.url, topic=topic, timeout=4) as send:
        assert await send() == Outcome(AttemptResult.REFUSED, error=told.format(topic=topic))
        shared.do("error", topic, 0)
        await arrives(send)


async def test_a_record_that_is_too_large_is_refused_and_the_next_one_is_taken(shared, topic):
    shared.do("fail", PRODUCE, TOO_LARGE, 1)
    async with sending(shared.url, topic=topic) as send:
        outcome = await send()
        assert outcome.result is AttemptResult.REFUSED
        assert "raise max.message.bytes" in outcome.error
        assert (await send()).result is AttemptResult.DELIVERED


async def test_too_few_replicas_cost_time_but_no_second_record(shared, topic):
    shared.do("fail", PRODUCE, TOO_FEW_REPLICAS, 3)
    async with sending(shared.url, topic=topic) as send:
        assert (await send()).result is AttemptResult.DELIVERED
        assert (await send()).result is AttemptResult.DELIVERED
    assert len(await asyncio.to_thread(records, shared, topic)) == 2


async def test_a_frozen_cluster_costs_the_timeout_and_what_is_sent_later_arrives():
    cluster = MockKafka()
    try:
        cluster.do("create", "orders", PARTITIONS)
        async with sending(cluster.url, topic="orders", timeout=1) as send:
            await arrives(send)
            cluster.freeze()
            stuck, unconnected = await send(), await send()
            cluster.thaw()
            await arrives(send)
        assert (stuck.result, stuck.error) == (
            AttemptResult.TIMED_OUT,
            "It did not confirm the message within 1 seconds.",
        )
        assert unconnected.result is AttemptResult.TIMED_OUT
        async with asyncio.timeout(READ_WITHIN):
            while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - of the library, for what it gave up
                await asyncio.sleep(0.05)
    finally:
        cluster.close()


async def test_a_record_that_was_given_up_is_not_sent_once_the_cluster_goes_on():
    cluster = MockKafka()
    try:
        cluster.do("create", "orders", PARTITIONS)
        async with sending(cluster.url, topic="orders", timeout=1.5) as send:
            await given_up(cluster, send)
        found = await asyncio.to_thread(records, cluster, "orders")
        assert max(len(record.value) for record in found) < LARGE
    finally:
        cluster.close()


@pytest.mark.long
async def test_a_record_that_was_given_up_is_not_sent_on_a_new_connection_either(shared, topic, monkeypatch):
    """Only the record's broker is silent. The others still answer, so that the library has begun to send it again."""
    real, proxies = socket.getaddrinfo, {}
    async with AsyncExitStack() as running:
        for server in shared.servers.split(","):
            port = int(server.rpartition(":")[2])
            proxies[port] = await running.enter_async_context(Proxy(port).running())
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **more: real(host, proxies[port].port, **more))
        async with sending(shared.url, topic=topic, timeout=6) as send:
            await arrives(send)
            silent = proxies[await asyncio.to_thread(leader, shared, topic)]
            silent.stall()
            assert (await send(body=bytes(LARGE // 2))).result is AttemptResult.TIMED_OUT
            silent.resume()
            await arrives(send)
        async with asyncio.timeout(READ_WITHIN):
            await silent.until_unused()
    assert max(len(record.value) for record in await asyncio.to_thread(records, shared, topic)) < LARGE // 2


def leader(cluster: MockKafka, topic: str) -> int:
    """The port of the broker of the only partition of a topic that has records."""
    (partition,) = {record.partition for record in records(cluster, topic)}
    consumer = Consumer({"bootstrap.servers": cluster.servers, "group.id": "tests"})
    known = consumer.list_topics(topic, READ_WITHIN)
    consumer.close()
    return int(known.brokers[known.topics[topic].partitions[partition].leader].port)


async def test_a_silent_name_server_takes_none_of_the_threads_that_others_need(shared, topic, monkeypatch):
    real, threads = socket.getaddrinfo, set()

    def look_up(*arguments: Any, **options: Any) -> Any:
        threads.add(threading.current_thread().name)
        return real(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with sending(shared.url.replace("127.0.0.1", "localhost"), topic=topic) as send:
        assert (await send()).result is AttemptResult.DELIVERED
    assert threads == {"name-lookup"}


async def test_of_several_hosts_one_that_answers_is_used(shared, topic):
    nobody = free_port()
    async with sending(f"kafka://127.0.0.1:{nobody}", topic=topic) as send:
        away = await send()
        assert (away.result, away.error.split(":")[0]) == (AttemptResult.UNREACHABLE, "ConnectionRefusedError")
    async with sending(f"kafka://127.0.0.1:{nobody},{shared.servers}", topic=topic) as send:
        assert (await send()).result is AttemptResult.DELIVERED


async def test_the_certificate_is_verified():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        async with sending(f"kafka+ssl://me:secret@127.0.0.1:{port}", topic="orders") as send:
            outcome = await send()
    assert outcome.result is AttemptResult.UNREACHABLE
    assert "certificate verify failed" in outcome.error


async def test_a_wrong_password_is_refused_without_being_told():
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A broker that lets nobody in: ApiVersions, then SaslHandshake, then SaslAuthenticate, each in its frame."""
        versions = struct.pack(">hi" + "hhh" * 3, 0, 3, 18, 0, 0, 17, 0, 1, 36, 0, 0)
        mechanisms = struct.pack(">hih", 0, 1, 5) + b"PLAIN"
        refusal = struct.pack(">hh", 58, 7) + b"go away" + struct.pack(">i", 0)
        for body in (versions, mechanisms, refusal):
            request = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
            heard.append(request)
            frame = request[4:8] + body
            writer.write(len(frame).to_bytes(4) + frame)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with sending(f"kafka://me:p%40ss@127.0.0.1:{port}", topic="orders") as send:
            outcome = await send()
    assert outcome.result is AttemptResult.REFUSED
    assert outcome.error.startswith("It does not accept the user and password of the URL: ")
    assert "p@ss" not in outcome.error
    assert heard[-1].endswith(b"\0me\0p@ss")


async def test_a_test_event_says_where_it_went(shared, topic):
    trial = await send_test(DestinationSettings(url=shared.url, topic=topic), now=datetime.now(UTC))
    assert trial.succeeded
    assert (trial.outcome.answer or b"").startswith(f"topic {topic}, partition ".encode())


def test_a_cluster_that_freezes_under_load_has_every_event_in_order(sqlite_url, serve, priohook):
    cluster = MockKafka()
    try:
        cluster.do("create", "orders", PARTITIONS)
        erp = {"url": cluster.url, "topic": "orders", "timeout": 1, "max_in_flight": 16}
        settings = configured(sqlite_url, destinations=json.dumps({"erp": erp}))
        receiver = serve(with_worker=True, **settings)
        references = [f"P{number % 25}" for number in range(100)]
        ids = send(receiver, *references)
        cluster.freeze()
        ids += send(receiver, *references)
        sleep(1.5)  # longer than the timeout
        cluster.thaw()
        until_delivered(sqlite_url, len(ids), priohook, settings)
        found = [record.headers for record in records(cluster, "orders")]
        arrived = [(each["Priohook-Reference"], each["webhook-id"]) for each in found]
        in_order(arrived, zip(references * 2, ids, strict=True))
    finally:
        cluster.close()

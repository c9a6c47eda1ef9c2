"""Deliveries to a real NATS server with JetStream: what it confirms is in its stream, whatever happens to it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy, RawStreamMsg
from standardwebhooks import Webhook

from app.deliveries.results import Outcome
from app.deliveries.tables import AttemptResult
from app.deliveries.trial import send_test
from app.events.ids import new_id
from app.settings.model import DestinationSettings
from tests.e2e.brokers import (
    LARGE,
    NATSServer,
    arrives,
    free_port,
    given_up,
    hanging_up,
    in_order,
    sending,
    until_delivered,
)
from tests.e2e.conftest import configured
from tests.e2e.test_deliveries import SIGNING, send

CERTIFICATE = Path(__file__).with_name("untrusted.pem")
SUBJECT = "prioticket.{type}.{reference}"
USERS = """
authorization {
    users: [
        {user: "worker", password: "s3cr:t/@", permissions: {publish: ["prioticket.>", "$JS.API.>"]}},
        {user: "dumb", password: "dumb", permissions: {publish: {deny: ["prioticket.>"]}}},
    ]
}
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NATSServer]:
    server = NATSServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., NATSServer]]:
    """`start(more="…")` starts a server of the test's own."""
    running: list[NATSServer] = []

    def start(**options: Any) -> NATSServer:
        running.append(NATSServer(tmp_path / f"nats-{len(running)}", **options))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
async def streams(shared: NATSServer) -> AsyncIterator[nats.js.JetStreamContext]:
    """The streams of the shared server; all are gone at the end."""
    async with await nats.connect(shared.url) as client:
        context = client.jetstream()
        yield context
        for each in await context.streams_info():
            await context.delete_stream(str(each.config.name))


async def messages(context: nats.js.JetStreamContext, stream: str = "ORDERS") -> list[RawStreamMsg]:
    """All messages of a stream, in its order."""
    info = await context.stream_info(stream)
    numbers = range(info.state.first_seq, info.state.last_seq + 1) if info.state.messages else ()
    found = [await context.get_msg(stream, number) for number in numbers]
    return [each for each in found if each is not None]


async def test_the_exact_bytes_are_in_the_stream_with_the_headers_of_http(shared, streams):
    await streams.add_stream(name="ORDERS", subjects=["prioticket.>"])
    body, delivery_id = bytes(range(256)), new_id()
    async with sending(shared.url, headers={"X-Tenant": "nl"}, subject=SUBJECT) as send:
        outcome = await send(body=body, delivery_id=delivery_id, reference="PRI.1 *")
    assert outcome == Outcome(AttemptResult.DELIVERED, 200, answer=b"stream ORDERS, sequence 1")
    (message,) = await messages(streams)
    assert (message.subject, message.data) == ("prioticket.ORDER_UPDATE.PRI%2E1%20%2A", body)
    expected = {
        "Content-Type": "application/json",
        "X-Tenant": "nl",
        "Nats-Msg-Id": str(delivery_id),
        "Priohook-Event-Type": "ORDER_UPDATE",
        "Priohook-Reference": "PRI.1 *",
        "Priohook-Attempt": "1",
    }
    assert message.headers is not None
    assert expected.items() <= message.headers.items()


async def test_a_message_is_signed_as_over_http(shared, streams):
    await streams.add_stream(name="ORDERS", subjects=["prioticket.>"])
    async with sending(shared.url, secret=SIGNING, subject=SUBJECT) as send:
        await send()
    (message,) = await messages(streams)
    Webhook(SIGNING).verify(message.data or b"", message.headers or {})


async def test_a_repeated_attempt_is_stored_once_but_a_replay_again(shared, streams):
    await streams.add_stream(name="ORDERS", subjects=["prioticket.>"])
    delivery_id = new_id()
    async with sending(shared.url, subject=SUBJECT) as send:
        await send(delivery_id=delivery_id)
        repeated = await send(delivery_id=delivery_id, attempt=2)
        await send(replay_id=new_id())
    assert repeated.answer == b"stream ORDERS, sequence 1, which it already had"
    assert len(await messages(streams)) == 2


async def test_without_a_stream_it_says_so_and_delivers_once_there_is_one(shared, streams):
    async with sending(shared.url, subject=SUBJECT) as send:
        outcome = await send()
        why = "No stream takes the subject prioticket.ORDER_UPDATE.PRI1: add it to the subjects of one."
        assert outcome == Outcome(AttemptResult.REFUSED, error=why)
        await streams.add_stream(name="ORDERS", subjects=["prioticket.>"])
        assert (await send()).result is AttemptResult.DELIVERED


async def test_a_full_stream_refuses_and_takes_it_once_there_is_room(shared, streams):
    await streams.add_stream(name="ORDERS", subjects=["prioticket.>"], max_bytes=2000, discard=DiscardPolicy.NEW)
    async with sending(shared.url, subject=SUBJECT) as send:
        assert (await send(body=b"x" * 1200)).result is AttemptResult.DELIVERED
        outcome = await send(body=b"x" * 1200)
        assert outcome.result is AttemptResult.REFUSED
        assert outcome.error == "The stream does not take it: maximum bytes exceeded (10077)."
        await streams.purge_stream("ORDERS")
        assert (await send(body=b"x" * 1200)).result is AttemptResult.DELIVERED


async def test_a_message_over_the_limit_of_the_server_is_refused_and_harms_no_other(start):
    server = start(max_payload=4096)
    async with await nats.connect(server.url) as client, sending(server.url, subject=SUBJECT) as send:
        await client.jetstream().add_stream(name="ORDERS", subjects=["prioticket.>"])
        large, small = await asyncio.gather(send(body=b"x" * 3900), send())
    assert large.result is AttemptResult.REFUSED
    assert "raise max_payload" in large.error
    assert small.result is AttemptResult.DELIVERED


async def test_a_wrong_password_is_refused_without_being_told(start):
    server = start(more=USERS)
    for user in ("worker:wrong-one", "wrong-one"):
        async with sending(f"nats://{user}@127.0.0.1:{server.port}", subject=SUBJECT) as send:
            outcome = await send()
        assert outcome.result is AttemptResult.REFUSED
        assert outcome.error.startswith("It does not accept the user and password, or the token, of the URL: ")
        assert "wrong-one" not in outcome.error


async def test_a_user_signs_in_with_a_password_of_any_characters(start):
    server = start(more=USERS)
    async with sending(f"nats://worker:s3cr:t%2F%40@127.0.0.1:{server.port}", subject=SUBJECT) as send:
        assert "No stream takes" in (await send()).error


async def test_a_missing_permission_is_told_at_once(start):
    server = start(more=USERS)
    async with sending(f"nats://dumb:dumb@127.0.0.1:{server.port}", subject=SUBJECT) as send:
        began = monotonic()
        outcome = await send()
    assert monotonic() - began < 25
    assert outcome.error.lower().startswith("it did not confirm the message: it said permissions violation for publish")


async def test_a_frozen_server_costs_the_timeout_and_what_is_sent_later_arrives(start):
    server = start()
    async with await nats.connect(server.url) as client:
        context = client.jetstream()
        await context.add_stream(name="ORDERS", subjects=["prioticket.>"])
        async with sending(server.url, timeout=0.5, subject=SUBJECT) as send:
            await arrives(send, delivery_id=new_id())
            server.freeze()
            delivery_id = new_id()
            stuck, unconnected = await send(delivery_id=delivery_id), await send(delivery_id=delivery_id)
            server.thaw()
            await arrives(send, delivery_id=delivery_id)
        assert (stuck.result, stuck.error) == (
            AttemptResult.TIMED_OUT,
            "It did not confirm the message within 0.5 seconds.",
        )
        assert (unconnected.result, unconnected.error) == (
            AttemptResult.TIMED_OUT,
            "It could not be connected to within 0.5 seconds.",
        )
        assert len(await messages(context)) == 2


async def test_a_message_that_was_given_up_is_not_sent_once_the_server_goes_on(start):
    server = start(max_payload=LARGE + 4096)
    async with await nats.connect(server.url) as client:
        context = client.jetstream()
        await context.add_stream(name="ORDERS", subjects=["prioticket.>"])
        async with sending(server.url, timeout=1.5, subject=SUBJECT) as send:
            await given_up(server, send)
        assert max(len(each.data or b"") for each in await messages(context)) < LARGE


async def test_a_worker_that_was_held_up_sends_nothing(shared, streams):
    await streams.add_stream(name="ORDERS", subjects=["prioticket.>"])
    async with sending(shared.url, timeout=0.5, subject=SUBJECT) as send:
        await arrives(send)
        sent = len(await messages(streams))
        asyncio.get_running_loop().call_soon(time.sleep, 0.6)
        outcome = await send()
    assert outcome == Outcome(AttemptResult.TIMED_OUT, error="It could not be asked within 0.5 seconds.")
    assert len(await messages(streams)) == sent


async def test_a_server_that_dies_is_noticed_before_the_timeout_and_the_next_attempt_finds_it_again(start):
    server = start()
    async with sending(server.url, timeout=120, subject=SUBJECT) as send:
        await send()
        server.freeze()
        attempt = asyncio.create_task(send())
        await asyncio.sleep(0.2)
        server.kill()
        outcome = await attempt
        assert outcome == Outcome(
            AttemptResult.UNREACHABLE, error="It did not confirm the message: it closed the connection."
        )
        away = await send()
        assert away.result is AttemptResult.UNREACHABLE
        assert away.error.startswith("ConnectionRefusedError")
        await asyncio.to_thread(server.start)
        assert "No stream takes" in (await send()).error


async def test_a_server_that_was_restarted_between_two_attempts_costs_none(start):
    server = start()
    async with sending(server.url, subject=SUBJECT) as send:
        await send()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await asyncio.sleep(0.1)
        assert "No stream takes" in (await send()).error


async def test_of_several_hosts_one_that_answers_is_used(shared, streams):
    await streams.add_stream(name="ORDERS", subjects=["prioticket.>"])
    url = f"nats://127.0.0.1:{free_port()},127.0.0.1:{shared.port}"
    async with sending(url, subject=SUBJECT) as send:
        assert (await send()).result is AttemptResult.DELIVERED


async def test_a_host_that_hangs_up_or_refuses_costs_the_others_no_event(start, shared, streams):
    await streams.add_stream(name="ORDERS", subjects=["prioticket.>"])
    async with hanging_up() as port, sending(f"nats://127.0.0.1:{port}", subject=SUBJECT) as send:
        assert await send() == Outcome(AttemptResult.UNREACHABLE, error="It closed the connection.")
        both = f"nats://127.0.0.1:{port},127.0.0.1:{shared.port}"
        async with sending(both, subject=SUBJECT) as send_to_both:
            assert (await send_to_both()).result is AttemptResult.DELIVERED
    refuses = start(more=USERS).port
    async with sending(f"nats://me:wrong@127.0.0.1:{refuses},127.0.0.1:{shared.port}", subject=SUBJECT) as send:
        outcomes = [await send(), await send()]
    assert [each.result for each in outcomes] == [AttemptResult.REFUSED, AttemptResult.DELIVERED]


async def test_an_answer_that_is_not_jetstreams_delivers_nothing(shared):
    answers = [b"", b"thanks", b"{}", b"[]", b"7", b"\xff", b'{"error": "no"}', b'{"error": {}}']
    async with await nats.connect(shared.url) as client, sending(shared.url, subject=SUBJECT) as send:
        left = iter(answers)

        async def answer(message: Msg) -> None:
            await message.respond(next(left))

        await client.subscribe("prioticket.>", cb=answer)
        await client.flush()
        outcomes = [await send() for _ in answers]
    why = "Something other than JetStream answers at the subject prioticket.ORDER_UPDATE.PRI1."
    assert outcomes == [Outcome(AttemptResult.REFUSED, error=why)] * len(answers)


async def test_tls_is_verified(start, monkeypatch):
    server = start(more=f'tls {{ cert_file: "{CERTIFICATE}", key_file: "{CERTIFICATE}" }}')
    async with sending(f"tls://127.0.0.1:{server.port}", subject=SUBJECT) as send:
        untrusted = await send()
        assert untrusted.result is AttemptResult.UNREACHABLE
        assert "certificate verify failed" in untrusted.error
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert "No stream takes" in (await send()).error
    async with sending(f"tls://localhost:{server.port}", subject=SUBJECT) as send:
        assert "certificate" in (await send()).error


async def test_a_server_without_tls_gets_no_password_if_the_url_asks_for_tls():
    heard = bytearray()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.9.10","headers":true,"max_payload":1048576}\r\n')
        heard.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with sending(f"tls://worker:secret@127.0.0.1:{port}", subject=SUBJECT) as send:
            outcome = await send()
    assert outcome.error.startswith("It offers no TLS, and nothing was sent to it")
    assert heard == b""


async def test_a_test_event_says_where_it_went(shared, streams):
    await streams.add_stream(name="ORDERS", subjects=["prioticket.>"])
    settings = DestinationSettings(url=shared.url, subject=SUBJECT)
    trial = await send_test(settings, now=datetime.now(UTC))
    assert (trial.succeeded, trial.outcome.answer) == (True, b"stream ORDERS, sequence 1")
    (message,) = await messages(streams)
    assert message.subject == "prioticket.PRIOHOOK_TEST._"


def test_a_server_that_is_killed_under_load_has_every_event_in_order(sqlite_url, serve, priohook, start):
    server = start()
    asyncio.run(add_stream(server.port))
    erp = {"url": server.url, "subject": SUBJECT, "timeout": 2, "max_in_flight": 16}
    settings = configured(sqlite_url, destinations=json.dumps({"erp": erp}))
    receiver = serve(with_worker=True, **settings)
    references = [f"P{number % 25}" for number in range(150)]
    ids = send(receiver, *references)
    server.kill()
    ids += send(receiver, *references)
    server.start()
    until_delivered(sqlite_url, len(ids), priohook, settings)
    once = asyncio.run(arrived(server.port))
    in_order(once, zip(references * 2, ids, strict=True))
    done = priohook("replay", "--since", "1h", "--to", "erp", "--rate", "1000", "--yes", **settings)
    assert done.returncode == 0, done.stderr
    until_delivered(sqlite_url, 2 * len(ids), priohook, settings)
    again = asyncio.run(arrived(server.port))[len(once) :]
    in_order(again, zip(references * 2, ids, strict=True))


async def add_stream(port: int) -> None:
    async with await nats.connect(f"nats://127.0.0.1:{port}") as client:
        await client.jetstream().add_stream(name="ORDERS", subjects=["prioticket.>"])


async def arrived(port: int) -> list[tuple[str, str]]:
    """The reference and event of each message, in the stream's order."""
    async with await nats.connect(f"nats://127.0.0.1:{port}") as client:
        found = [each.headers or {} for each in await messages(client.jetstream())]
    return [(each["Priohook-Reference"], each["webhook-id"]) for each in found]

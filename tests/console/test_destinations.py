from datetime import UTC, datetime, timedelta

import pytest

from app.settings.model import DestinationSettings
from tests.conftest import SECRET
from tests.console.conftest import Browser, sign_in
from tests.console.test_deliveries import HOSTILE, actions, dead, held
from tests.deliveries.destinations.test_http import SECRET as SIGNING
from tests.deliveries.destinations.test_http import consumer

__all__ = ["held"]


async def failing(workers) -> None:
    """Opens the circuit of `erp`."""
    for number in range(12):
        await workers.store(f"R{number}")
    await workers.dispatch()
    for _ in range(4):
        claims = (await workers.turn()).claims
        workers.wait(20)
        await workers.turn(
            *(workers.ended(claim, 500, error=HOSTILE) for claim in claims),
            limits=workers.limits._replace(max_in_flight=0),
        )


async def test_the_list_says_which_consumer_fails_since_when_and_with_what(desk, workers):
    await failing(workers)
    page = await desk.see("/console/destinations")
    assert "circuit open" in page
    assert "failing since <time" in page
    assert "refused" in page
    assert "<script>alert" not in page
    assert "ready" in page  # the other one
    assert "secret" not in page


async def test_a_page_says_what_to_do_about_an_open_circuit(desk, workers):
    await failing(workers)
    page = await desk.see("/console/destinations/erp")
    assert "Repair it, then resume" in page
    assert "priohook destinations resume erp" in page
    assert "Held back" in page
    assert "Last attempts" in page
    assert "95 of 100 took" in page


async def test_a_page_says_which_order_is_held_back_by_what(desk, held):
    page = await desk.see("/console/destinations/erp")
    assert "Some deliveries fail and are tried again." in page
    assert f'href="/console/deliveries/{held[0]}"' in page
    assert 'href="/console/orders/A%26B"' in page
    assert "/console/deliveries/group?destination=erp&amp;status=pending" in page


async def test_the_settings_are_shown_without_secrets(database_url, start):
    url = "https://me:pass-word@erp.example/hook/t0ken?key=s3cret"
    settings = {"url": url, "secret": SIGNING, "headers": {"X-Key": "hidden-value"}, "rate": 2.5, "events": ["ORDER_*"]}
    destinations = {"erp": DestinationSettings.model_validate(settings)}
    async with start(database_url, destinations=destinations) as client:
        await sign_in(client, "onlooker")
        page = await Browser(client).see("/console/destinations/erp")
    assert "https://me:***@erp.example/***?key=***" in page
    assert "X-Key" in page
    assert "2.5 a second at most" in page
    assert "hmac.compare_digest" in page
    for secret in ("pass-word", "t0ken", "s3cret", "hidden-value", SIGNING, SECRET):
        assert secret not in page


async def test_a_destination_is_paused_with_a_reason_and_resumed(desk, workers):
    await workers.register("erp")
    done = await desk.send("/console/destinations/erp/pause", reason="Upgrade <b>tonight</b>.")
    page = await desk.see(done.headers["Location"])
    assert "The destination is paused" in page
    assert "by <bdi>desk</bdi>" in page
    assert "Upgrade &lt;b&gt;tonight&lt;/b&gt;." in page
    assert (await workers.destination()).paused_at is not None
    done = await desk.send("/console/destinations/erp/resume")
    assert "The destination is resumed" in await desk.see(done.headers["Location"])
    assert (await workers.destination()).paused_at is None
    assert await actions(desk) == [
        ("resume", "console", "desk", None),
        ("pause", "console", "desk", "Upgrade <b>tonight</b>."),
    ]


async def test_one_that_no_worker_has_seen_is_shown_and_can_be_paused(desk, workers):
    assert "No worker has seen it yet" in await desk.see("/console/destinations/new")
    await desk.send("/console/destinations/new/pause")
    assert "Paused by desk in the console." in await desk.see("/console/destinations/new")


async def test_one_that_answered_410_was_paused_by_nobody(desk, workers):
    await workers.store("A")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 410))
    page = await desk.see("/console/destinations/erp")
    assert "It answered 410 Gone" in page
    assert " by <bdi>" not in page


async def test_what_is_dead_leads_to_all_of_it(desk, workers):
    await dead(workers, 2)
    page = await desk.see("/console/destinations/erp")
    assert "2 deliveries are dead" in page
    assert "Newest dead" in page
    assert 'href="/console/deliveries/group?destination=erp&amp;status=dead"' in page
    assert "Retry all" in await desk.see("/console/deliveries/group?destination=erp&status=dead")


async def test_a_destination_that_is_a_url_has_a_page(desk, workers):
    await workers.register("http://laptop:8080/hook")
    page = await desk.see("/console/destinations")
    assert 'href="/console/destinations/http%3A%2F%2Flaptop%3A8080%2Fhook"' in page
    await desk.see("/console/destinations/http%3A%2F%2Flaptop%3A8080%2Fhook")
    await desk.send("/console/destinations/http%3A%2F%2Flaptop%3A8080%2Fhook/pause")
    assert "Resume" in await desk.see("/console/destinations/http%3A%2F%2Flaptop%3A8080%2Fhook")


@pytest.mark.parametrize("name", ["other", "%00", "erp/"])
async def test_an_unknown_destination_is_404(desk, name):
    await desk.see(f"/console/destinations/{name}", status=404)
    for act in ("pause", "resume", "test"):
        await desk.send(f"/console/destinations/{name}/{act}", status=404)


async def test_a_client_that_may_not_act_sees_no_button_and_is_refused(signed_in, workers):
    await workers.register("erp")
    onlooker = await signed_in("onlooker")
    page = await onlooker.see("/console/destinations/erp")
    assert "<summary>Pause" not in page
    assert "<summary>Send a test event" not in page
    for act in ("pause", "resume", "test"):
        await onlooker.send(f"/console/destinations/erp/{act}", status=403)


async def test_a_test_event_shows_what_the_consumer_answered_and_is_stored_nowhere(database_url, start, workers):
    answer = HOSTILE.encode()
    head = b"HTTP/1.1 500 Broken\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(answer)
    async with consumer(head + answer) as seen:
        destinations = {"erp": DestinationSettings.model_validate({"url": seen.url, "secret": SIGNING})}
        async with start(database_url, destinations=destinations) as client:
            await sign_in(client, "desk")
            desk = Browser(client)
            assert "Send a test event" in await desk.see("/console/destinations/erp")
            page = (await desk.send("/console/destinations/erp/test", status=200, reason="After the upgrade.")).text
            assert await actions(desk) == [("test", "console", "desk", "After the upgrade.")]
    assert "did not take the test event" in page
    assert "500" in page
    assert "&lt;script&gt;alert(" in page
    assert "<script>alert" not in page
    assert seen.headers[0]["Priohook-Test"] == "true"
    assert await workers.deliveries() == []
    assert await workers.undispatched() == []


async def test_a_function_is_tested_beside_its_worker(database_url, start):
    destinations = {"gate": DestinationSettings(url="python:tickets:handle")}
    async with start(database_url, destinations=destinations) as client:
        await sign_in(client, "desk")
        desk = Browser(client)
        assert "Send a test event" not in await desk.see("/console/destinations/gate")
        refused = await desk.send("/console/destinations/gate/test", status=409)
        assert "priohook destinations test" in refused.text


async def test_the_names_at_a_broker_are_shown(database_url, start):
    url, exchange, key = "amqp://me:pass-word@broker.example/shop", "orders", "prioticket.{type}"
    destinations = {"erp": DestinationSettings(url=url, exchange=exchange, routing_key=key)}
    async with start(database_url, destinations=destinations) as client:
        await sign_in(client, "onlooker")
        page = await Browser(client).see("/console/destinations/erp")
    assert "<dt>Routing key</dt><dd><bdi>prioticket.{type}</bdi></dd>" in page
    assert "amqp://me:***@broker.example/***" in page
    assert "pass-word" not in page


async def test_without_a_destination_the_page_says_how_to_add_one(database_url, start):
    async with start(database_url) as client:
        await sign_in(client, "onlooker")
        assert "[destinations.NAME]" in await Browser(client).see("/console/destinations")


async def test_the_last_success_stands_beside_the_last_failure(desk, workers):
    workers.now = datetime.now(UTC) - timedelta(minutes=5)
    for reference, status in (("A", 200), ("B", 404)):
        await workers.store(reference)
        await workers.dispatch()
        (claim,) = (await workers.turn()).claims
        await workers.turn(workers.ended(claim, status), limits=workers.limits._replace(max_in_flight=0))
    page = await desk.see("/console/destinations")
    row = page.partition('data-name="Last success"')[2]
    assert row.index("<time") < row.index("Last failure") < row.index("404")

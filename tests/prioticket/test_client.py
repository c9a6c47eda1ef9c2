import asyncio
import json
import logging
from base64 import b64encode
from collections import Counter
from datetime import timedelta
from urllib.parse import quote

import pytest

from app.prioticket.errors import CredentialsRefused, NotFound, PrioticketError, Refused, Unavailable, Unreadable
from app.prioticket.webhooks import EVENTS, registration
from tests.prioticket.fake import API_KEY, CLIENT_ID, CLIENT_SECRET, START, Fake

LONG_AGO = START - timedelta(days=400)


def asked_of_a_token(fake: Fake) -> list[str]:
    return [headers["Authorization"] for _, url, headers in fake.sent if url.endswith("/oauth2/token")]


async def all_references(fake: Fake, **settings: object) -> list[str]:
    async with fake.client(**settings) as client:
        pages = client.order_pages(created_from=LONG_AGO)
        return [item["order_reference"] async for page in pages for item in page.items]


async def test_an_order_is_the_exact_bytes_of_the_answer():
    fake = Fake(kind="location")
    (reference, *_) = fake.orders(5)
    async with fake.client() as client:
        order = await client.order(reference)
    assert order.order == fake.book.order(reference)
    assert json.loads(order.body)["data"] == {"kind": "location", "order": order.order}
    assert rb"\/" in order.body or b"/" not in order.body
    assert order.content_type == "application/json"


async def test_an_order_is_never_a_cached_one():
    fake = Fake()
    (reference, *_) = fake.orders(1)
    while fake.book.order(reference) == fake.book.order(reference, at=START):
        fake.seconds += 1
        fake.book.advance()
    async with fake.client() as client:
        assert (await client.order(reference)).order == fake.book.order(reference)


async def test_an_older_version_can_be_had():
    fake = Fake()
    fake.orders(200)
    order = next(each for each in fake.book.newest() if each["order_version"] > 2)
    async with fake.client() as client:
        older = await client.order(order["order_reference"], version=2)
    assert older.order["order_version"] == 2


@pytest.mark.parametrize("status", [400, 404, 410, 422])
async def test_an_unknown_order_is_not_found_whatever_the_status(status):
    fake = Fake(unknown=status)
    async with fake.client() as client:
        with pytest.raises(NotFound, match=rf"no such order.*: {status} INVALID_REQUEST.*error_reference") as raised:
            await client.order("PRI-nothing")
    assert raised.value.reference in str(raised.value)
    assert len(fake.paths()) == 1


@pytest.mark.parametrize("reference", ["a/b?c#d", "p%2Fq+r s", "é" * 30])
async def test_a_reference_is_opaque(reference):
    fake = Fake()
    async with fake.client() as client:
        with pytest.raises(NotFound):
            await client.order(reference)
    assert fake.api.requests[-1] == ("GET", f"/orders/{reference}")


@pytest.mark.parametrize("reference", ["", "..", "a\nb", "x" * 256])
async def test_what_cannot_be_a_reference_is_not_asked_for(reference):
    fake = Fake()
    async with fake.client() as client:
        with pytest.raises(ValueError, match="cannot be a reference"):
            await client.order(reference)
    assert fake.sent == []


async def test_every_request_says_who_asks_and_has_a_reference_of_its_own():
    fake = Fake()
    fake.orders(3)
    async with fake.client(api_key=API_KEY) as client:
        for order in fake.book.newest():
            await client.order(order["order_reference"])
    assert {headers["App-Name"] for *_, headers in fake.sent} == {"priohook"}
    assert len({headers["App-Reference"] for *_, headers in fake.sent}) == len(fake.sent)
    keyed = [quote(API_KEY, safe="") in url for _, url, _ in fake.sent]
    assert keyed == [False] + [True] * (len(keyed) - 1)


async def test_the_key_is_checked_in_production():
    fake = Fake(api_key=API_KEY)
    (reference, *_) = fake.orders(1)
    async with fake.client(api_key=API_KEY) as client:
        await client.order(reference)
    async with fake.client() as client:
        with pytest.raises(Refused, match="403 FORBIDDEN"):
            await client.order(reference)


@pytest.mark.slow
async def test_a_list_has_each_order_once_however_many_pages_it_has():
    fake = Fake()
    references = fake.orders(1500)
    assert len(references) > 200
    assert await all_references(fake) == references
    assert len(fake.paths()) == -(-len(references) // 100)


@pytest.mark.slow
async def test_a_list_loses_nothing_while_orders_change_and_come():
    fake = Fake()
    before = fake.orders(1000)
    async with fake.client() as client:
        listed = []
        async for page in client.order_pages(created_from=LONG_AGO, modified_since=LONG_AGO):
            listed += [item["order_reference"] for item in page.items]
            fake.seconds += 5
            fake.orders(50)
    assert set(before) <= set(listed)


async def test_a_list_says_only_what_was_modified_and_how_many_there_are():
    fake = Fake()
    fake.orders(100)
    fake.seconds = 3600
    changed = set(fake.orders(20))
    async with fake.client() as client:
        pages = [
            page
            async for page in client.order_pages(
                created_from=LONG_AGO, modified_since=START + timedelta(seconds=1), more=[("order_reference", "nobody")]
            )
        ]
        assert [(page.items, page.total_items, page.last) for page in pages] == [([], 0, True)]
        async for page in client.order_pages(created_from=LONG_AGO, modified_since=START + timedelta(seconds=1)):
            found = {item["order_reference"] for item in page.items}
            assert page.total_items == len(found)
    assert found <= changed


async def test_one_token_serves_an_hour_however_many_ask_at_once():
    fake = Fake()
    references = fake.orders(60)
    async with fake.client() as client:
        await asyncio.gather(*(client.order(reference) for reference in references))
        fake.seconds = 3600 - 301
        await client.order(references[0])
        assert fake.tokens == 1
        fake.seconds = 3600 - 299
        await client.order(references[0])
        assert fake.tokens == 2


@pytest.mark.slow
@pytest.mark.parametrize("expires_in", [2, "2"])
async def test_a_token_that_ends_in_the_middle_of_a_list_is_renewed(expires_in):
    fake = Fake(expires_in=expires_in)
    references = fake.orders(1200)
    assert await all_references(fake, rate=2) == references
    assert fake.tokens > 1


async def test_a_revoked_token_is_replaced_once_and_not_twice():
    fake = Fake()
    (reference, *_) = fake.orders(1)
    async with fake.client() as client:
        await client.order(reference)
        fake.api.tokens.clear()
        await client.order(reference)
        assert fake.tokens == 2
        fake.behaviour.expires_in = 0.0000001
        fake.api.tokens.clear()
        with pytest.raises(Refused, match="401"):
            await client.order(reference)
    assert fake.tokens == 3


async def test_refused_credentials_are_tried_once_in_a_quarter_of_an_hour():
    fake = Fake()
    async with fake.client(client_secret="another-one") as client:
        for _ in range(5):
            with pytest.raises(CredentialsRefused, match=r"check client_id.*401 invalid_client"):
                await client.order("PRI00000001")
            fake.seconds += 170
        assert fake.tokens == 1
        fake.seconds += 60
        with pytest.raises(CredentialsRefused):
            await client.order("PRI00000001")
    assert fake.tokens == 2


@pytest.mark.parametrize("fault", ["500", "502", "503", "504"])
async def test_a_fault_that_passes_costs_repeats_only(fault):
    fake = Fake(faults=[f"/orders/*={fault}#5"])
    (reference, *_) = fake.orders(1)
    async with fake.client() as client:
        await client.order(reference)
    assert len(fake.paths()) == 6
    assert sum(fake.waits) < 1 + 2 + 4 + 8 + 16 + 1


async def test_a_fault_that_stays_is_unavailable_after_five_repeats():
    fake = Fake(faults=["/orders/*=503"])
    async with fake.client() as client:
        with pytest.raises(Unavailable, match="could not answer: 503 FAULT"):
            await client.order("PRI00000001")
    assert len(fake.paths()) == 6


@pytest.mark.parametrize(("fault", "seconds"), [("429:7", 7), ("429", 60), ("429:86400", 600)])
async def test_too_many_requests_wait_as_long_as_they_are_told(fault, seconds):
    fake = Fake(faults=[f"/orders/*={fault}#2"])
    (reference, *_) = fake.orders(1)
    async with fake.client() as client:
        await client.order(reference)
    assert [round(wait) for wait in fake.waits].count(seconds) == 2


async def test_too_many_requests_hold_up_those_that_come_after_them():
    fake = Fake(faults=["/orders/*=429:7#1"])
    (reference, *_) = fake.orders(1)
    async with fake.client() as client:
        await client.webhooks()
        began = fake.seconds
        await asyncio.gather(*(client.order(reference) for _ in range(5)))
    assert 7 < fake.seconds - began < 9, "they wait together"


async def test_too_many_requests_for_a_token_are_no_refusal_of_the_credentials():
    fake = Fake(faults=["/oauth2/token=429:1#6"])
    async with fake.client() as client:
        with pytest.raises(Refused, match="429") as raised:
            await client.webhooks()
        assert not isinstance(raised.value, CredentialsRefused)
        assert await client.webhooks() == []


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("redirect", "307, a redirect, which is not followed"),
        ("html", "is not JSON of its API. It begins: <html>"),
        ("error", "200 INTERNAL_SERVER_ERROR: Something went wrong"),
    ],
)
async def test_an_answer_that_is_none_is_an_error_and_not_repeated(fault, error):
    fake = Fake(faults=[f"/orders/*={fault}"])
    async with fake.client() as client:
        with pytest.raises((Unreadable, Refused), match=error):
            await client.order("PRI00000001")
    assert len(fake.paths()) == 1
    assert len(fake.sent) == 2


async def test_many_refusals_make_it_pause_before_the_address_is_blocked():
    fake = Fake()
    async with fake.client() as client:
        began = fake.seconds
        for number in range(45):
            with pytest.raises(NotFound):
                await client.order(f"PRI{number:08}")
    assert fake.seconds - began > 120
    assert max(Counter(int(wait // 60) for wait in fake.waits)) == 1


async def test_requests_keep_the_rate():
    fake = Fake()
    (reference, *_) = fake.orders(1)
    async with fake.client(rate=5) as client:
        await asyncio.gather(*(client.order(reference) for _ in range(50)))
    assert 9 < fake.seconds < 11


async def test_a_payment_is_found_by_its_id():
    fake = Fake()
    fake.orders(300)
    payment = next(iter(fake.book.payments()))
    async with fake.client() as client:
        (found,) = await client.payments(payment["payment_id"])
        assert await client.payments("nothing") == []
    assert found["payment_order_reference"] == payment["payment_order_reference"]


def asked(**values: object) -> dict[str, object]:
    url = "https://hooks.example.com/webhooks/prioticket"
    return (
        registration(url, EVENTS, username="prioticket", secret="swordfish-swordfish", payload=True, email=None)
        | values
    )


async def test_a_webhook_is_registered_listed_and_deleted():
    fake = Fake(shows_auth=True)
    async with fake.client() as client:
        made = await client.register_webhook(asked())
        assert await client.webhooks() == [made]
        assert (made.status, made.payload, made.events, made.enabled) == ("ENABLED", True, EVENTS, True)
        assert fake.webhooks.all()[0]["webhook_auth"] == b64encode(b"prioticket:swordfish-swordfish").decode()
        fake.webhooks.disable(made.id)
        assert [webhook.enabled for webhook in await client.webhooks()] == [False]
        await client.delete_webhook(made.id)
        with pytest.raises(Refused, match="404"):
            await client.delete_webhook(made.id)
    assert "c3dvcmRm" not in repr(made)


async def test_all_pages_of_webhooks_are_listed():
    fake = Fake()
    for _ in range(450):
        fake.webhooks.add(asked(), now=START)
    async with fake.client() as client:
        assert len({webhook.id for webhook in await client.webhooks()}) == 450


async def test_a_registration_that_may_have_been_carried_out_is_not_repeated():
    fake = Fake()
    fake.lost_answers = 1
    async with fake.client() as client:
        with pytest.raises(Unavailable, match="did not answer"):
            await client.register_webhook(asked())
    assert len(fake.webhooks) == 1


async def test_what_a_webhook_lacks_is_said():
    fake = Fake()
    async with fake.client() as client:
        with pytest.raises(Refused, match="400 INVALID_REQUEST: webhook_events has unknown values: ORDER_EATEN"):
            await client.register_webhook(asked(webhook_events=["ORDER_EATEN"]))


async def test_nothing_that_is_logged_or_raised_holds_a_secret(caplog):
    caplog.set_level(logging.DEBUG)
    fake = Fake(api_key=API_KEY, faults=["/orders/slow=503#1", "/orders/page=html"])
    errors: list[PrioticketError] = []
    async with fake.client(api_key=API_KEY) as client:
        for reference in ("slow", "page", "nothing", quote(API_KEY, safe="")):
            try:
                await client.order(reference)
            except PrioticketError as error:
                errors.append(error)
    async with fake.client(api_key="wrong-key-hidden") as client:
        with pytest.raises(Refused) as refused:
            await client.order("nothing")
    async with fake.client(client_secret="wrong-secret-hidden") as client:
        with pytest.raises(CredentialsRefused) as credentials:
            await client.order("nothing")
    errors += [refused.value, credentials.value]
    ours = [str(record.__dict__) for record in caplog.records if not record.name.startswith("httpx2")]
    everything = "".join([*ours, *(repr(error) + str(error.__dict__) for error in errors)])
    assert "prioticket_request" in everything
    basic = b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
    secrets = [CLIENT_SECRET, API_KEY, basic, "hidden", *fake.api.tokens]
    assert [secret for secret in secrets if secret in everything] == []


@pytest.mark.parametrize("status", [200, 400, 503])
async def test_an_answer_that_repeats_the_secrets_is_quoted_without_them(status):
    fake = Fake()
    async with fake.client(api_key=API_KEY) as client:
        await client.webhooks()
        (token,) = fake.api.tokens
        said = f"{CLIENT_SECRET} {API_KEY} {quote(API_KEY, safe='')} {token}"
        for content in (said.encode(), json.dumps({"error": said, "errors": [said]}).replace("/", r"\/").encode()):
            fake.replaced = (status, content)
            with pytest.raises(PrioticketError) as raised:
                await client.order("PRI00000001")
            shown = str(raised.value) + str(raised.value.__dict__)
            assert [secret for secret in (CLIENT_SECRET, API_KEY, token) if secret in shown] == []
            assert "***" in shown

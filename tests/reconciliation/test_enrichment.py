import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from app.database.writing import writing
from app.events.fetches import Fetch, FetchStatus, announces_order, outcome_of
from app.events.tables import Event
from app.prioticket.identity import accepted_key
from app.prioticket.pace import MOST_REFUSALS
from app.prioticket.payloads import parse_payload
from app.reconciliation import fetching
from app.reconciliation.enrichment import STALE, Enricher, give_up_fetches
from app.reconciliation.erased import OrderErased
from app.reconciliation.snapshots import Cause, store_snapshot
from app.reconciliation.verdicts import GIVE_UP_AFTER, STOPPED_FOR
from app.retention.erasing import erase
from tests.deliveries.workers import TICK, Workers
from tests.prioticket.fake import Fake

BOTH = {"erp": "both"}
MANY = {"both": ["*"], "snapshot": ["ORDER_UPDATE"], "notification": ["*"]}
THIN = {name: name for name in MANY}
PAYMENT = "5f0c1d1a-6a0c-4f57-9a52-0d6d7a3c2f11"


class Enriched:
    """A worker that enriches, step by step, in the time of the simulated Prioticket."""

    def __init__(self, engine, url, **behaviour):
        self.engine, self.url = engine, url
        self.fake = Fake(**behaviour)
        self.workers = Workers(engine)
        self.late = timedelta()
        self.stored_at = self.now()

    def now(self):
        return self.fake.now() + self.late

    @asynccontextmanager
    async def enricher(self, **settings):
        async with self.fake.client(**settings) as client:
            account = self.fake.settings(**settings)
            yield Enricher(self.engine, self.url, client, account, usernames={}, stored=lambda _: None, now=self.now)

    async def notify(self, reference, *, kind="ORDER_UPDATE", created=None):
        """Stores a notification without payload."""
        self.workers.now = self.stored_at = max(self.now(), self.stored_at + TICK)
        notification = {"notification_event": kind, "notification_item_id": reference}
        if created is not None:
            notification["notification_created"] = created.isoformat()
        body = json.dumps({"data": {"kind": "notification", "notification": notification}}).encode()
        return await self.workers.store(reference, type=kind, shape="notification", body=body)

    async def dispatch(self, types=None, thin=BOTH):
        self.workers.now = self.now()
        return await self.workers.dispatch(types or {"erp": ["*"]}, thin=thin)

    async def fetch(self, enricher, *, after=3.0):
        """Lets the time pass and makes all fetches that are due then."""
        self.fake.seconds += after
        for _ in range(100):
            if not await enricher.step():
                break
            await enricher.settled()
            self.fake.seconds += 1

    async def snapshots(self):
        async with self.engine.connect() as connection:
            query = select(Event.id, Event.reference, Event.cause, Event.event_name, Event.origin)
            return (await connection.execute(query.where(Event.origin != "received").order_by(Event.id))).all()

    async def outcome(self, event_id):
        async with self.engine.connect() as connection:
            return await outcome_of(connection, event_id)

    async def delivered_to(self):
        """The events of each destination's deliveries."""
        found: dict[str, Any] = {}
        for delivery in await self.workers.deliveries():
            found.setdefault(delivery.destination, []).append(delivery.event_id)
        return found


async def _then(answer, act):
    """An answer of Prioticket's, after which something happens before it is stored."""
    fetched = await answer
    await act()
    return fetched


@pytest.fixture
def enriched(engine, database_url):
    return lambda **behaviour: Enriched(engine, database_url, **behaviour)


@pytest.mark.parametrize(
    ("kind", "shape", "reference", "expected"),
    [
        ("ORDER_UPDATE", "notification", "PRI1", True),
        ("VOUCHER_RELEASE", "notification", "PRI1", True),
        ("REDEMPTION", "notification", "PRI1", True),
        ("PAYMENT_REFUND", "notification", PAYMENT, True),
        ("ORDER_UPDATE", "notification", PAYMENT, False),
        ("ORDER_UPDATE", "both", "PRI1", False),
        ("ORDER_UPDATE", "notification", None, False),
        ("PRODUCT_UPDATE", "notification", "PRI1", False),
        ("CONTACT_UPDATE", "notification", "PRI1", False),
        (None, None, None, False),
    ],
)
def test_notifications_of_orders_without_payload_are_followed_by_a_fetch(kind, shape, reference, expected):
    assert announces_order(kind, shape, reference) is expected


async def test_many_notifications_of_an_order_are_followed_by_one_fetch(enriched):
    each = enriched()
    references = each.fake.orders(3)
    causes = [(reference, await each.notify(reference)) for _ in range(10) for reference in references]
    await each.dispatch()
    async with each.enricher() as enricher:
        await each.fetch(enricher, after=1)
        assert each.fake.paths() == [], "further notifications may come"
        await each.fetch(enricher)
    assert sorted(each.fake.paths()) == sorted(f"GET /orders/{reference}" for reference in references)
    snapshots = await each.snapshots()
    newest = dict(causes)
    assert {row.reference: (row.cause, row.event_name, row.origin) for row in snapshots} == {
        reference: (newest[reference], "ORDER_UPDATE", "fetched") for reference in references
    }
    for reference, event_id in causes:
        outcome = await each.outcome(event_id)
        assert (outcome.status, outcome.attempts) == ("done", 1)
        assert outcome.snapshot_id in {row.id for row in snapshots if row.reference == reference}


async def test_a_notification_that_comes_during_a_fetch_is_followed_by_another_one_after_it(enriched):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    await each.notify(reference)
    await each.dispatch()
    each.fake.seconds += 3
    lease = timedelta(seconds=60)
    async with writing(each.engine) as connection:
        first = await fetching.claim(connection, worker="one", rate=5, lease=lease, now=each.now())
    assert first is not None
    later = await each.notify(reference)
    await each.dispatch()
    async with each.enricher() as enricher:
        await each.fetch(enricher)
        assert each.fake.paths() == [], "the first one is under way"
        async with writing(each.engine) as connection:
            await fetching.done(connection, first, first.cause.event_id, new=True, error=None, now=each.now())
        await each.fetch(enricher)
    assert each.fake.paths() == [f"GET /orders/{reference}"]
    assert [row.cause for row in await each.snapshots()] == [later]


async def test_an_answer_older_than_the_notification_is_asked_for_again_and_stored_at_last(enriched):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    modified = each.fake.now()
    cause = await each.notify(reference, created=modified + timedelta(minutes=1))
    await each.dispatch()
    async with each.enricher() as enricher:
        for number, wait in enumerate((3, 5, 30, 120), start=1):
            assert await each.snapshots() == []
            await each.fetch(enricher, after=wait - 1.5)
            assert len(each.fake.paths()) == number - 1 if wait > 3 else True
            await each.fetch(enricher, after=1.5)
            assert len(each.fake.paths()) == number
    outcome = await each.outcome(cause)
    assert (outcome.status, outcome.error, outcome.attempts) == ("done", STALE, 4)
    assert [row.cause for row in await each.snapshots()] == [cause]


async def test_an_order_that_prioticket_refuses_is_not_asked_for_again(enriched, caplog):
    each = enriched()
    cause = await each.notify("PRI-nothing")
    await each.dispatch()
    async with each.enricher() as enricher:
        await each.fetch(enricher)
        await each.fetch(enricher, after=3600)
    assert each.fake.paths() == ["GET /orders/PRI-nothing"]
    outcome = await each.outcome(cause)
    assert outcome.status == "refused"
    assert "INVALID_REQUEST" in outcome.error
    assert [record.fields["event_id"] for record in caplog.records if record.message == "fetch_given_up"] == [
        str(cause)
    ]


@pytest.mark.parametrize("when", ["before", "during"])
async def test_an_erased_order_is_not_fetched_and_its_new_notification_goes_alone(enriched, monkeypatch, when):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    first = await each.notify(reference)
    await each.workers.register("erp")

    async def erased(*_):
        async with writing(each.engine) as connection:
            await erase(connection, [first], drop=True, now=each.now())

    if when == "before":
        await erased()
    cause = await each.notify(reference)
    await each.dispatch(thin={"erp": "snapshot"})
    async with each.enricher() as enricher:
        if when == "during":
            asked = enricher._client.order  # noqa: SLF001 - the test needs a moment while Prioticket is asked
            monkeypatch.setattr(enricher._client, "order", lambda *given: _then(asked(*given), erased))  # noqa: SLF001
        await each.fetch(enricher)
        await each.fetch(enricher, after=3600)
    assert each.fake.paths() == [f"GET /orders/{reference}"] * (when == "during")
    assert await each.snapshots() == []
    outcome = await each.outcome(cause)
    assert (outcome.status, outcome.error) == ("refused", str(OrderErased()))
    await each.dispatch(thin={"erp": "snapshot"})
    assert await each.delivered_to() == {"erp": [cause]}


async def test_a_prioticket_that_is_down_is_asked_later_and_given_up_after_a_day(enriched):
    each = enriched(faults=["/orders/*=503"])
    (reference, *_) = each.fake.orders(1)
    cause = await each.notify(reference)
    await each.dispatch()
    async with each.enricher() as enricher:
        await each.fetch(enricher)
        outcome = await each.outcome(cause)
        assert outcome.status == "due"
        assert outcome.due_at > each.now()
        assert "503" in outcome.error
        # The id of a fetch has the time of this machine.
        each.late = datetime.now(UTC) - each.fake.now() + GIVE_UP_AFTER + timedelta(minutes=5)
        await each.fetch(enricher)
    assert (await each.outcome(cause)).status == "dead"
    assert await each.workers.undispatched() == [cause]


async def test_while_credentials_are_refused_one_request_in_a_quarter_of_an_hour_asks_for_a_token(enriched, caplog):
    each = enriched()
    references = each.fake.orders(6)
    for reference in references:
        await each.notify(reference)
    await each.dispatch()
    async with each.enricher(client_secret="wrong") as enricher:
        await each.fetch(enricher)
        await each.fetch(enricher, after=600)
        assert (each.fake.tokens, each.fake.paths()) == (1, [])
        await each.fetch(enricher, after=STOPPED_FOR.total_seconds() - 600)
        assert each.fake.tokens == 2
    each.fake.seconds += STOPPED_FOR.total_seconds()
    async with each.enricher() as enricher:
        await each.fetch(enricher)
    assert len(await each.snapshots()) == len(references)
    messages = [record.message for record in caplog.records if record.message.startswith("fetching_")]
    assert messages == ["fetching_stopped", "fetching_resumed"]


async def test_the_order_of_a_payment_is_found_by_the_id_of_the_payment(enriched):
    each = enriched()
    each.fake.orders(40)
    payment = next(iter(each.fake.book.payments()))
    cause = await each.notify(payment["payment_id"], kind="PAYMENT_CREATE")
    await each.dispatch()
    async with each.enricher() as enricher:
        await each.fetch(enricher)
    assert [(row.reference, row.cause) for row in await each.snapshots()] == [
        (payment["payment_order_reference"], cause)
    ]


async def test_a_destination_gets_the_notification_or_the_order_or_both(enriched):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    await each.workers.register(*MANY)
    cause = await each.notify(reference)
    await each.dispatch(MANY, THIN)
    assert await each.delivered_to() == {"both": [cause], "notification": [cause]}
    async with each.enricher() as enricher:
        await each.fetch(enricher)
    await each.dispatch(MANY, THIN)
    (snapshot,) = await each.snapshots()
    delivered = {"both": [cause, snapshot.id], "notification": [cause], "snapshot": [snapshot.id]}
    assert await each.delivered_to() == delivered


async def test_a_notification_that_waited_for_an_order_in_vain_goes_alone(enriched):
    each = enriched()
    await each.workers.register(*MANY, "erp")
    types, thin = MANY | {"erp": ["*"]}, THIN | {"erp": "snapshot"}
    cause = await each.notify("PRI-nothing")
    await each.dispatch(types, thin)
    async with each.enricher() as enricher:
        await each.fetch(enricher)
    await each.dispatch(types, thin)
    assert await each.delivered_to() == {name: [cause] for name in types}
    each.workers.now = each.now()
    (claim,) = (await each.workers.turn()).claims
    assert claim.snapshot_failed


async def test_without_enrichment_a_notification_is_delivered_as_any_event(enriched):
    each = enriched()
    await each.workers.register(*MANY)
    cause = await each.notify("PRI1")
    await each.dispatch(MANY, None)
    assert await each.delivered_to() == {name: [cause] for name in MANY}
    assert await each.outcome(cause) is None


async def test_two_notifications_of_different_types_bring_the_order_to_whoever_wanted_one_of_them(enriched):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    types, thin = {"a": ["ORDER_CREATE"], "b": ["REDEMPTION"], "c": ["PAYMENT_*"]}, dict.fromkeys("abc", "snapshot")
    await each.workers.register(*types)
    await each.notify(reference, kind="ORDER_CREATE")
    await each.notify(reference, kind="REDEMPTION")
    await each.dispatch(types, thin)
    async with each.enricher() as enricher:
        await each.fetch(enricher)
    await each.dispatch(types, thin)
    (snapshot,) = await each.snapshots()
    assert await each.delivered_to() == {"a": [snapshot.id], "b": [snapshot.id]}


async def test_when_a_worker_dies_during_a_fetch_another_one_makes_it_again(enriched):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    cause = await each.notify(reference)
    await each.dispatch()
    each.fake.seconds += 3
    lease = timedelta(seconds=60)
    async with writing(each.engine) as connection:
        lost = await fetching.claim(connection, worker="dead", rate=5, lease=lease, now=each.now())
    assert lost is not None
    async with each.enricher() as enricher:
        await each.fetch(enricher, after=50)
        assert await each.snapshots() == []
        await each.fetch(enricher, after=20)
        await each.fetch(enricher, after=20)
    assert [row.cause for row in await each.snapshots()] == [cause]
    async with writing(each.engine) as connection:
        assert not await fetching.is_held(connection, lost)


async def test_a_worker_that_ends_gives_back_a_fetch_that_is_under_way(enriched):
    each = enriched(faults=["/orders/*=hang"])
    (reference, *_) = each.fake.orders(1)
    cause = await each.notify(reference)
    await each.dispatch()
    each.fake.seconds += 3
    async with each.enricher() as enricher, enricher.running(), asyncio.timeout(60):
        while not each.fake.paths():  # noqa: ASYNC110 - the worker's doing
            await asyncio.sleep(0.01)
        assert (await each.outcome(cause)).status == "fetching"
    assert (await each.outcome(cause)).status == "due"


async def test_an_order_that_was_received_reaches_the_destination_that_waits_for_the_fetched_one(enriched):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    types, thin = {"erp": ["ORDER_UPDATE"]}, {"erp": "snapshot"}
    await each.workers.register("erp")
    async with each.fake.client() as client:
        body = (await client.order(reference)).body
    payload = parse_payload(body)
    key = accepted_key("prioticket", body, payload)
    received = await each.workers.store(**payload.columns() | {"body": body, "dedup_key": key})
    await each.dispatch(types, thin)
    assert await each.delivered_to() == {}
    await each.notify(reference)
    await each.dispatch(types, thin)
    async with each.enricher() as enricher:
        await each.fetch(enricher)
    await each.dispatch(types, thin)
    assert [(row.id, row.origin) for row in await each.snapshots()] == [(received, "both")]
    assert await each.delivered_to() == {"erp": [received]}


async def test_all_workers_together_keep_to_the_rate(enriched):
    each = enriched()
    for number in range(5):
        await each.notify(f"PRI{number}")
    await each.dispatch()
    each.fake.seconds += 3
    began = each.now()
    times: list[float] = []
    while len(times) < 5:
        for worker in ("one", "two"):
            async with writing(each.engine) as connection:
                lease = timedelta(seconds=60)
                if await fetching.claim(connection, worker=worker, rate=2, lease=lease, now=each.now()):
                    times.append((each.now() - began).total_seconds())
        each.fake.seconds += 0.25
    assert times == [0, 0.5, 1, 1.5, 2]


async def test_when_enrichment_is_switched_off_nothing_waits_for_orders_any_more(enriched):
    each = enriched()
    await each.workers.register("erp")
    cause = await each.notify("PRI1")
    await each.dispatch(thin={"erp": "snapshot"})
    assert await each.delivered_to() == {}
    await give_up_fetches(each.engine)
    await each.dispatch(thin=None)
    assert await each.delivered_to() == {"erp": [cause]}
    async with each.engine.connect() as connection:
        assert await connection.scalar(select(Fetch.status)) == "dead"


async def test_many_fetches_are_given_up_in_parts(enriched, monkeypatch):
    monkeypatch.setattr(fetching, "MOST_AT_ONCE", 2)
    each = enriched()
    causes = [await each.notify(f"PRI{number}") for number in range(5)]
    await each.dispatch()
    async with writing(each.engine) as connection:
        assert await fetching.give_up(connection, "off", now=each.now()) == 2
    await give_up_fetches(each.engine)
    assert {(await each.outcome(cause)).status for cause in causes} == {"dead"}
    assert await each.workers.undispatched() == causes


async def test_a_refusal_whose_text_no_column_takes_is_kept_and_ends_the_fetch(enriched):
    each = enriched()
    odd = b'{"error":"NO\\u0000","error_reference":"\\ud800","errors":["\\u001b[2J\\u0000 \\udfff"]}'
    each.fake.replaced = (422, odd)
    cause = await each.notify("PRI-odd")
    await each.dispatch()
    async with each.enricher() as enricher:
        await each.fetch(enricher)
        await each.fetch(enricher, after=300)
    outcome = await each.outcome(cause)
    assert outcome.status == "refused"
    assert outcome.error.isprintable()


async def test_a_fetch_whose_notifications_were_deleted_holds_up_no_other(enriched):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    gone = await each.notify("PRI-gone")
    cause = await each.notify(reference)
    await each.dispatch()
    async with writing(each.engine) as connection:
        await connection.execute(delete(Event).where(Event.id == gone))
    async with each.enricher() as enricher:
        await each.fetch(enricher)
        await each.fetch(enricher)
    assert [row.cause for row in await each.snapshots()] == [cause]
    assert await each.outcome(gone) is None


async def test_an_order_linked_while_its_event_is_dispatched_reaches_the_destination_that_waits(enriched):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    types, thin = {"erp": ["ORDER_UPDATE"]}, {"erp": "snapshot"}
    await each.workers.register("erp")
    await each.notify(reference)
    await each.dispatch(types, thin)
    async with each.fake.client() as client:
        fetched = await client.order(reference)
    payload = parse_payload(fetched.body)
    key = accepted_key("prioticket", fetched.body, payload)
    received = await each.workers.store(**payload.columns() | {"body": fetched.body, "dedup_key": key})
    each.fake.seconds += 3
    lease = timedelta(seconds=60)
    async with writing(each.engine) as connection:
        claim = await fetching.claim(connection, worker="one", rate=5, lease=lease, now=each.now())
    assert claim is not None
    async with writing(each.engine) as connection:
        assert await fetching.is_held(connection, claim)
        why = Cause(claim.cause.event_id, event_name="ORDER_UPDATE")
        snapshot = await store_snapshot(connection, fetched, why, client="prioticket", usernames={})
        await fetching.done(connection, claim, snapshot.id, new=snapshot.new, error=None, now=each.now())
        dispatching = asyncio.create_task(each.dispatch(types, thin))
        await asyncio.wait([dispatching], timeout=0.5)
    await dispatching
    await each.dispatch(types, thin)
    assert await each.delivered_to() == {"erp": [received]}


async def test_all_workers_together_stop_after_twenty_refusals_until_a_minute_has_passed(enriched):
    each = enriched()
    for number in range(30):
        await each.notify(f"PRI-none{number}")
    await each.dispatch()
    each.fake.seconds += 3
    lease = timedelta(seconds=60)

    async def refuse() -> int:
        refused = 0
        for number in range(100):
            async with writing(each.engine) as connection:
                claim = await fetching.claim(connection, worker=f"{number % 3}", rate=5, lease=lease, now=each.now())
                if claim is not None:
                    await fetching.failed(connection, claim, FetchStatus.REFUSED, "no", now=each.now())
                    refused += 1
            each.fake.seconds += 0.25
        return refused

    assert await refuse() == MOST_REFUSALS
    each.fake.seconds += 60
    assert await refuse() == 30 - MOST_REFUSALS


async def test_fetches_that_ended_long_ago_are_forgotten_unless_their_notification_waits(enriched):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    done, refused = await each.notify(reference), await each.notify("PRI-none")
    await each.dispatch()
    async with each.enricher() as enricher:
        await each.fetch(enricher)
    async with writing(each.engine) as connection:
        assert await fetching.forget_old(connection, now=each.now() + fetching.KEPT_FOR - timedelta(hours=1)) == 0
    later = each.now() + fetching.KEPT_FOR + timedelta(hours=1)
    async with writing(each.engine) as connection:
        assert await fetching.forget_old(connection, now=later) == 0, "neither is dispatched yet"
    await each.dispatch()
    async with writing(each.engine) as connection:
        assert await fetching.forget_old(connection, now=later) == 2
    assert [await each.outcome(event_id) for event_id in (done, refused)] == [None, None]


async def test_a_webhook_that_brings_a_fetched_order_during_its_dispatch_reaches_those_that_want_only_webhooks(
    enriched,
):
    each = enriched()
    (reference, *_) = each.fake.orders(1)
    await each.workers.register("erp")
    types, thin = {"erp": ["*"]}, {"erp": "notification"}
    cause = await each.notify(reference)
    await each.dispatch(types, thin)
    async with each.enricher() as enricher:
        await each.fetch(enricher)
    (snapshot,) = await each.snapshots()
    async with writing(each.engine) as connection:
        await connection.execute(update(Event).where(Event.id == snapshot.id).values(origin="both"))
        dispatching = asyncio.create_task(each.dispatch(types, thin))
        await asyncio.wait([dispatching], timeout=0.5)
    await dispatching
    await each.dispatch(types, thin)
    assert await each.delivered_to() == {"erp": [cause, snapshot.id]}
    assert await each.workers.undispatched() == []

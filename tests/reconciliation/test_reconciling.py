import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from sqlalchemy import delete, select

from app.database.writing import writing
from app.events.rows import Stored
from app.events.tables import Undispatched
from app.prioticket.errors import Unavailable
from app.reconciliation import comparing
from app.reconciliation.comparing import Verdict
from app.reconciliation.erased import OrderErased
from app.reconciliation.keeping import Keeper
from app.reconciliation.runs import Asked, begin, new_run
from app.retention.erasing import erase, of_reference
from tests.conftest import basic_header
from tests.events.stores import running
from tests.prioticket.fake import START, Fake
from tests.reconciliation.runs import (
    changes,
    clients,
    events,
    lived,
    newest_of,
    receive,
    reconcile,
    stored_orders,
    webhook_of,
)
from tests.retention.ages import prune


def lost(steps, share, seed=3):
    """What arrives of the steps."""
    random = Random(seed)  # noqa: S311 - it chooses what gets lost
    return [step for step in steps if random.random() >= share]


async def erased(engine, reference):
    async with writing(engine) as connection:
        await erase(connection, await of_reference(connection, reference), drop=True, now=datetime.now(UTC))


async def rows(engine):
    async with engine.connect() as connection:
        return await events(connection)


@pytest.mark.slow
async def test_afterwards_the_store_has_the_newest_state_of_every_order(engine, database_url):
    fake = Fake()
    steps = lived(fake, 400)
    arrived = lost(steps, 0.2)
    await receive(database_url, map(webhook_of, arrived))
    before = await stored_orders(engine)
    wrong = {reference for reference, order in newest_of(fake).items() if before.get(reference) != order}
    counts, complete, found = await reconcile(fake, engine)
    assert complete
    assert await stored_orders(engine) == newest_of(fake)
    assert {finding.reference for finding in found} == wrong
    assert (counts.missing, counts.fetched, counts.refused) == (len(wrong), len(wrong), 0)
    assert counts.listed == len(newest_of(fake)) == counts.known + counts.missing
    fetched = [row for row in await rows(engine) if row.origin == "fetched"]
    assert {row.id for row in fetched} == {finding.event_id for finding in found}
    assert {row.fetched_for.split()[0] for row in fetched} == {"reconcile"}
    again, _, _ = await reconcile(fake, engine)
    assert (again.missing, again.fetched, again.requests) == (0, 0, len(newest_of(fake)) // 100 + 2)


async def test_a_refund_that_changes_neither_version_nor_time_is_missing_too(engine, database_url):
    fake = Fake()
    steps = lived(fake, 300)
    refund = next(step for step in steps if step.event == "PAYMENT_REFUND")
    await receive(database_url, (webhook_of(step) for step in steps if step is not refund))
    counts, _, (finding,) = await reconcile(fake, engine)
    assert (finding.reference, finding.verdict) == (refund.reference, Verdict.ALTERED)
    assert (counts.missing, counts.altered, counts.fetched) == (1, 1, 1)
    assert (await stored_orders(engine))[refund.reference] == refund.order


async def test_states_with_one_version_and_time_may_have_arrived_in_another_order(engine, database_url):
    fake = Fake()
    steps = lived(fake, 300)
    refund = next(step for step in steps if step.event == "PAYMENT_REFUND")
    await receive(database_url, map(webhook_of, [refund, *(step for step in steps if step is not refund)]))
    counts, _, _ = await reconcile(fake, engine)
    assert (counts.missing, counts.fetched) == (0, 0)


async def test_an_order_that_the_list_shows_otherwise_is_not_missing(engine, database_url, monkeypatch):
    fake = Fake()
    await receive(database_url, map(webhook_of, lived(fake, 20)))
    shown = [{**order, "order_view": "list"} for order in fake.book.newest()]
    monkeypatch.setattr(fake.book, "newest", lambda: iter(shown))
    counts, _, found = await reconcile(fake, engine)
    assert (counts.known, counts.missing, counts.fetched, found) == (len(shown), 0, 0, [])


async def test_a_newer_state_than_the_listed_one_is_known(engine, database_url, monkeypatch):
    fake = Fake()
    steps = lived(fake, 60)
    older = list(fake.book.newest())
    steps += lived(fake, 60)
    await receive(database_url, map(webhook_of, steps))
    monkeypatch.setattr(fake.book, "newest", lambda: iter(older))
    counts, _, _ = await reconcile(fake, engine)
    assert (counts.missing, counts.known) == (0, len(older))


async def test_an_order_of_which_only_a_notification_arrived_is_thin(engine, database_url):
    fake = Fake()
    step, *_ = lived(fake, 1)
    await receive(database_url, [webhook_of(step, shape="notification", received_at=step.at + timedelta(seconds=2))])
    counts, _, _ = await reconcile(fake, engine)
    assert (counts.thin, counts.missing, counts.fetched) == (1, 0, 0)
    counts, _, (finding,) = await reconcile(fake, engine, thin=True)
    assert (counts.thin, counts.missing, counts.fetched, finding.verdict) == (1, 0, 1, Verdict.THIN)
    assert await stored_orders(engine) == newest_of(fake)


async def test_a_notification_of_an_earlier_change_does_not_count(engine, database_url):
    fake = Fake()
    step, *_ = lived(fake, 1)
    await receive(database_url, [webhook_of(step, shape="notification", received_at=step.at - timedelta(minutes=5))])
    counts, _, (finding,) = await reconcile(fake, engine)
    assert (counts.thin, counts.missing, finding.verdict) == (0, 1, Verdict.OUTDATED)


async def test_a_dry_run_fetches_and_stores_nothing(engine, database_url):
    fake = Fake()
    await receive(database_url, map(webhook_of, lost(lived(fake, 200), 0.3)))
    stored = await rows(engine)
    counts, _, found = await reconcile(fake, engine, dry_run=True)
    assert counts.missing == len(found) > 0
    assert (counts.fetched, {finding.event_id for finding in found}) == (0, {None})
    assert await rows(engine) == stored
    assert {path for _, path in fake.api.requests} == {"/oauth2/token", "/orders"}


async def test_with_versions_the_states_in_between_are_fetched_too(engine, database_url):
    fake = Fake()
    steps = lived(fake, 150)
    await receive(database_url, map(webhook_of, lost(steps, 0.5)))
    await reconcile(fake, engine, asked={"versions": True})
    stored = await rows(engine)
    for reference, order in newest_of(fake).items():
        own = [row for row in stored if row.reference == reference and row.origin == "fetched"]
        versions = [row.order_version for row in own]
        assert versions == sorted(versions)
        if own:
            assert versions[-1] == order["order_version"]
            assert versions == [*range(versions[0], versions[-1] + 1)]


@pytest.mark.parametrize("deliver", [True, False])
async def test_what_is_fetched_is_delivered_unless_that_is_not_wanted(engine, deliver):
    fake = Fake()
    lived(fake, 30)
    await reconcile(fake, engine, asked={"deliver": deliver})
    async with engine.connect() as connection:
        waiting = set(await connection.scalars(select(Undispatched.event_id)))
    assert waiting == ({row.id for row in await rows(engine)} if deliver else set())


async def test_what_changed_later_than_wanted_is_left_out(engine):
    fake = Fake()
    early, late = lived(fake, 2, between=3600)
    while late.reference == early.reference:
        early, (late,) = late, lived(fake, 1, between=3600)
    await reconcile(fake, engine, asked={"until": early.at})
    assert set(await stored_orders(engine)) == {early.reference}
    settled = await reconcile(fake, engine, settle=timedelta(minutes=2))
    assert settled[0].listed == 1
    fake.seconds += 180
    await reconcile(fake, engine, settle=timedelta(minutes=2))
    assert set(await stored_orders(engine)) == {early.reference, late.reference}


@pytest.mark.slow
async def test_an_interrupted_run_goes_on_and_counts_everything_once(engine, database_url):
    fake = Fake()
    arrived = lost(lived(fake, 800), 0.3)
    await receive(database_url, map(webhook_of, arrived))
    expected, _, _ = await reconcile(fake, engine, dry_run=True)
    asked = 0

    def ended():
        nonlocal asked
        asked += 1
        return asked > 110

    first, complete, _ = await reconcile(fake, engine, ended=ended)
    assert not complete
    assert 0 < first.fetched < expected.missing
    rest, complete, _ = await reconcile(fake, engine)
    assert complete
    counted = replace(rest, requests=0, seconds=0, fetched=0, altered=0)
    assert counted == replace(expected, requests=0, seconds=0, fetched=0, altered=0)
    assert rest.fetched == rest.missing
    assert await stored_orders(engine) == newest_of(fake)
    assert len([row for row in await rows(engine) if row.origin == "fetched"]) == rest.fetched


@pytest.mark.slow
async def test_a_prioticket_that_goes_away_interrupts_the_run(engine, database_url):
    fake = Fake()
    lived(fake, 700)
    away = Fake(faults=["/orders=503"]).behaviour.faults
    with pytest.raises(Unavailable):
        await reconcile(fake, engine, read=lambda *_: fake.behaviour.faults.extend(away))
    assert 0 < len(await stored_orders(engine)) < len(newest_of(fake))
    fake.behaviour.faults.clear()
    _, complete, _ = await reconcile(fake, engine)
    assert complete
    assert await stored_orders(engine) == newest_of(fake)


async def test_an_order_that_is_refused_is_counted_and_the_others_are_fetched(engine):
    fake = Fake()
    first = lived(fake, 60)[0].reference
    fake.behaviour.faults.extend(Fake(faults=[f"/orders/{first}=error"]).behaviour.faults)
    counts, complete, found = await reconcile(fake, engine)
    assert complete
    assert counts.refused == 1
    assert counts.fetched == counts.missing - 1 == len(await stored_orders(engine))
    (refused,) = [finding for finding in found if finding.error]
    assert (refused.reference, refused.event_id) == (first, None)


async def test_a_webhook_that_comes_after_all_is_a_copy_of_what_was_fetched(engine, database_url):
    fake = Fake()
    step, *_ = lived(fake, 1)
    _, _, (finding,) = await reconcile(fake, engine)
    assert finding.event_id
    async with running(database_url) as store:
        assert await store.append(webhook_of(step)) == Stored(finding.event_id, duplicate=True)


async def test_a_token_that_ends_in_the_middle_of_the_list_is_renewed_once(engine):
    fake = Fake(expires_in=600)
    lived(fake, 700)
    ends = iter([fake.api.tokens.clear])
    _, complete, _ = await reconcile(fake, engine, read=lambda *_: next(ends, list)(), dry_run=True)
    assert complete
    assert fake.tokens == 2
    assert fake.paths().count("GET /orders") > 2


async def test_the_bytes_of_what_was_fetched_are_those_of_prioticket(engine, client):
    fake = Fake()
    lived(fake, 1)
    await reconcile(fake, engine)
    (row,) = await rows(engine)
    assert json.loads(row.body)["data"]["order"] == fake.book.order(row.reference)
    answer = await client.post("/webhooks/prioticket", content=row.body, headers=basic_header())
    assert answer.headers["event-id"] == str(row.id)


async def test_of_very_many_versions_the_latest_hundred_are_fetched(engine, monkeypatch):
    fake = Fake()
    lived(fake, 1)
    (order,) = fake.book.newest()
    monkeypatch.setattr(fake.book, "newest", lambda: iter([order | {"order_version": 2**40}]))
    await reconcile(fake, engine, asked={"versions": True})
    assert fake.paths().count(f"GET /orders/{order['order_reference']}") == 101


async def test_a_run_begins_earlier_than_asked_for(engine):
    fake = Fake()
    step, *_ = lived(fake, 1)
    counts, _, _ = await reconcile(fake, engine, since=step.at + timedelta(minutes=9), dry_run=True)
    assert counts.listed == 1
    counts, _, _ = await reconcile(fake, engine, since=step.at + timedelta(minutes=11), dry_run=True)
    assert counts.listed == 0


@pytest.mark.parametrize(
    ("later", "asked", "goes_on"),
    [
        (timedelta(hours=23), {}, True),
        (timedelta(hours=25), {}, False),
        (timedelta(hours=1), {"versions": True}, False),
        (timedelta(hours=1), {"deliver": False}, False),
        (timedelta(hours=1), {"until": START}, False),
    ],
)
async def test_an_interrupted_run_is_resumed_for_a_day_by_one_that_does_the_same(engine, later, asked, goes_on):
    async with writing(engine) as connection:
        first = await begin(connection, Asked(since=START), now=START)
        second = await begin(connection, Asked(since=START + timedelta(minutes=5), **asked), now=START + later)
        earlier = await begin(connection, Asked(since=START - timedelta(minutes=5), **asked), now=START + later)
    assert (second.id == first.id) is second.resumed is goes_on
    assert not earlier.resumed


async def test_large_bodies_are_compared_in_parts(engine, database_url, monkeypatch):
    fake = Fake()
    await receive(database_url, map(webhook_of, lost(lived(fake, 200), 0.2)))
    expected, _, found = await reconcile(fake, engine, dry_run=True)
    monkeypatch.setattr(comparing, "MOST_BYTES", 10_000)
    counts, _, again = await reconcile(fake, engine, dry_run=True)
    assert (counts.missing, again) == (expected.missing, found)


async def test_what_was_fetched_comes_after_what_arrived_even_from_a_clock_that_is_ahead(engine, database_url):
    fake = Fake()
    first, *_ = lived(fake, 1)
    ahead = webhook_of(first, received_at=datetime.now(UTC) + timedelta(seconds=3))
    await receive(database_url, [ahead])
    while (last := lived(fake, 1)[0]).reference != first.reference:
        pass
    await reconcile(fake, engine)
    (fetched,) = [row.id for row in await rows(engine) if row.reference == last.reference and row.origin == "fetched"]
    assert fetched > ahead.id


async def test_an_order_of_which_an_event_was_erased_is_never_fetched_again(engine, database_url):
    fake = Fake()
    steps = lived(fake, 1)
    await receive(database_url, map(webhook_of, steps))
    reference = steps[0].reference
    await erased(engine, reference)
    stored = await rows(engine)
    for changed in (False, True):
        if changed:
            changes(fake, reference)
        counts, complete, found = await reconcile(fake, engine, thin=True, asked={"versions": True})
        assert complete
        assert (counts.erased, counts.refused) == (1, 0)
        assert reference not in {finding.reference for finding in found}
        assert counts.listed == counts.known + counts.missing + counts.erased
    assert f"GET /orders/{reference}" not in fake.paths()
    assert [row for row in await rows(engine) if row.reference == reference] == [
        row for row in stored if row.reference == reference
    ]


async def test_a_new_webhook_of_an_erased_order_is_an_event_and_known(engine, database_url):
    fake = Fake()
    step, *_ = lived(fake, 1)
    await receive(database_url, [webhook_of(step)])
    await erased(engine, step.reference)
    last = changes(fake, step.reference)
    async with running(database_url) as store:
        assert not (await store.append(webhook_of(last))).duplicate
    counts, _, _ = await reconcile(fake, engine, asked={"until": last.at}, dry_run=True)
    assert (counts.erased, counts.known) == (0, 1)


async def test_an_order_that_is_erased_while_prioticket_is_asked_is_not_stored(engine, database_url):
    fake = Fake()
    step, *_ = lived(fake, 1)
    await receive(database_url, [webhook_of(step)])
    async with fake.client() as client:
        fetched = await client.order(step.reference)
    await erased(engine, step.reference)
    run = new_run(Asked(since=START), now=fake.now())
    with pytest.raises(OrderErased):
        await Keeper(engine, clients()).keep(run, fetched)
    assert len(await rows(engine)) == 1


async def test_what_retention_has_deleted_is_not_fetched_again(engine, database_url):
    fake = Fake()
    old = lived(fake, 40)
    fake.seconds += 100 * 86400
    new = lived(fake, 40)
    await receive(database_url, (webhook_of(step, received_at=step.at) for step in old))
    async with engine.begin() as connection:
        await connection.execute(delete(Undispatched))
    assert (await prune(engine, fake.now(), accepted="90d")).total() == len(old)
    since = START - timedelta(days=1)
    counts, _, found = await reconcile(fake, engine, since=since, keeps=timedelta(days=90), now=fake.now)
    gone = {step.reference for step in old} - {step.reference for step in new}
    assert gone
    assert (counts.expired, counts.missing) == (len(gone), len(newest_of(fake)) - len(gone))
    assert not gone & {finding.reference for finding in found}
    assert {row.reference for row in await rows(engine)} == {finding.reference for finding in found}
    again, _, _ = await reconcile(fake, engine, since=since, now=fake.now)
    assert (again.missing, again.known) == (0, again.listed), "their keys are kept"


async def test_of_the_versions_in_between_those_that_are_too_old_are_not_kept(engine):
    fake = Fake()
    (first, *_) = lived(fake, 1)
    fake.seconds += 100 * 86400
    changes(fake, first.reference)
    await reconcile(fake, engine, asked={"versions": True}, keeps=timedelta(days=90), now=fake.now)
    stored = [row for row in await rows(engine) if row.reference == first.reference]
    assert [row.order_version for row in stored] == [newest_of(fake)[first.reference]["order_version"]]
    assert f"GET /orders/{first.reference}" in fake.paths()

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from app.database.writing import writing
from app.deliveries.dispatch import BATCH, MOST_MADE, Dispatcher, dispatch, events_at_once
from app.deliveries.globs import wants
from app.deliveries.registering import register
from app.deliveries.tables import PassedOver
from tests.deliveries.workers import ALL

EVERYTHING = {"crm": ["*"], "erp": ["*"]}


@pytest.mark.parametrize(
    ("globs", "event_type", "event_name", "wanted"),
    [
        (["*"], "ORDER_CREATE", None, True),
        (["*"], None, None, True),
        (["ORDER_*"], "ORDER_CREATE", None, True),
        (["ORDER_*"], "PAYMENT_REFUND", None, False),
        (["ORDER_*", "REDEMPTION"], "REDEMPTION", None, True),
        (["ORDER_*"], None, None, False),
        (["order_*"], "ORDER_CREATE", None, False),
        (["ORDER_CANCEL*"], "ORDER_CANCEL_PARTIAL", "ORDER_CREATE", True),
        (["ORDER_CREATE"], "ORDER_CANCEL_PARTIAL", "ORDER_CREATE", True),
        (["ORDER_UPDATE"], "ORDER_CANCEL_PARTIAL", "ORDER_CREATE", False),
    ],
)
def test_a_glob_of_the_destination_must_fit_the_type_or_the_event_name(globs, event_type, event_name, wanted):
    assert wants(globs, event_type, event_name) is wanted


@pytest.mark.parametrize(
    ("destinations", "events"), [(0, BATCH), (1, BATCH), (MOST_MADE // 10, 10), (MOST_MADE, 1), (MOST_MADE + 1, 1)]
)
def test_the_more_destinations_there_are_the_fewer_events_are_dispatched_at_once(destinations, events):
    assert events_at_once(destinations) == events


async def test_each_destination_gets_the_events_it_wants(workers):
    await workers.register("crm")
    order = await workers.store("A", type="ORDER_CREATE")
    refund = await workers.store("A", type="PAYMENT_REFUND")
    assert await workers.dispatch({"crm": ["PAYMENT_*"], "erp": ["*"]}) == 2
    made = {(row.destination, row.event_id) for row in await workers.deliveries()}
    assert made == {("erp", order), ("erp", refund), ("crm", refund)}


async def test_a_destination_gets_an_event_once_by_its_type_or_by_its_event_name(workers):
    await workers.register("crm")
    event = await workers.store("A", type="ORDER_CANCEL_PARTIAL", event_name="ORDER_UPDATE")
    await workers.dispatch({"crm": ["ORDER_UPDATE"], "erp": ["ORDER_CANCEL*", "ORDER_UPDATE"]})
    made = [(row.destination, row.event_id) for row in await workers.deliveries()]
    assert sorted(made) == [("crm", event), ("erp", event)]


async def test_an_event_is_dispatched_once(workers):
    await workers.store()
    assert await workers.dispatch() == 1
    assert await workers.dispatch() == 0
    assert len(await workers.deliveries()) == 1


async def test_an_event_that_nobody_wants_is_dispatched_all_the_same(workers):
    await workers.store()
    assert await workers.dispatch({"erp": ["NOTHING"]}) == 1
    assert await workers.undispatched() == []


async def test_a_destination_gets_what_arrives_from_its_beginning_on(workers):
    await workers.store()
    workers.wait(1)
    await workers.register("crm")
    later = await workers.store()
    await workers.dispatch(EVERYTHING)
    assert [row.event_id for row in await workers.deliveries() if row.destination == "crm"] == [later]


async def test_a_destination_that_is_known_keeps_its_beginning(workers):
    event_id = await workers.store()
    workers.wait(1)
    await workers.register("erp")
    await workers.dispatch()
    assert [row.event_id for row in await workers.deliveries()] == [event_id]


async def test_no_more_events_than_asked_for_are_dispatched_the_oldest_first(workers):
    ids = [await workers.store("A") for _ in range(5)]
    assert await workers.dispatch(most=2) == 2
    assert [row.event_id for row in await workers.deliveries()] == ids[:2]
    assert await workers.dispatch(most=10) == 3


async def test_of_one_reference_the_first_is_due_whatever_the_number_of_dispatches(workers):
    await workers.store("A")
    await workers.dispatch()
    for _ in range(2):
        await workers.store("A")
    await workers.store()
    await workers.store()
    await workers.dispatch()
    due = [(row.reference, row.due_at is not None) for row in await workers.deliveries()]
    assert due == [("A", True), ("A", False), ("A", False), (None, True), (None, True)]


async def test_a_new_destination_waits_for_a_dispatch_under_way_and_passes_nothing_of_it_over(workers, engine):
    await workers.store()
    async with writing(engine) as connection:
        assert await dispatch(connection, ALL, most=10, now=workers.now) == 1
        registering = asyncio.create_task(workers.register("crm"))
        await asyncio.wait([registering], timeout=0.5)
        assert not registering.done()
    await registering
    async with engine.connect() as connection:
        assert (await connection.execute(select(PassedOver.event_id))).all() == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_two_dispatchers_at_once_make_each_delivery_once(workers):
    ids = [await workers.store("A") for _ in range(60)]
    workers.wait(1)
    dispatched = 0
    async with asyncio.timeout(20):
        while dispatched < 60:
            dispatched += sum(await asyncio.gather(*(workers.dispatch(most=7) for _ in range(3))))
    assert [row.event_id for row in await workers.deliveries()] == ids


@pytest.mark.parametrize("ahead", [timedelta(days=3650), timedelta(days=-3650)])
async def test_no_clock_decides_what_a_new_destination_gets(workers, ahead):
    before = await workers.store(received_at=workers.now + ahead)
    async with writing(workers.engine) as connection:
        await register(connection, ["crm"], now=workers.now + ahead)
    after = await workers.store(received_at=workers.now - ahead)
    await workers.dispatch(EVERYTHING)
    made = {(row.destination, row.event_id) for row in await workers.deliveries()}
    assert made == {("erp", before), ("erp", after), ("crm", after)}


async def test_what_a_new_destination_does_not_get_is_forgotten_with_its_dispatch(workers):
    await workers.store()
    await workers.register("crm")
    await workers.dispatch(EVERYTHING)
    async with workers.engine.connect() as connection:
        assert (await connection.execute(select(PassedOver.event_id))).all() == []


async def has_work(workers, dispatcher):
    async with workers.engine.connect() as connection:
        return await dispatcher.has_work(connection, now=workers.now)


async def begun(workers, types):
    dispatcher = Dispatcher(types)
    async with writing(workers.engine) as connection:
        await dispatcher.begin(connection, now=workers.now)
    return dispatcher


async def test_a_worker_leaves_events_to_those_that_know_a_newer_destination(workers, caplog):
    old = await begun(workers, ALL)
    workers.wait(-3600)  # on a machine whose clock is behind
    new = await begun(workers, EVERYTHING)
    await workers.store()
    assert await has_work(workers, new)
    for _ in range(2):
        assert not await has_work(workers, old)
    (line,) = caplog.records
    assert (line.levelname, line.message, line.fields) == ("WARNING", "dispatch_waits", {"destinations": ["crm"]})


async def test_a_destination_that_left_the_settings_before_the_start_holds_nothing_up(workers):
    await workers.register("crm")
    worker = await begun(workers, ALL)
    await workers.store()
    assert await has_work(workers, worker)


async def test_a_worker_that_was_told_of_no_destination_dispatches_nothing_while_there_is_one(workers):
    worker = await begun(workers, {})
    await workers.store()
    assert not await has_work(workers, worker)


async def test_ids_that_run_ahead_of_the_clock_are_warned_of_once(workers, caplog):
    worker = await begun(workers, ALL)
    event_id = await workers.store(received_at=workers.now + timedelta(hours=1))
    for _ in range(2):
        await has_work(workers, worker)
    (line,) = caplog.records
    assert (line.levelname, line.message) == ("WARNING", "ids_ahead")
    assert line.fields["event_id"] == str(event_id)
    assert 3599 <= line.fields["seconds"] <= 3600

import asyncio
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from app.database.writing import writing
from app.events.ids import id_floor
from app.prioticket.errors import CredentialsRefused
from app.reconciliation.alone import alone
from app.reconciliation.keeping import Keeper
from app.reconciliation.periodic import Periodic
from app.reconciliation.runs import Asked, Counts, begin, finish, last_start
from app.reconciliation.tables import Reconciliation
from tests.prioticket.fake import API_KEY, CLIENT_SECRET, Fake
from tests.reconciliation.runs import clients, lived, newest_of, receive, stored_orders, webhook_of

EVERY = timedelta(minutes=15)


@asynccontextmanager
async def periodic(fake, engine, **account):
    async with fake.client(**account) as client:
        yield Periodic(engine=engine, client=client, keeper=Keeper(engine, clients()), every=EVERY)


def logged(caplog, name):
    return [record.fields for record in caplog.records if record.message == name]


async def test_a_run_is_due_once_in_each_period_whichever_worker_has_time(engine, caplog):
    caplog.set_level(logging.INFO)
    fake = Fake()
    lived(fake, 30)
    fake.seconds += 300
    async with periodic(fake, engine) as one, periodic(fake, engine) as another:
        assert await one.run_if_due(now=fake.now())
        assert await stored_orders(engine) == newest_of(fake)
        assert not await another.run_if_due(now=fake.now() + EVERY - timedelta(seconds=60))
        fake.seconds += EVERY.total_seconds()
        assert await another.run_if_due(now=fake.now())
    assert [secret for secret in (CLIENT_SECRET, *fake.api.tokens) if secret in caplog.text] == []
    first, second = logged(caplog, "reconciled")
    (warned,) = logged(caplog, "orders_missing")
    assert first["missing"] == warned["missing"] == len(newest_of(fake))
    assert second["missing"] == 0


async def test_nothing_begins_while_another_process_reconciles(engine):
    fake = Fake()
    async with periodic(fake, engine) as worker, alone(engine) as mine, alone(engine) as too:
        assert (mine, too) == (True, False)
        assert not await worker.run_if_due(now=fake.now())
    async with periodic(fake, engine) as worker:
        assert await worker.run_if_due(now=fake.now())


async def test_an_interrupted_run_is_resumed_at_once(engine, database_url):
    fake = Fake()
    await receive(database_url, map(webhook_of, lived(fake, 10)))
    async with writing(engine) as connection:
        run = await begin(connection, Asked(since=fake.now() - timedelta(days=1)), now=fake.now())
    async with periodic(fake, engine) as worker:
        assert await worker.run_if_due(now=fake.now())
    async with writing(engine) as connection:
        after = await begin(connection, run.asked, now=fake.now())
    assert after.id != run.id


async def test_wrong_credentials_are_told_and_tried_once_in_fifteen_minutes(engine, caplog):
    fake = Fake()
    async with periodic(fake, engine, client_secret="a wrong one") as worker:
        for _ in range(10):
            fake.seconds += 80
            with pytest.raises(CredentialsRefused):
                await worker.run_if_due(now=fake.now())
    assert fake.tokens == 1
    assert "a wrong one" not in caplog.text


async def test_a_failed_run_is_told_without_secrets_and_deliveries_go_on(engine, caplog):
    fake = Fake(api_key="another-key")
    async with periodic(fake, engine, api_key=API_KEY) as worker:
        task = asyncio.create_task(worker.go_on())
        async with asyncio.timeout(30):
            while not logged(caplog, "reconcile_failed"):  # noqa: ASYNC110 - the log has no event
                await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
    (told,) = logged(caplog, "reconcile_failed")
    assert "403 FORBIDDEN" in told["error"]
    assert [secret for secret in (CLIENT_SECRET, API_KEY, *fake.api.tokens) if secret in caplog.text] == []


async def test_a_run_of_a_clock_that_was_ahead_keeps_no_later_one_from_being_due(engine):
    fake = Fake()
    lived(fake, 5)
    year = timedelta(days=365)
    async with periodic(fake, engine) as worker:
        async with writing(engine) as connection:
            run = await begin(connection, Asked(since=fake.now() + year), now=fake.now() + year)
            await finish(connection, run, Counts(), now=fake.now() + year)
        fake.seconds += 300
        assert await worker.run_if_due(now=fake.now())
        assert await stored_orders(engine) == newest_of(fake)
        assert not await worker.run_if_due(now=fake.now() + EVERY - timedelta(seconds=60))


async def test_the_newest_run_is_the_one_that_began_last_whatever_the_ids_say(engine):
    now = Fake().now()
    async with writing(engine) as connection:
        for minutes in (0, 20):
            run = await begin(connection, Asked(since=now), now=now + timedelta(minutes=minutes))
            await finish(connection, run, Counts(), now=now)
        ahead = {"id": id_floor(datetime.now(UTC) + timedelta(days=1))}
        first = Reconciliation.started_at == now
        await connection.execute(update(Reconciliation).where(first).values(ahead))
        last = await last_start(connection, now=now + timedelta(minutes=21))
    assert last is not None
    assert last.at == now + timedelta(minutes=20)

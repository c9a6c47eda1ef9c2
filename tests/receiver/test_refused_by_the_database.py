import asyncio
import json

import pytest
from sqlalchemy import text

from app.events.rows import Stored
from app.events.store import StoreRefused, StoreUnavailable
from tests.conftest import WEBHOOK, basic_header, payload
from tests.events.stores import new_event, running

NOTIFICATION = payload("01-notification-order-create")
OTHER = b'{"data": {"notification": {"notification_event": "ORDER_OTHER", "notification_id": "other"}}}'

REFUSE = {
    "sqlite": """
        CREATE TRIGGER refuse BEFORE INSERT ON events WHEN NEW.type = 'ORDER_CREATE'
        BEGIN SELECT RAISE(ABORT, 'refused'); END
    """,
    "postgresql": "ALTER TABLE events ADD CONSTRAINT refuse CHECK (type <> 'ORDER_CREATE')",
}
ALLOW = {"sqlite": "DROP TRIGGER refuse", "postgresql": "ALTER TABLE events DROP CONSTRAINT refuse"}


@pytest.fixture
async def refusing(engine):
    """The database refuses what is read from one kind of event, for good."""
    async with engine.begin() as connection:
        await connection.execute(text(REFUSE[engine.dialect.name]))
    yield
    async with engine.begin() as connection:
        await connection.execute(text(ALLOW[engine.dialect.name]))


@pytest.mark.usefixtures("refusing")
async def test_an_event_that_the_database_refuses_for_good_is_quarantined_with_its_bytes(database_url, start, stored):
    async with start(database_url) as client:
        first, again = [await client.post(WEBHOOK, content=NOTIFICATION, headers=basic_header()) for _ in range(2)]
        other = await client.post(WEBHOOK, content=OTHER, headers=basic_header())
    assert [first.status_code, again.status_code, other.status_code] == [200, 200, 200]
    assert first.headers["Event-Id"] == again.headers["Event-Id"]
    kept, accepted = await stored()
    assert (kept.status, kept.type, kept.body, kept.duplicates) == ("quarantined", None, NOTIFICATION, 1)
    assert "The database refused" in kept.reason
    assert (accepted.status, accepted.type) == ("accepted", "ORDER_OTHER")


LEAVE_OUT = {
    "sqlite": [
        """CREATE TRIGGER leave_out BEFORE INSERT ON events WHEN NEW.type = 'ORDER_CREATE'
        BEGIN SELECT RAISE(IGNORE); END"""
    ],
    "postgresql": [
        "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        """CREATE TRIGGER leave_out BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.type = 'ORDER_CREATE')
        EXECUTE FUNCTION leave_out()""",
    ],
}
LEAVE_IN = {"sqlite": "DROP TRIGGER leave_out", "postgresql": "DROP FUNCTION leave_out CASCADE"}


@pytest.fixture
async def leaving_out(engine):
    """A trigger of the operator's own leaves out what is read from one kind of event, without an error."""
    async with engine.begin() as connection:
        for statement in LEAVE_OUT[engine.dialect.name]:
            await connection.execute(text(statement))
    yield
    async with engine.begin() as connection:
        await connection.execute(text(LEAVE_IN[engine.dialect.name]))


@pytest.mark.usefixtures("leaving_out")
async def test_an_event_that_a_trigger_leaves_out_is_quarantined(database_url, start, stored):
    async with start(database_url) as client, asyncio.timeout(30):
        replies = [await client.post(WEBHOOK, content=body, headers=basic_header()) for body in (NOTIFICATION, OTHER)]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert [(row.status, row.body) for row in await stored()] == [("quarantined", NOTIFICATION), ("accepted", OTHER)]


@pytest.mark.usefixtures("leaving_out")
async def test_what_a_trigger_leaves_out_costs_the_others_of_its_batch_nothing(database_url, stored):
    bad, *others = [new_event("bad", type="ORDER_CREATE"), *(new_event(str(number)) for number in range(9))]
    async with running(database_url) as store, asyncio.timeout(30):
        results = await asyncio.gather(*(store.append(each) for each in (bad, *others)), return_exceptions=True)
    assert isinstance(results[0], StoreRefused)
    assert results[1:] == [Stored(each.id, duplicate=False) for each in others]
    assert [row.duplicates for row in await stored()] == [0] * 9


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_reference_too_long_for_an_index_is_quarantined(database_url, start, stored):
    content = json.loads(NOTIFICATION)
    content["data"]["notification"]["notification_item_id"] = "".join(
        chr(0x4E00 + 7 * each % 20000) for each in range(9000)
    )
    async with start(database_url) as client:
        reply = await client.post(WEBHOOK, content=json.dumps(content), headers=basic_header())
    (kept,) = await stored()
    assert reply.status_code == 200
    assert json.loads(kept.body) == content


async def test_a_row_that_the_database_refuses_is_told_from_a_database_in_trouble(database_url):
    async with running(database_url) as store:
        with pytest.raises(StoreRefused):
            await store.append(new_event("bad", order_version=2**70))
    assert issubclass(StoreRefused, StoreUnavailable)

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, text

from app.alarms.changes import Changes
from app.alarms.findings import warning
from app.alarms.kept import keep
from app.console.now import place_of
from app.database.schema import known_revisions
from app.database.writing import writing
from app.events.tables import Event
from tests.cli.test_alarms import FIRING
from tests.console.conftest import HOSTILE, Browser, sign_in
from tests.events.stores import new_event

NOW = datetime.now(UTC)


@pytest.fixture
def store(engine):
    async def store(*events):
        async with writing(engine) as connection:
            await connection.execute(insert(Event), [event._asdict() for event in events])

    return store


async def test_what_is_wrong_is_said_with_what_to_type_and_where_to_go(desk):
    page = await desk.see("/console")
    assert "No worker runs: nothing is delivered." in page
    assert "<code><bdi>priohook worker</bdi></code>" in page
    assert '<a href="#processes">See below</a>' in page
    assert '<a href="/console/runbooks#PriohookNoWorker">What to do</a>' in page


@pytest.mark.parametrize(
    ("name", "subject", "words", "address"),
    [
        ("dead", "erp", "See deliveries", "/console/deliveries?status=dead&destination=erp"),
        ("destination_paused", "a/b", "See destinations", "/console/destinations/a%2Fb"),
        ("quarantined", None, "See events", "/console/events?status=quarantined"),
        ("credential_expires", "north", "See settings", "/console/settings#clients"),
        ("disk", "database", "See below", "#storage"),
    ],
)
def test_a_finding_leads_to_where_one_acts(name, subject, words, address):
    assert place_of(warning(name=name, subject=subject, what="", command="")) == (words, address)


def test_a_finding_that_is_new_here_leads_nowhere():
    assert place_of(warning(name="unheard_of", what="", command="")) is None


async def test_events_that_could_not_be_counted_are_not_said_to_be_none(desk, monkeypatch):
    async def too_slow(*_):
        raise TimeoutError

    monkeypatch.setattr("app.events.rates.count_steps", too_slow)
    page = await desk.see("/console")
    assert "did not count them in time" in page
    assert "Nothing has arrived" not in page


async def test_all_is_well_when_nothing_is_wrong(start, database_url):
    async with start(database_url) as client:
        await sign_in(client, "onlooker")
        page = await Browser(client).see("/console")
    assert "All is well." in page
    assert "As of <time" in page
    assert "None fires." in page


async def test_the_page_has_each_part(desk, store):
    await store(
        new_event("1", type="ORDER_CREATE"),
        new_event("2", type="REDEMPTION", received_at=NOW - timedelta(weeks=1)),
        new_event("3", status="quarantined", reason="400: The body is not JSON."),
    )
    page = await desk.see("/console")
    assert '<a href="/console/events?type=ORDER_CREATE">' in page
    assert "400: The body is not JSON." in page
    assert '<a href="/console/events?status=quarantined">' in page
    assert '<a href="/console/destinations/erp">' in page
    assert 'role="img" aria-labelledby="chart-title chart-text"' in page
    assert "Events a minute, by hour" in page
    assert "Schema" in page
    assert "Last backup" in page
    assert "receiver" in page


async def test_alarms_that_fire_are_shown(desk, engine):
    async with writing(engine) as connection:
        await keep(connection, Changes([FIRING], [], [], []), ["ops"], now=NOW)
    page = await desk.see("/console")
    assert FIRING.what in page
    assert "1 notice is still to be told" in page


async def test_hostile_text_stays_text(desk, store):
    await store(
        new_event("1", type=HOSTILE),
        new_event("2", status="quarantined", reason=HOSTILE),
    )
    page = await desk.see("/console")
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert page.count("\\u202e") >= 2


async def test_without_its_database_the_page_says_so(desk, engine):
    version = text("UPDATE alembic_version SET version_num = :version")
    async with writing(engine) as connection:
        await connection.execute(version, {"version": "0001"})
    try:
        page = await desk.see("/console")
    finally:
        async with writing(engine) as connection:
            await connection.execute(version, {"version": known_revisions()[-1]})
    assert "priohook migrate" in page
    assert "when the database can be read again" in page


async def test_a_closed_page_of_the_api_has_no_link(start, database_url):
    for closed, links in ([], 1), (["/docs"], 0):
        async with start(database_url, closed_urls=closed) as client:
            await sign_in(client, "desk")
            page = await Browser(client).see("/console")
            assert page.count('href="/docs"') == links

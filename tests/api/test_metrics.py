import re
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from sqlalchemy import text

from app.alarms.gauges import TYPES
from app.api.metrics import KEPT, Page, create_page
from app.application import create_app
from app.database.writing import writing
from app.settings.clients import ClientSettings
from app.settings.model import Settings
from app.telemetry.logs import LogWriter
from app.telemetry.meter import Meter
from app.telemetry.snapshots import Publisher
from tests.conftest import CLIENTS, WEBHOOK, _with_state, basic_header, payload
from tests.pages import PROJECT
from tests.pages import page as documented

NAME = re.compile(r"^# TYPE (\w+) (\w+)$", re.MULTILINE)
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
ERP = {"erp": {"url": "https://erp.example/in"}}
JSON = {"Content-Type": "application/json"}


class Clock:
    def __init__(self):
        self.now = datetime.now(UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def settings(database_url):
    clients = {name: ClientSettings.model_validate(each) for name, each in CLIENTS.items()}
    return Settings(database_url=database_url, clients=clients, destinations=ERP)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def shown(settings, engine, tmp_path, clock):
    """`await shown()`: the values of the page by name and labels."""
    page = Page(settings, tmp_path, engine, clock=clock)

    async def shown():
        written = (await page.text()).decode()
        return {(name, labels): float(value) for name, labels, value in SAMPLE.findall(written)}

    return shown


@pytest.fixture
async def receiver(settings, tmp_path, log):
    """A client of a receiver that counts; its file is there when it has ended."""
    publisher = Publisher(Meter(types=TYPES, destinations=["erp"]), tmp_path, process="receiver-0")
    app = create_app(settings, log=LogWriter(log, style="json"), publisher=publisher)

    async def posted(*requests):
        async with app.lifespan_context(app) as state:
            transport = httpx2.ASGITransport(_with_state(app, dict(state or {})))
            async with httpx2.AsyncClient(transport=transport, base_url="http://priohook") as client:
                return [await client.post(WEBHOOK, **request) for request in requests]

    return posted


async def test_the_page_counts_what_a_receiver_answered(receiver, shown):
    event = {"content": payload("01-notification-order-create"), "headers": basic_header() | JSON}
    await receiver(
        event,
        event,
        {"content": b"{}", "headers": basic_header() | JSON},
        {"content": b"{}", "headers": basic_header(secret="wrong-horse-battery-staple")},
    )
    values = await shown()
    assert values["priohook_http_requests_total", 'endpoint="webhook",status="200"'] == 2
    assert values["priohook_http_requests_total", 'endpoint="webhook",status="422"'] == 1
    refused = 'endpoint="webhook",reason="wrong_secret",status="401"'
    assert values["priohook_refused_requests_total", refused] == 1
    for outcome in ("accepted", "copy"):
        assert values["priohook_received_events_total", f'outcome="{outcome}",type="ORDER_CREATE"'] == 1
    assert values["priohook_quarantines_total", 'reason="unprocessable"'] == 1
    assert values["priohook_acknowledgement_duration_seconds_count", ""] == 2
    assert values["priohook_commit_events_sum", ""] == 3
    assert values["priohook_waiting_events", ""] == 0
    assert values["priohook_quarantined_events", 'status="422"'] == 1
    assert values["priohook_events_last_hour", ""] == 2
    assert values["priohook_last_accepted_timestamp_seconds", 'client="prioticket"'] > 1.7e9
    assert values["priohook_last_event_timestamp_seconds", 'type="ORDER_CREATE"'] > 1.7e9
    assert values["priohook_undispatched_events", ""] == 1
    assert values["priohook_database_up", ""] == values["priohook_schema_current", ""] == 1
    assert values["process_resident_memory_bytes", 'process="receiver-0"'] > 0


async def test_the_page_tells_how_each_destination_stands(workers, clock, shown):
    clock.now = workers.now
    await workers.store("PRI1")
    await workers.store("PRI1")
    await workers.dispatch()
    (claim,) = (await workers.turn()).claims
    await workers.turn(workers.ended(claim, 500))
    clock.now = workers.now + timedelta(minutes=20)
    values = await shown()
    assert values["priohook_destination_state", 'destination="erp",state="failing"'] == 1
    assert values["priohook_destination_state", 'destination="erp",state="ready"'] == 0
    assert values["priohook_deliveries", 'destination="erp",state="due"'] == 1
    assert values["priohook_deliveries", 'destination="erp",state="waiting"'] == 1
    assert values["priohook_failing_deliveries", 'destination="erp"'] == 1
    assert values["priohook_held_back_references", 'destination="erp"'] == 1
    assert 0 < values["priohook_oldest_due_seconds", 'destination="erp"'] <= 1200


async def test_a_destination_that_is_not_in_the_settings_has_no_series(workers, clock, shown):
    await workers.register("https://someone.example/?token=secret")
    clock.now = workers.now
    assert "someone" not in str(await shown())


async def test_no_label_has_what_a_client_chose(receiver, shown):
    made_up = payload("01-notification-order-create").replace(b"ORDER_CREATE", b"MADE_UP")
    await receiver({"content": made_up, "headers": basic_header() | JSON})
    values = await shown()
    assert values["priohook_received_events_total", 'outcome="accepted",type="other"'] == 1
    assert values["priohook_last_event_timestamp_seconds", 'type="other"'] > 1.7e9
    assert not re.search("MADE_UP|PRI|127.0.0.1|/webhooks", str(values))


async def test_the_database_is_asked_every_ten_seconds_at_most(receiver, shown, clock):
    assert (await shown())["priohook_stored_events", ""] == 0
    await receiver({"content": b"{}", "headers": basic_header() | JSON})
    assert (await shown())["priohook_quarantined_events", 'status="422"'] == 0
    assert (await shown())["priohook_quarantines_total", 'reason="unprocessable"'] == 1
    clock.now += KEPT
    assert (await shown())["priohook_quarantined_events", 'status="422"'] == 1


async def test_a_schema_that_is_behind_is_told(engine, shown):
    async with writing(engine) as connection:
        before = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        await connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    try:
        values = await shown()
    finally:
        async with writing(engine) as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :before"), {"before": before})
    assert (values["priohook_database_up", ""], values["priohook_schema_current", ""]) == (1, 0)


async def test_while_the_database_is_away_the_page_tells_what_the_processes_counted_and_what_the_spool_holds(tmp_path):
    nowhere = Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing", spool=tmp_path)
    meter = Meter()
    async with Publisher(meter, tmp_path, process="receiver-0").running():
        meter.answered({"path": "/healthz", "status": 200}, 0.001)
    app = create_page(nowhere, tmp_path)
    async with app.router.lifespan_context(app) as state:
        transport = httpx2.ASGITransport(_with_state(app, dict(state or {})))
        async with httpx2.AsyncClient(transport=transport, base_url="http://priohook") as client:
            reply, other = await client.get("/metrics"), await client.get("/api/events")
    assert (reply.status_code, other.status_code) == (200, 404)
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\npriohook_database_up 0.0\n" in reply.text
    assert '\npriohook_http_requests_total{endpoint="health",status="200"} 1.0\n' in reply.text
    assert "\npriohook_spool_oldest_seconds 0.0\n" in reply.text
    assert '\npriohook_disk_free_bytes{place="spool"} ' in reply.text
    assert "priohook_stored_events" not in reply.text


async def test_the_public_port_has_no_metrics(client):
    assert (await client.get("/metrics")).status_code == 404


async def test_each_series_is_documented_and_each_that_is_used_exists(settings, engine, tmp_path):
    written = (await Page(settings, tmp_path, engine).text()).decode()
    names = {
        f"{name}_total" if kind == "counter" and not name.endswith("_total") else name: kind
        for name, kind in NAME.findall(written)
    }
    ours = {name for name in names if name.startswith("priohook_")}
    assert len(ours) > 25
    table = re.findall(r"^\| `(priohook_\w+)`", documented("metrics"), re.MULTILINE)
    assert sorted(table) == sorted(ours)
    rows = re.findall(r"^\| `(priohook_\w+)` \| \w+ \| ([^|]*)\|", documented("metrics"), re.MULTILINE)
    labels = {name: {*re.findall(r"`(\w+)`", cell), "instance", "le"} for name, cell in rows}
    parts = {
        f"{name}{part}" for name, kind in names.items() if kind == "histogram" for part in ("_bucket", "_sum", "_count")
    }
    folder = PROJECT / "deploy" / "prometheus"
    for path in [folder / "priohook.rules.yml", folder / "grafana-dashboard.json", PROJECT / "docs" / "runbooks.md"]:
        used = set(re.findall(r"\b(?:priohook|process)_\w+", path.read_text()))
        assert used, path
        assert used <= set(names) | parts, path
        for name, chosen in re.findall(r"\b(priohook_\w+)\{([^}]*)\}", path.read_text()):
            series = name if name in labels else name.rpartition("_")[0]
            assert set(re.findall(r"(\w+)!?[=~]+", chosen)) <= labels[series], (path, name)

"""Workers that look at a database for which the test decides the time, and tell channels that the test listens to."""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta
from socket import create_server

import pytest
from aiohttp import web
from sqlalchemy import select, update
from standardwebhooks import Webhook

from app.alarms.kept import FIRST_REST, GIVEN_UP_AFTER, firing_alarms, listed_alarms, untold_notices
from app.alarms.leading import leading
from app.alarms.tables import Notice
from app.alarms.watching import AlarmWatch
from app.database.engines import engine_for
from app.database.writing import writing
from app.deliveries.tables import Destination
from app.settings.keys import new_signing_secret
from app.settings.model import Settings
from tests.deliveries.workers import NOON

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
ERP = {"erp": {"url": "https://erp.example/in"}}
SECRET = new_signing_secret()


class Listener:
    """Answers what the test says, and remembers what it was told."""

    def __init__(self):
        self.status = 200
        self.requests = []
        self.hangs = False
        self.ended = asyncio.Event()

    @property
    def told(self):
        return [json.loads(body) for _, body in self.requests]

    async def take(self, request):
        self.requests.append((dict(request.headers), await request.read()))
        if self.hangs:
            await self.ended.wait()
        return web.Response(status=self.status)

    @asynccontextmanager
    async def running(self, port=0):
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", self.take)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}/secret-path"
        try:
            yield self
        finally:
            self.ended.set()
            await runner.cleanup()


@pytest.fixture
async def listener():
    async with Listener().running() as listener:
        yield listener


class Watched:
    """A worker's watch whose time is that of the workers."""

    def __init__(self, engine, workers, settings):
        self.workers = workers
        self.engine = engine
        self.watch = AlarmWatch(engine, settings, clock=lambda: workers.now)

    async def look(self):
        async with leading(self.engine) as lead:
            assert lead is not None
            return await self.watch.look(lead, now=self.workers.now)

    async def tell(self, name="ops"):
        await self.watch.tell(name)


@pytest.fixture
def watched(engine, workers, database_url, listener):
    def watched(**changes):
        channels = {"ops": {"url": listener.url, "secret": SECRET}}
        alarms = {"circuit": {"older_than": "0s"}}
        given = {"database_url": database_url, "destinations": ERP, "alarm_channels": channels, "alarms": alarms}
        return Watched(engine, workers, Settings(**given | changes))

    return watched


@pytest.fixture
def circuit(engine):
    """`await circuit(open=True)` opens the circuit breaker of `erp`."""

    async def change(*, is_open):
        since = NOON if is_open else None
        values = {"failures": 10 * is_open, "failing_since": since, "probe_at": since}
        async with writing(engine) as connection:
            await connection.execute(update(Destination).values(values))

    return change


async def test_an_alarm_is_told_once_when_it_starts_and_once_when_it_ends(watched, workers, circuit, listener):
    worker = watched()
    await worker.look()
    await circuit(is_open=True)
    for _ in range(3):
        await worker.look()
        await worker.tell()
        workers.wait(60)
    await circuit(is_open=False)
    for _ in range(8):
        await worker.look()
        await worker.tell()
        workers.wait(60)
    started, ended = listener.told
    assert (started["type"], ended["type"]) == ("alarm.started", "alarm.ended")
    assert started["data"]["what"].startswith("erp has failed 10 times in a row")
    assert started["data"]["command"] == "priohook deliveries list --failing --destination erp"
    assert started["data"]["id"] == ended["data"]["id"]
    assert ended["data"]["ended_at"] is not None


async def test_what_is_told_is_signed_as_deliveries_are(watched, workers, circuit, listener, monkeypatch):
    worker = watched()
    await circuit(is_open=True)
    await worker.look()
    await worker.tell()
    ((headers, body),) = listener.requests
    lower = {name.lower(): value for name, value in headers.items()}
    signature = Webhook(SECRET).sign(lower["webhook-id"], workers.now, body.decode())
    assert lower["webhook-signature"] == signature
    assert lower["webhook-timestamp"] == str(int(workers.now.timestamp()))


async def test_a_channel_that_was_away_is_told_everything_in_order(watched, workers, circuit, listener, engine):
    worker = watched()
    listener.status = 500
    await circuit(is_open=True)
    await worker.look()
    await worker.tell()
    await circuit(is_open=False)
    for _ in range(10):
        workers.wait(60)
        await worker.look()
        await worker.tell()
    assert {each["type"] for each in listener.told} == {"alarm.started"}
    assert 3 <= len(listener.requests) <= 6
    listener.status, listener.requests = 200, []
    for _ in range(2):
        workers.wait(600)
        await worker.tell()
    assert [each["type"] for each in listener.told] == ["alarm.started", "alarm.ended"]
    async with engine.connect() as connection:
        assert await untold_notices(connection) == 0


async def test_a_notice_that_cannot_be_told_for_a_day_is_given_up(watched, workers, circuit, listener, engine):
    worker = watched()
    listener.status = 500
    await circuit(is_open=True)
    await worker.look()
    await worker.tell()
    workers.wait(GIVEN_UP_AFTER.total_seconds())
    await worker.tell()
    async with engine.connect() as connection:
        assert await untold_notices(connection) == 0
        (error,) = await connection.scalars(select(Notice.error))
    assert error == "It answered 500."
    assert listener.url not in error


async def test_an_alarm_that_lasts_for_a_day_is_told_again(watched, workers, circuit, listener):
    worker = watched()
    await circuit(is_open=True)
    for _ in range(25):
        await worker.look()
        await worker.tell()
        workers.wait(3600)
    assert [each["type"] for each in listener.told] == ["alarm.started", "alarm.lasts"]


async def test_a_restart_tells_nothing_again(watched, workers, circuit, listener):
    await circuit(is_open=True)
    for _ in range(3):
        worker = watched()
        await worker.look()
        await worker.tell()
        workers.wait(60)
    assert len(listener.told) == 1


async def test_two_workers_that_look_at_once_start_an_alarm_once(watched, circuit, engine, database_url):
    await circuit(is_open=True)
    one = watched()
    async with engine_for(database_url) as other_engine:
        two = Watched(other_engine, one.workers, one.watch._settings)  # noqa: SLF001 - the same settings
        if engine.dialect.name == "postgresql":
            async with leading(engine) as lead, leading(other_engine) as other:
                assert lead is not None
                assert other is None
        await one.look()
        await two.look()
        await one.look()
    async with engine.connect() as connection:
        assert len(await firing_alarms(connection)) == 1
        assert len(list(await connection.scalars(select(Notice.id)))) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_another_worker_leads_when_the_one_that_led_has_ended(engine, database_url):
    async with engine_for(database_url) as other_engine:
        async with leading(engine) as lead:
            assert lead is not None
        async with leading(other_engine) as other:
            assert other is not None


async def test_a_channel_that_hangs_holds_up_no_other_and_not_the_end(database_url, engine, workers, circuit, listener):
    async with Listener().running() as hanging:
        hanging.hangs = True
        channels = {"hangs": {"url": hanging.url}, "ops": {"url": listener.url}}
        alarms = {"circuit": {"older_than": "0s"}}
        settings = Settings(database_url=database_url, destinations=ERP, alarm_channels=channels, alarms=alarms)
        await circuit(is_open=True)
        async with asyncio.timeout(60):
            async with AlarmWatch(engine, settings).running():
                while not (listener.requests and hanging.requests):  # noqa: ASYNC110 - another task's doing
                    await asyncio.sleep(0.01)
    async with engine.connect() as connection:
        assert await untold_notices(connection) == 1


@pytest.fixture
def apprised(watched, monkeypatch):
    """`apprised(port)` is a worker that tells a channel of apprise."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda port: watched(alarm_channels={"ops": {"url": f"json://127.0.0.1:{port}/secret-path"}})


@pytest.mark.slow
async def test_a_channel_of_apprise_is_told_what_is_wrong_and_what_to_type(apprised, circuit, listener):
    worker = apprised(listener.port)
    await circuit(is_open=True)
    await worker.look()
    await worker.tell()
    (told,) = listener.told
    assert (told["title"], told["type"]) == ("priohook: circuit erp: destination down", "failure")
    assert "erp has failed 10 times in a row" in told["message"]
    assert "Type: priohook deliveries list --failing --destination erp" in told["message"]


@pytest.mark.slow
async def test_a_channel_of_apprise_that_is_away_is_logged_and_told_later(apprised, workers, circuit, engine, caplog):
    with create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    worker = apprised(port)
    await circuit(is_open=True)
    await worker.look()
    await worker.tell()
    (untold,) = [record.fields for record in caplog.records if record.message == "alarm_untold"]
    assert (untold["channel"], untold["attempts"]) == ("ops", 1)
    assert untold["next_at"] == str(workers.now + FIRST_REST)
    assert untold["error"].startswith("Apprise could not tell it: ")
    assert "secret-path" not in untold["error"]
    workers.wait(FIRST_REST.total_seconds())
    async with Listener().running(port) as back:
        await worker.tell()
        await worker.tell()
    assert [each["title"] for each in back.told] == ["priohook: circuit erp: destination down"]
    async with engine.connect() as connection:
        assert await untold_notices(connection) == 0


async def test_a_ping_is_sent_only_while_no_critical_alarm_fires(watched, workers, circuit):
    worker = watched()
    worker.watch._leads = True  # noqa: SLF001 - as a worker that runs
    await worker.look()
    assert worker.watch.is_well
    workers.wait(120)
    assert not worker.watch.is_well  # nobody has looked for too long
    await circuit(is_open=True)
    await worker.look()
    assert not worker.watch.is_well


async def test_pings_are_sent_while_all_is_well(database_url, engine, listener, workers):
    channels = {"watch": {"ping": listener.url, "every": "1s"}}
    settings = Settings(database_url=database_url, alarm_channels=channels)
    async with asyncio.timeout(60):
        async with AlarmWatch(engine, settings).running():
            while len(listener.requests) < 2:  # noqa: ASYNC110 - another task's doing
                await asyncio.sleep(0.01)


async def test_what_waits_for_a_channel_that_left_the_settings_is_given_up(
    watched, circuit, listener, engine, database_url
):
    worker = watched()
    await circuit(is_open=True)
    await worker.look()
    settings = Settings(database_url=database_url, alarms={"dead": {}})
    async with asyncio.timeout(60):
        async with AlarmWatch(engine, settings).running():
            while True:
                async with engine.connect() as connection:
                    if await untold_notices(connection) == 0:
                        break
                await asyncio.sleep(0.01)
    assert listener.requests == []


async def test_an_alarm_that_left_the_settings_ends(watched, circuit, engine, workers):
    await circuit(is_open=True)
    await watched().look()
    await watched(alarms={"dead": {}}).look()
    async with engine.connect() as connection:
        (alarm,) = await listed_alarms(connection, limit=10)
    assert alarm.ended_at == workers.now


async def test_alarms_are_forgotten_a_month_after_their_end(watched, circuit, engine, workers):
    worker = watched()
    for _ in range(2):
        await circuit(is_open=True)
        await worker.look()
        await circuit(is_open=False)
        workers.wait(400)
        await worker.look()
        workers.wait(31 * DAY.total_seconds())
    async with engine.connect() as connection:
        assert len(await listed_alarms(connection, limit=10)) == 1
        assert len(list(await connection.scalars(select(Notice.id)))) == 2

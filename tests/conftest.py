import asyncio
import io
import json
import os
import shutil
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope
from xdist.scheduler import LoadGroupScheduling

from app.alarms import tables as alarms  # noqa: F401 - so that Base knows them
from app.application import create_app
from app.audit import tables as audit  # noqa: F401
from app.auth.tokens import issue
from app.database import columns, engines, migrations
from app.deliveries import tables as deliveries  # noqa: F401
from app.events import fetches, ids  # noqa: F401
from app.events.tables import Event
from app.reconciliation import tables as reconciliation  # noqa: F401
from app.retention import tables as retention  # noqa: F401
from app.settings.clients import ClientSettings, Scope
from app.settings.model import Settings
from app.telemetry import tables as telemetry  # noqa: F401
from app.telemetry.logs import LogWriter
from tests import postgres
from tests.deliveries.workers import Workers

SECRET = "correct-horse-battery-staple"
TOKEN_KEY = "a-key-that-signs-tokens-in-tests-alone"
HERE = Path(__file__).parent
PAYLOADS = HERE / "payloads"
E2E = HERE / "e2e"
PROMETHEUS = HERE / "prometheus"
WEBHOOK = "/webhooks/prioticket"
NEEDED = {
    PROMETHEUS: ("prometheus", bool(shutil.which("prometheus") and shutil.which("promtool"))),
    E2E / "test_console.py": ("chromium", bool(shutil.which("chromium"))),
    E2E / "test_rabbitmq.py": ("rabbitmq-server", bool(shutil.which("rabbitmq-server", path="/usr/sbin"))),
    E2E / "test_nats.py": ("nats-server", bool(shutil.which("nats-server"))),
    HERE / "test_systemd.py": ("systemd", bool(shutil.which("systemd-analyze"))),
}
"""Tests that need a package of Debian, which `.ci/run` installs: the package, and whether it is there."""

# Else pytest and each process that a test starts would compile their modules anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Deadlines measure the machine, and function-scoped fixtures are shared between examples on purpose.
hypothesis_settings.register_profile(
    "ours", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
hypothesis_settings.load_profile("ours")

FILLED = """
    SELECT string_agg(oid::regclass::text, ', ') FROM pg_class
    WHERE relname = ANY($1) AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0
"""

CLIENTS = {
    "prioticket": {"secret": SECRET, "scopes": ["webhooks:send"]},
    "reader": {"secret": SECRET, "scopes": ["events:read"]},
    "operator": {"secret": SECRET, "scopes": ["events:read", "events:replay"]},
    "officer": {"secret": SECRET, "scopes": ["events:read", "events:replay", "events:erase"]},
    "onlooker": {"secret": SECRET, "scopes": ["console"]},
    "desk": {"secret": SECRET, "scopes": ["console", "events:read", "events:replay", "events:erase"]},
}


def basic_header(username: str = "prioticket", secret: str = SECRET) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{username}:{secret}".encode()).decode()}


def bearer_header(client: str = "reader", *scopes: Scope, key: str = TOKEN_KEY) -> dict[str, str]:
    """A token of the client; its scope is `events:read` unless others are given."""
    token = issue(
        client,
        frozenset(scopes or [Scope.READ]),
        keys=[key.encode()],
        lifetime=timedelta(hours=1),
        token_id="1",
        now=datetime.now(UTC),
    )
    return {"Authorization": f"Bearer {token}"}


def payload(name: str) -> bytes:
    """The bytes of a sample, such as `01-notification-order-create`."""
    return (PAYLOADS / f"{name}.json").read_bytes()


async def readiness(client: httpx2.AsyncClient, status: int) -> httpx2.Response:
    """Asks `/readyz` until it has this status, since the receiver checks its database only every second."""
    async with asyncio.timeout(30):
        while (reply := await client.get("/readyz")).status_code != status:  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.05)
    return reply


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="attack and measure for minutes instead of seconds")
    parser.addoption("--record", action="store_true", help="write the tables of faults into their pages of docs/")
    parser.addoption("--seed", type=int, help="the seed of the faults in tests/e2e/test_soak.py; a new one by default")
    parser.addoption("--minutes", type=float, default=30, help="how long that test lasts with --long")
    parser.addoption("--screenshots", metavar="FOLDER", help="write a picture of each page of the console there")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests as slow that need processes: a PostgreSQL server, or what tests/e2e starts.

    Those marked as long are left out, unless `--long` is given.

    They come first, those of tests/e2e before the others: many short ones at the end keep all workers busy. Of several
    workers never all should wait, so those of tests/e2e, which mostly wait, are spread among others, which compute.
    """
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        callspec = getattr(item, "callspec", None)
        fixtures = set(getattr(item, "fixturenames", ()))
        on_postgres = fixtures & {"postgres_server_url", "own_server"} or (
            callspec and "postgresql" in callspec.params.values()
        )
        if on_postgres or item.path.is_relative_to(E2E) or item.path.is_relative_to(PROMETHEUS):
            item.add_marker("slow")
    items.sort(key=lambda item: (not item.path.is_relative_to(E2E), item.get_closest_marker("slow") is None))
    if hasattr(config, "workerinput"):  # of xdist
        items[:] = _spread(items)


def _spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """Tests of tests/e2e evenly among the first three quarters of the others."""
    count = sum(item.path.is_relative_to(E2E) for item in items)
    places = [0.75 * n / count for n in range(count)] + [n / (len(items) - count) for n in range(len(items) - count)]
    order = sorted(range(len(items)), key=places.__getitem__)
    return [items[n] for n in order]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out tests/e2e if all of it would be deselected: importing it takes as long as a hundred tests.

    What needs a package that is missing is left out too; the report's head tells.
    """
    deselected = config.option.markexpr == "not slow" and collection_path == E2E
    _, is_there = NEEDED.get(collection_path, ("", True))
    return True if deselected or not is_there else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadGroupScheduling:
    return _Together(config, log)


class _Together(LoadGroupScheduling):  # type: ignore[misc] # xdist has no types
    """Runs the tests of a module in one process if they share a fixture, such as a server, a browser or a wheel.

    Each process would make it anew, and again after each test of another module. The mark for this, `xdist_group`, has
    no effect with pytest 9.2 and pytest-xdist 3.8, and nobody is told.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if _shares_a_fixture(module) else nodeid


@cache
def _shares_a_fixture(module: str) -> bool:
    return 'scope="module"' in (HERE.parent / module).read_text()


def pytest_report_header() -> list[str]:
    missing = [(path, package) for path, (package, is_there) in NEEDED.items() if not is_there]
    return [
        f"{path.relative_to(HERE.parent)} is left out: Debian's {package} is not installed."
        for path, package in missing
    ]


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether this run may take minutes."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PRIOHOOK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def ids_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids never go back within a process, so a test with events of tomorrow would make all later ones tomorrow's."""
    monkeypatch.setattr(ids, "_last", 0)


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """A database server for all tests. They use its database `priohook_test` and leave the tables empty."""
    if given := os.environ.get("TEST_POSTGRES_URL"):
        yield given
        return
    with postgres.server() as running:
        yield running.url()


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server_url: str) -> str:
    """A migrated PostgreSQL database for all tests of this process."""

    async def make() -> None:
        connection = await asyncpg.connect(postgres_server_url)
        await connection.execute("DROP DATABASE IF EXISTS priohook_test WITH (FORCE)")
        await connection.execute("CREATE DATABASE priohook_test")
        await connection.close()
        async with engines.engine_for(url) as engine:
            await migrations.migrate(engine)

    url = postgres_server_url.rpartition("/")[0] + "/priohook_test"
    asyncio.run(make())
    return url


@pytest.fixture(scope="session")
def empty_postgres(migrated_postgres: str) -> Iterator[Callable[[], None]]:
    """Empties the tables that hold something, by one connection: opening one takes longer than the rest."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(migrated_postgres))
    yield lambda: loop.run_until_complete(_empty(connection))
    loop.run_until_complete(connection.close())
    loop.close()


@pytest.fixture
def postgres_url(migrated_postgres: str, empty_postgres: Callable[[], None]) -> Iterator[str]:
    """A migrated PostgreSQL database, which is emptied at the end."""
    yield migrated_postgres
    empty_postgres()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"

    async def make() -> None:
        async with engines.engine_for(f"sqlite+aiosqlite:///{path}") as engine:
            await migrations.migrate(engine)

    asyncio.run(make())
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    shutil.copy(migrated_sqlite, tmp_path / "priohook.db")
    return f"sqlite+aiosqlite:///{tmp_path / 'priohook.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated and empty database. Each test runs once on SQLite and once on PostgreSQL."""
    return str(request.getfixturevalue(f"{'sqlite' if request.param == 'sqlite' else 'postgres'}_url"))


async def _empty(connection: asyncpg.Connection) -> None:
    filled = await connection.fetchval(FILLED, list(columns.Base.metadata.tables))
    if filled:
        await connection.execute("SET session_replication_role = replica")  # the audit's triggers refuse it
        await connection.execute(f"TRUNCATE {filled} CASCADE")


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def lines(log: io.StringIO) -> Callable[[], list[dict[str, Any]]]:
    """The log lines of an application that has ended."""
    return lambda: [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.fixture
def serve(log: io.StringIO) -> Callable[..., Any]:
    """`async with serve(database_url, max_body_bytes=10) as app`: a running ASGI application."""

    @asynccontextmanager
    async def serve(url: str, **changes: Any) -> AsyncIterator[ASGIApp]:
        clients = {name: ClientSettings.model_validate(each) for name, each in CLIENTS.items()}
        settings = Settings(**{"database_url": url, "clients": clients, "token_keys": [TOKEN_KEY], **changes})
        writer = LogWriter(log, style="json")
        app = create_app(settings, log=writer)
        async with app.lifespan_context(app) as state:
            yield _with_state(app, dict(state or {}))

    return serve


@pytest.fixture
def start(serve: Callable[..., Any]) -> Callable[..., Any]:
    """`async with start(database_url, max_body_bytes=10) as client`: a client of an application in this process."""

    @asynccontextmanager
    async def start(url: str, **changes: Any) -> AsyncIterator[httpx2.AsyncClient]:
        async with serve(url, **changes) as app:
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://priohook") as client:
                yield client

    return start


@pytest.fixture
async def client(database_url: str, start: Callable[..., Any]) -> AsyncIterator[httpx2.AsyncClient]:
    async with start(database_url) as client:
        yield client


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with engines.engine_for(database_url) as engine:
        yield engine


@pytest.fixture
def stored(engine: AsyncEngine) -> Callable[[], Any]:
    """`await stored()`: all rows of `events`, oldest first."""

    async def rows() -> Any:
        async with engine.connect() as connection:
            return (await connection.execute(select(*Event.__table__.columns).order_by(Event.id))).all()

    return rows


@pytest.fixture
def count(engine: AsyncEngine) -> Callable[[], Any]:
    async def number() -> int:
        async with engine.connect() as connection:
            return int(await connection.scalar(select(func.count()).select_from(Event)) or 0)

    return number


def _with_state(app: ASGIApp, state: dict[str, Any]) -> ASGIApp:
    """Gives each request a copy of the lifespan's state, as a server does."""

    async def with_state(scope: ASGIScope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return with_state


@pytest.fixture
async def workers(engine: AsyncEngine) -> Workers:
    """Workers that know the destination `erp`."""
    workers = Workers(engine)
    await workers.register()
    return workers

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from app.cli.main import main
from app.cli.streams import Stream
from app.database.engines import engine_for
from app.events.rows import NewEvent
from app.events.tables import Status
from tests.conftest import payload
from tests.deliveries.workers import Workers
from tests.events.stores import new_event, running

NOON = datetime(2026, 8, 12, 12, tzinfo=UTC)
COLOURS = re.compile("\x1b\\[[0-9;]*m")
NOTIFICATION = payload("01-notification-order-create")


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    written: bytes
    errors: str

    @property
    def text(self) -> str:
        return self.written.decode()


Run = Callable[..., Done]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("events", "list")` runs a command to its end."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["priohook", *arguments])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        written, errors = capfdbinary.readouterr()
        return Done(int(ended.value.code or 0), written, errors.decode())

    return run


@pytest.fixture
def fill(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[UUID]]:
    """`fill(event, …)` stores events in the configured database and returns their ids."""
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", database_url)

    async def store(events: tuple[NewEvent, ...]) -> list[UUID]:
        async with running(database_url) as store:
            return [(await store.append(each)).id for each in events]

    return lambda *events: asyncio.run(store(events))


@pytest.fixture
def working(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`working(function)` calls an async function with workers whose time is an hour ago, and returns its result."""
    monkeypatch.setenv("PRIOHOOK_DATABASE_URL", database_url)

    async def go(work: Callable[[Workers], Awaitable[Any]]) -> Any:
        async with engine_for(database_url) as engine:
            workers = Workers(engine)
            workers.now = datetime.now(UTC) - timedelta(hours=1)
            await workers.register()
            return await work(workers)

    return lambda work: asyncio.run(go(work))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`terminal(80)` makes standard output a terminal with 80 columns."""

    def terminal(columns: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(Stream, "isatty", lambda _: True)

    return terminal


def refused_event(key: str, body: bytes, **columns: object) -> NewEvent:
    """A quarantined event."""
    reason = "415: The content type is not JSON."
    return new_event(key, status=Status.QUARANTINED.value, reason=reason, body=body, **columns)

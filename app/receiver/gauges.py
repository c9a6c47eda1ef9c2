"""What a receiver says of itself every few seconds: beside its beat, and for its metrics."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.health import Health
from app.events.store import EventStore
from app.telemetry.logs import LogWriter
from app.telemetry.processes import Gauges
from app.telemetry.snapshots import Gauges as Measured
from app.telemetry.snapshots import Publisher, connections_of


class State(TypedDict):
    """What this module needs from the application's lifespan."""

    events: EventStore
    engine: AsyncEngine
    health: Health


def gauges_of(store: EventStore, known: Health, log: LogWriter) -> Gauges:
    """What waits here now, and what was lost of the log."""
    spool = known.spool
    return Gauges(
        waiting_events=store.events,
        spooled_events=spool.events if spool else None,
        spooled_bytes=spool.size if spool else None,
        log_lines_dropped=log.dropped,
    )


@asynccontextmanager
async def publishing(publisher: Publisher | None, state: State, log: LogWriter) -> AsyncIterator[None]:
    """Publishes what a receiver counts, if it does; `state` may be replaced meanwhile."""
    if publisher is None:
        yield
        return

    def measured() -> Measured:
        now = gauges_of(state["events"], state["health"], log)
        publisher.meter.dropped(now.log_lines_dropped or 0)
        connections = connections_of(state["engine"].pool)
        return {
            ("priohook_waiting_events", ()): now.waiting_events or 0,
            ("priohook_spooled_events", ()): now.spooled_events or 0,
            ("priohook_spooled_bytes", ()): now.spooled_bytes or 0,
        } | {("priohook_database_connections", (publisher.process, of)): n for of, n in connections.items()}

    async with publisher.running(measured):
        yield

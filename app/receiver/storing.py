"""The store of a receiver, as the settings want it: on SQLite or PostgreSQL, with a spool or without."""

from collections.abc import Awaitable, Callable

from app.database.engines import is_sqlite
from app.database.health import Health
from app.events.handover import Handover
from app.events.postgres import PostgresWriter
from app.events.spool import EventSpool
from app.events.sqlite import SQLiteWriter
from app.events.store import EventStore, Writer
from app.receiver.judgement import without_what_was_read
from app.settings.model import Settings
from app.telemetry.meter import Meter


def store_for(
    settings: Settings,
    stored: Callable[[int], None],
    known: Health,
    *,
    before: Callable[[], Awaitable[None]] | None,
    meter: Meter | None,
    handover: Handover | None = None,
) -> EventStore:
    """The store of a receiver; it is not running yet.

    Args:
        settings: Complete.
        stored: Called after each commit, with the number of events.
        known: Is told how the database and the spool are.
        before: Called before the first event goes to the database from the spool; None if the database was checked.
        meter: Counts for the metrics, if they are wanted.
        handover: Takes the events that a SQLite file takes no more, since all has left it.
    """
    url = settings.database_url
    writer: Writer = SQLiteWriter(url) if is_sqlite(url) else PostgresWriter(url, timeout=settings.commit_timeout)
    return EventStore(
        writer,
        max_batch=settings.commit_max_batch,
        max_waiting=settings.max_waiting_events,
        max_waiting_bytes=settings.max_waiting_bytes,
        timeout=settings.commit_timeout,
        stored=stored,
        health=known,
        spool=_spool(settings, stored, known, before),
        successor=handover,
        meter=meter,
    )


def _spool(
    settings: Settings, stored: Callable[[int], None], known: Health, before: Callable[[], Awaitable[None]] | None
) -> EventSpool | None:
    if settings.spool is None:
        return None
    return EventSpool(
        settings.spool,
        max_bytes=settings.spool_max_bytes,
        max_batch=settings.commit_max_batch,
        max_waiting=settings.max_waiting_events,
        max_waiting_bytes=settings.max_waiting_bytes,
        timeout=settings.commit_timeout,
        unread=without_what_was_read,
        health=known,
        before=before,
        moved=stored,
    )

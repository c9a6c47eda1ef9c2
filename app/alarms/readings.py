"""All that is needed to judge whether all is well, read at one moment by a fixed number of bounded queries."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.metadata import version

from sqlalchemy import func, select, text, true
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.alarms.changes import Firing
from app.alarms.kept import firing_alarms, untold_notices
from app.alarms.places import Disk, SpoolFolder, disks, spool_folder
from app.audit.queries import first_entry_at
from app.database.schema import SchemaTooNew, check_revision, known_revisions, newer
from app.database.standbys import Standbys, read_standbys
from app.deliveries.standings import Backlog, RunningReplay, Standing, running_replays, standings, undispatched
from app.events.arrivals import (
    LastAccepted,
    LastEvent,
    Numbers,
    Refusal,
    copies_of_newest,
    last_accepted,
    last_by_type,
    numbers,
    refusals_kept,
    sender_addresses,
)
from app.reconciliation.outcomes import Outcome, newest_run
from app.retention.last_backup import LastBackup, last_backup
from app.retention.space import Growth, database_bytes, growth, stored_events
from app.settings.model import Settings
from app.telemetry.processes import last_beat, list_processes
from app.telemetry.refusals import sum_refusals
from app.telemetry.uses import client_uses

TEN_MINUTES, HOUR = timedelta(minutes=10), timedelta(hours=1)
MOST_REFUSED = 100
MOST_PROCESSES = 100
EXPIRES_SOON = timedelta(days=30)
PREFER_INDEXES = func.set_config("enable_seqscan", "off", true())
"""Selected on PostgreSQL: until the transaction ends, it reads no whole table that was small when it was analyzed."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """A credential that has an end: when, and whose it is."""

    client: str
    at: datetime
    is_replaced: bool
    """Whether another client with the same username is valid for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSeen:
    """A receiver or a worker as it last said of itself."""

    kind: str
    name: str
    host: str
    pid: int
    version: str
    settings: str
    """A digest, the same for the same settings."""
    started_at: datetime
    beat_at: datetime
    is_running: bool
    """Otherwise it fell silent: it died, or cannot reach the database."""
    waiting_events: int | None
    """Received events that wait to be stored."""
    spooled_events: int | None
    spooled_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Requests that were refused for the same reason, from one address."""

    door: str
    status: int
    reason: str
    address: str
    client: str
    """The configured client that was meant; empty if there is none."""
    requests: int
    last_at: datetime
    """The minute of the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientUse:
    """When a client was last let in, and when and why it was last refused."""

    client: str
    succeeded_at: datetime | None
    refused_at: datetime | None
    refused_status: int | None
    refused_reason: str | None
    refused_address: str | None
    same_username: tuple[str, ...] = ()
    """The other clients with its username. A wrong secret may have been meant for any of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """The state of everything at one moment."""

    at: datetime
    version: str
    """The release that read this."""
    database: str
    """`SQLite 3.46.1` or `PostgreSQL 17.2`."""
    database_bytes: int
    growth: Growth | None
    """How fast the database grows; None while too few events are stored to tell."""
    last_backup: LastBackup | None
    """The last `priohook backup` of the SQLite file; None if there was none, and on PostgreSQL."""
    schema: str
    """The newest migration that ran."""
    schema_is_newer: bool
    """Whether it is of a newer release than this one."""

    events: int
    """About how many are stored."""
    keeps_events_for: timedelta | None
    """The age at which accepted events are deleted; None if they are kept for ever."""
    numbers: Numbers
    last_events: tuple[LastEvent, ...]
    last_accepted: tuple[LastAccepted, ...]
    copies_of_newest: int
    """How many copies came of the newest thousand events."""
    quarantine: tuple[Refusal, ...]
    """Why the newest quarantined events are there that nobody has judged again."""

    refused_last_10_minutes: tuple[Refused, ...]
    refused_last_hour: tuple[Refused, ...]
    """Those of clients, then those of strangers; of each, the most frequent first."""
    clients: tuple[ClientUse, ...]
    processes: tuple[ProcessSeen, ...]
    """Those that run, and those that fell silent within the last hour, the last to beat first."""

    undispatched: Backlog
    destinations: tuple[Standing, ...]
    replays: tuple[RunningReplay, ...]
    reconciliation: Outcome | None
    """The newest `priohook reconcile`; None if there was none."""

    disks: tuple[Disk, ...]
    """On the host that read this."""
    spool: SpoolFolder | None
    """On the host that read this."""
    credentials: tuple[Expiry, ...]
    """Those that have expired or will do so within 30 days, the first to expire first."""
    sender_addresses: tuple[str, ...] = ()
    """From where accepted events came lately."""
    alarms: tuple[Firing, ...] = ()
    """Those that fire, the last to start first."""
    untold: int = 0
    """How many notices of alarms wait to be told."""
    receiver_at: datetime | None = None
    """When a receiver last gave a sign of life, also one that has ended; None if none did within a day."""
    first_action_at: datetime | None = None
    """When the oldest action was done that the audit keeps. The first start of a program is one."""
    standbys: Standbys | None = None
    """Of PostgreSQL; None on SQLite."""


async def read(connection: AsyncConnection, settings: Settings, *, now: datetime) -> Readings:
    """The readings. Takes tens of milliseconds at a million events; the caller has the deadline.

    Args:
        connection: In no transaction yet.
        settings: Complete, with what is kept beside a SQLite database.
        now: The time.

    Raises:
        SchemaNotCurrent: this release cannot read the database.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(select(PREFER_INDEXES))
    schema = await check_revision(connection)
    try:
        return await _read(connection, settings, schema, now=now)
    except (ProgrammingError, OperationalError) as error:  # a column or a table is missing
        if schema in known_revisions():
            raise
        raise SchemaTooNew(newer(schema)) from error


async def _read(connection: AsyncConnection, settings: Settings, schema: str, *, now: datetime) -> Readings:
    return Readings(
        at=now,
        version=version("priohook"),
        database=await _database(connection),
        database_bytes=await database_bytes(connection),
        growth=await growth(connection, now=now),
        last_backup=await last_backup(connection),
        schema=schema,
        schema_is_newer=schema not in known_revisions(),
        events=await stored_events(connection),
        keeps_events_for=settings.retention.accepted if settings.retention else None,
        numbers=await numbers(connection, now=now),
        last_events=tuple(await last_by_type(connection)),
        last_accepted=tuple(await last_accepted(connection)),
        copies_of_newest=await copies_of_newest(connection),
        quarantine=tuple(await refusals_kept(connection)),
        refused_last_10_minutes=tuple(await _refused(connection, since=now - TEN_MINUTES)),
        refused_last_hour=tuple(await _refused(connection, since=now - HOUR)),
        clients=tuple(await _clients(connection, settings)),
        processes=tuple(await _processes(connection, now=now)),
        undispatched=await undispatched(connection),
        destinations=tuple(await standings(connection, settings.destinations, now=now)),
        replays=tuple(await running_replays(connection)),
        reconciliation=await newest_run(connection),
        disks=tuple(disks(settings)),
        spool=await spool_folder(settings),
        credentials=tuple(_expiring(settings, now=now)),
        sender_addresses=tuple(await sender_addresses(connection)),
        alarms=tuple(await firing_alarms(connection)),
        untold=await untold_notices(connection),
        receiver_at=await last_beat(connection, "receiver"),
        first_action_at=await first_entry_at(connection),
        standbys=await read_standbys(connection),
    )


def without_errors(readings: Readings) -> Readings:
    """The readings without the errors of consumers, which may hold a guest's name."""

    def silent(standing: Standing) -> Standing:
        return replace(standing, stuck=tuple(replace(each, last_error=None) for each in standing.stuck))

    return replace(readings, destinations=tuple(silent(each) for each in readings.destinations))


async def _refused(connection: AsyncConnection, *, since: datetime) -> list[Refused]:
    return [
        Refused(
            door=each.door,
            status=each.status,
            reason=each.reason,
            address=each.address,
            client=each.client,
            requests=each.requests,
            last_at=each.last,
        )
        for each in await sum_refusals(connection, since=since, limit=MOST_REFUSED)
    ]


async def _clients(connection: AsyncConnection, settings: Settings) -> list[ClientUse]:
    by_username: dict[str, list[str]] = {}
    for name, client in settings.clients.items():
        by_username.setdefault(client.username or name, []).append(name)
    sharing = {name: set(names) - {name} for names in by_username.values() for name in names}
    uses = (await client_uses(connection)).values()
    return [ClientUse(**use._asdict(), same_username=tuple(sorted(sharing.get(use.client, ())))) for use in uses]


async def _processes(connection: AsyncConnection, *, now: datetime) -> list[ProcessSeen]:
    found = []
    for seen in await list_processes(connection, since=now - HOUR):
        if (state := seen.state(now=now)) != "ended":
            kept = {name: value for name, value in seen._asdict().items() if name in ProcessSeen.__slots__}
            found.append(ProcessSeen(**kept, is_running=state == "running"))
    return found[:MOST_PROCESSES]


async def _database(connection: AsyncConnection) -> str:
    if connection.dialect.name == "sqlite":
        return f"SQLite {await connection.scalar(text('SELECT sqlite_version()'))}"
    return f"PostgreSQL {await connection.scalar(text('SHOW server_version'))}".split(" (")[0]


def _expiring(settings: Settings, *, now: datetime) -> list[Expiry]:
    lasting: dict[str, list[datetime | None]] = {}
    for name, client in settings.clients.items():
        lasting.setdefault(client.username or name, []).append(client.not_after)
    found = []
    for name, client in settings.clients.items():
        if (at := client.not_after) is not None and at <= now + EXPIRES_SOON:
            ends = lasting[client.username or name]
            found.append(Expiry(name, at, is_replaced=any(end is None or end > max(at, now) for end in ends)))
    return sorted(found, key=lambda expiry: expiry.at)

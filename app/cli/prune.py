"""The command `priohook prune`."""

import asyncio
import shutil
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import click
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.chain import Act
from app.audit.tables import Action
from app.audit.tables import Kind as AuditKind
from app.cli.confirming import confirm
from app.cli.filters import giving_reason
from app.cli.opened import acting, load_settings, opened
from app.cli.output import cell, say, say_json
from app.cli.progress import progress_bar
from app.database.engines import is_sqlite, prefer_indexes, sqlite_path
from app.retention.cutoffs import Kind
from app.retention.plans import Planned, plan
from app.retention.pruning import RESTS, OtherDeletes, prune
from app.retention.space import TableSpace, database_bytes, pages, shrink, table_spaces
from app.settings.retention import RetentionSettings

VACUUM_BYTES_PER_SECOND = 50_000_000  # of a disk that is not fast
MEGA = 1_000_000
NOTHING = "Nothing is ever deleted: the settings have no table retention."

NAMES = {
    Kind.ATTEMPTS: "failed attempts",
    Kind.DELIVERIES: "deliveries",
    Kind.REPLAYS: "replays",
    Kind.QUARANTINED: "quarantined events",
    Kind.ACCEPTED: "accepted events",
    Kind.COPIES: "keys of deleted events",
    Kind.AUDIT: "entries of the audit",
}


@click.command(name="prune")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option("--fast", is_flag=True, help="Delete without rests: receivers and workers wait longer meanwhile.")
@click.option("--vacuum", is_flag=True, help="SQLite: then write the whole file anew. New events wait meanwhile.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation of --vacuum.")
@giving_reason
@click.option("--json", "as_json", is_flag=True, help="One JSON object: plan, deleted rows, and the space on disk.")
def prune_(*, dry_run: bool, fast: bool, vacuum: bool, yes: bool, reason: str | None, as_json: bool) -> None:
    """Delete what is older than the setting retention says, as a worker does hourly, and show the space on disk."""
    settings = load_settings()
    ages = settings.retention
    if ages is None and not (vacuum or dry_run):
        raise click.UsageError(f"{NOTHING} Set it, or see the space on disk with --dry-run.")
    if vacuum:
        _require_room(settings.database_url)
    planned = asyncio.run(_plan(ages)) if ages is not None else {}
    if not as_json:
        _print_plan(planned)
        if ages is None:
            say(NOTHING)
    deleted: dict[Kind, int] | None = None
    if not dry_run:
        if vacuum and not yes:
            _confirm_vacuum(settings.database_url)
        deleted = _prune(ages, planned, rests=0.0 if fast else RESTS, reason=reason)
        if vacuum:
            asyncio.run(_vacuum())
    space = asyncio.run(_space())
    if as_json:
        say_json({"plan": {kind: planned[kind]._asdict() for kind in planned}, "deleted": deleted, "space": space})
        return
    for kind, number in (deleted or {}).items():
        say(f"deleted {number:>12,} {NAMES[kind]}")
    _print_space(space)


async def _plan(ages: RetentionSettings) -> dict[Kind, Planned]:
    async with opened(load_settings(), writes=False) as engine, engine.connect() as connection:
        return await plan(connection, ages, now=datetime.now(UTC))


def _prune(
    ages: RetentionSettings | None, planned: dict[Kind, Planned], *, rests: float, reason: str | None
) -> dict[Kind, int]:
    """Deletes, with a progress bar on a terminal. On Ctrl-C it exits with 1; the same command then does the rest."""
    if ages is None:
        return {}
    before = {kind: each.before.isoformat() for kind, each in planned.items()}
    act = Act(action=Action.PRUNE, kind=AuditKind.DATABASE, reason=reason, details={"before": before})
    with progress_bar() as bar:
        tasks = {kind: bar.add_task(NAMES[kind], total=each.rows) for kind, each in planned.items()}
        try:
            deleted = asyncio.run(_delete(act, ages, rests, lambda kind, number: bar.advance(tasks[kind], number)))
            return {kind: deleted[kind] for kind in planned}
        except KeyboardInterrupt:
            bar.stop()
            raise click.ClickException(
                "Interrupted. What was deleted stays so; the same command does the rest."
            ) from None
        except OtherDeletes:
            bar.stop()
            raise click.ClickException(
                "Another process deletes old rows at this moment, such as a worker. Try again later."
            ) from None


async def _delete(act: Act, ages: RetentionSettings, rests: float, told: Any) -> Counter[Kind]:
    async with opened(load_settings()) as engine:
        prefer_indexes(engine)
        async with acting(engine, act):  # before the deletions, which commit one after the other
            pass
        deleted = await prune(engine, ages, now=datetime.now(UTC), rests=rests, told=told)
        await shrink(engine, rests=rests)
        await _copy_log(engine)
        return deleted


async def _copy_log(engine: AsyncEngine) -> None:
    """Lets the file of SQLite shrink now; otherwise it does when the receiver next copies its log."""
    if engine.dialect.name == "sqlite":
        async with engine.connect() as connection:
            await connection.execute(text("PRAGMA wal_checkpoint(PASSIVE)"))


async def _vacuum() -> None:
    async with opened(load_settings()) as engine, engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute("VACUUM")  # outside any transaction
        await connection.execute(text("PRAGMA wal_checkpoint(PASSIVE)"))


def _require_room(url: str) -> None:
    if not is_sqlite(url):
        raise click.UsageError(
            "--vacuum is for SQLite. On PostgreSQL autovacuum makes the space of deleted rows free for new ones; "
            "docs/retention.md says how to give it back to the disk."
        )
    path = sqlite_path(url)
    if not path.exists():
        raise click.UsageError(f"There is no database {path}.")
    needed, free = 2 * path.stat().st_size, shutil.disk_usage(path.resolve().parent).free
    if free < needed:
        raise click.ClickException(
            f"--vacuum needs {needed / MEGA:,.0f} MB of free disk, and {free / MEGA:,.0f} MB are free."
        )


def _confirm_vacuum(url: str) -> None:
    size = sqlite_path(url).stat().st_size
    confirm(
        f"Write all of the file anew? It needs up to {2 * size / MEGA:,.0f} MB of free disk for that time. New events "
        f"wait for about {max(1, round(size / VACUUM_BYTES_PER_SECOND))} s, and are answered 503 after commit_timeout.",
        yes=False,
    )


async def _space() -> dict[str, Any]:
    async with opened(load_settings(), writes=False) as engine, engine.connect() as connection:
        size = await database_bytes(connection)
        if engine.dialect.name == "sqlite":
            found = await pages(connection)
            return {"bytes": size, "free_bytes": found.free * found.bytes, "shrinks": found.shrinks}
        return {"bytes": size, "tables": [table._asdict() for table in await table_spaces(connection)]}


def _print_plan(planned: dict[Kind, Planned]) -> None:
    for kind, each in planned.items():
        say(f"old enough {each.rows:>9,} {NAMES[kind]} from before {cell(each.before)}")
        for reason, number in each.kept.items():
            say(f"must stay  {number:>9,} {reason}")


def _print_space(space: dict[str, Any]) -> None:
    say(f"database {space['bytes'] / MEGA:>11,.1f} MB")
    if "tables" not in space:
        say(f"of it free {space['free_bytes'] / MEGA:>9,.1f} MB, for new events")
        if not space["shrinks"]:
            say("The file was made by an earlier release and cannot shrink: `priohook prune --vacuum` changes that.")
        return
    for table in (TableSpace(**row) for row in space["tables"]):
        share = 100 * table.dead / max(1, table.rows + table.dead)
        vacuumed = f"vacuumed {cell(table.vacuumed_at)}" if table.vacuumed_at else "not vacuumed yet"
        say(f"{table.name:<15} {table.bytes / MEGA:>9,.1f} MB, {share:.0f} % dead rows, {vacuumed}")

"""The commands `priohook backup` and `priohook restore`."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from sqlalchemy import exists, select

from app.alarms.words import counted
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.auth.kept import NAMES, kept_path
from app.cli.confirming import confirm
from app.cli.filters import giving_reason
from app.cli.opened import acting, change, load_settings, opened, read
from app.cli.output import cell, say, say_json
from app.cli.progress import progress_bar
from app.database.engines import is_sqlite, sqlite_path
from app.database.schema import SchemaNotCurrent
from app.deliveries.tables import Claimed
from app.retention.archiving import archiving
from app.retention.backups import back_up, remember
from app.retention.holding import Standstill, come_to_rest
from app.retention.manifests import BackupProblem, manifest_path, read_manifest, verify
from app.retention.restoring import prepare, remove, swap, unused
from app.settings.model import Settings

ADVICE = (
    "PostgreSQL is backed up by its own tools. pg_basebackup with an archive of the log restores any moment; "
    "so do pgBackRest, Barman, WAL-G and most providers. pg_dump copies one moment: later events are lost."
)
PATH = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=PATH, required=False)
@giving_reason
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the manifest, or what PostgreSQL says.")
def backup(file: Path | None, *, reason: str | None, as_json: bool) -> None:
    """Copy a SQLite database to FILE while it is in use. On PostgreSQL: check that its log is archived."""
    settings = load_settings()
    if not is_sqlite(settings.database_url):
        _check_archive(as_json=as_json)
        return
    if file is None:
        raise click.UsageError("Name the FILE to write.")
    asyncio.run(_check_database(settings))
    try:
        with progress_bar() as bar:
            task = bar.add_task("bytes", total=None)
            manifest = back_up(
                settings.database_url, file, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
    except BackupProblem as error:
        raise click.ClickException(str(error)) from None
    act = Act(action=Action.BACKUP, kind=Kind.DATABASE, target=str(file.resolve()), reason=reason)
    change(act, remember, str(file.resolve()), manifest)
    if as_json:
        say_json(manifest)
        return
    say(f"{file} holds {counted(manifest.rows.get('events', 0), 'event')}, everything until {cell(manifest.made_at)}.")
    say(f"Its manifest is {manifest_path(file)}: keep both.")
    kept = [path for name in NAMES if (path := kept_path(settings, name)) is not None and path.exists()]
    if kept:
        say(f"Not in it, keep them too: {', '.join(map(str, kept))}, which hold secrets.")


@click.command()
@click.argument("file", type=PATH, required=False)
@click.option("--deliver-again", is_flag=True, help="Send what was pending in the backup, though it may have arrived.")
@click.option(
    "--already-restored", is_flag=True, help="The database was restored by other means: only pause and hold deliveries."
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@giving_reason
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what is paused and held.")
def restore(
    file: Path | None, *, deliver_again: bool, already_restored: bool, yes: bool, reason: str | None, as_json: bool
) -> None:
    """Put the backup FILE in the place of a SQLite database. Nothing is sent until destinations are resumed."""
    settings = load_settings()
    act = Act(action=Action.RESTORE, kind=Kind.DATABASE, target=None if file is None else str(file), reason=reason)
    act.details = {"deliver_again": deliver_again}
    if already_restored == (file is not None):
        raise click.UsageError("Give either FILE or --already-restored.")
    if file is None:
        confirm("Pause all destinations, and hold what is pending? No priohook may run meanwhile.", yes=yes)
        _tell(asyncio.run(_come_to_rest(settings, act, deliver_again=deliver_again)), as_json=as_json)
        return
    if not is_sqlite(settings.database_url):
        raise click.UsageError(f"{ADVICE} Restore with them, then run `priohook restore --already-restored`.")
    try:
        standstill, replaced = _restore(settings, file, deliver_again=deliver_again, yes=yes)
    except BackupProblem as error:
        raise click.ClickException(str(error)) from None
    asyncio.run(_record(settings, act))
    _tell(standstill, as_json=as_json)
    if replaced is not None and not as_json:
        say(f"The database that was there is now {replaced}.")


async def _check_database(settings: Settings) -> None:
    async with opened(settings, writes=False):
        pass


def _check_archive(*, as_json: bool) -> None:
    found = read(archiving)
    problem = found.problem()
    if as_json:
        say_json(found._asdict() | {"problem": problem})
    else:
        say(ADVICE)
        if problem is None:
            say(f"The write-ahead log is archived, the last time at {cell(found.last_archived_at)}.")
    if problem is not None:
        raise click.ClickException(problem)


def _restore(settings: Settings, file: Path, *, deliver_again: bool, yes: bool) -> tuple[Standstill, Path | None]:
    if not file.exists():
        raise BackupProblem(f"There is no file {file}.")
    target, now = sqlite_path(settings.database_url), datetime.now(UTC)
    manifest = read_manifest(file)
    verify(file, manifest)
    with unused(target, manifest):
        wanted_types = {name: destination.events for name, destination in settings.destinations.items()}
        copy, standstill = prepare(file, target, manifest, wanted_types, deliver_again=deliver_again, now=now)
        try:
            confirm(
                f"Put {file} of {cell(manifest.made_at)}, with {counted(manifest.rows.get('events', 0), 'event')}, "
                f"in the place of {target}? {_what_is_held(standstill)}",
                yes=yes,
            )
            return standstill, swap(copy, target, now=now)
        finally:
            remove(copy)


async def _come_to_rest(settings: Settings, act: Act, *, deliver_again: bool) -> Standstill:
    wanted_types = {name: destination.events for name, destination in settings.destinations.items()}
    now = datetime.now(UTC)
    async with opened(settings) as engine, acting(engine, act) as connection:
        if await connection.scalar(select(exists().where(Claimed.ends_at > now))):
            raise click.ClickException("A worker is sending deliveries. Stop all of priohook first.")
        return await come_to_rest(connection, wanted_types, taken_at=now, deliver_again=deliver_again, now=now)


async def _record(settings: Settings, act: Act) -> None:
    """Records the restore in the database that was restored, unless that is of a release without an audit."""
    with suppress(SchemaNotCurrent):
        async with opened(settings) as engine, acting(engine, act):
            pass


def _what_is_held(standstill: Standstill) -> str:
    held = sum(each.deliveries for each in standstill.held)
    if held:
        return f"{held} deliveries were pending then and may have arrived since: they are held."
    return f"{standstill.pending} deliveries are sent once their destinations are resumed."


def _tell(standstill: Standstill, *, as_json: bool) -> None:
    if as_json:
        shown: dict[str, Any] = standstill._asdict() | {
            "held": {each.destination: each.deliveries for each in standstill.held}
        }
        say_json(shown)
        return
    say("The database is restored. Nothing is sent before you decide:")
    for each in standstill.held:
        say(f"{each.destination}: {each.deliveries} deliveries were pending in the backup, and may have arrived since.")
        say(f"  list them  priohook deliveries list --status dead --destination {each.destination}")
        say(f"  send them  priohook deliveries retry --destination {each.destination}")
        say(f"  or not     priohook deliveries drop --destination {each.destination}")
    for replay_id in standstill.replays:
        say(f"Replay {replay_id} is paused: priohook replays resume {replay_id}")
    for name in standstill.destinations:
        say(f"{name} is paused: priohook destinations resume {name}")

"""The commands under `priohook spool`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from app.alarms.words import counted
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.cli.filters import giving_reason
from app.cli.opened import acting, load_settings, opened
from app.cli.output import print_json_lines, say
from app.cli.tables import print_rows
from app.database.engines import is_sqlite
from app.events.moving import Mover
from app.events.postgres import PostgresWriter
from app.events.spool_contents import Content, content_of, spool_files
from app.events.spool_file import SpoolFile
from app.events.spool_problems import SpoolProblem
from app.receiver.judgement import without_what_was_read
from app.settings.model import Settings

EXISTING = click.Path(exists=True, path_type=Path)


@click.group()
def spool() -> None:
    """List and move events that wait in files of the spool."""


@spool.command(name="list")
@click.argument("path", type=EXISTING, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(path: Path | None, *, as_json: bool) -> None:
    """List the files of the spool in PATH, a file or a folder; by default in the folder of the settings."""
    folder = path or load_settings().spool
    if folder is None:
        raise click.UsageError("No spool is configured. Name its folder.")
    contents: list[Content] = []
    problems: list[SpoolProblem] = []
    for file in _files(folder):
        try:
            contents.append(content_of(file))
        except SpoolProblem as error:
            problems.append(error)
    if as_json:
        print_json_lines(content._asdict() for content in contents)
    else:
        print_rows((_shown(content) for content in contents), Content._fields)
    for problem in problems:
        say(str(problem), err=True)
    if problems:
        raise SystemExit(1)


@spool.command()
@click.argument("path", type=EXISTING)
@giving_reason
def move(path: Path, *, reason: str | None) -> None:
    """Move events into the database from PATH, a file or a folder of a receiver that never comes back."""
    settings = load_settings()
    if is_sqlite(settings.database_url):
        raise click.UsageError("The spool belongs to PostgreSQL. Set database_url to the database of its receiver.")
    if not asyncio.run(move_files(settings, _files(path), reason=reason)):
        raise SystemExit(1)


async def move_files(settings: Settings, files: Sequence[Path], *, reason: str | None, err: bool = False) -> bool:
    """Moves the events of these files into the database; whether nothing is left.

    Args:
        settings: With the database.
        files: The files.
        reason: Why, for the audit.
        err: Whether to say what was done on standard error.
    """
    all_moved = True
    moved = 0

    def count(events: int) -> None:
        nonlocal moved
        moved += events

    writer = PostgresWriter(settings.database_url, timeout=settings.commit_timeout)
    mover = Mover(writer, unread=without_what_was_read, moved=count)
    try:
        async with opened(settings) as engine:
            for each in files:
                moved = 0
                act = Act(action=Action.MOVE, kind=Kind.SPOOL, target=str(each), reason=reason)
                async with acting(engine, act):  # before the move, which commits by itself
                    pass
                try:
                    stays = await _move_file(mover, each)
                except SpoolProblem as problem:
                    stays = str(problem)
                if moved or stays is None:
                    say(f"{each}: {counted(moved, 'event')} moved.", err=err)
                if stays is not None:
                    say(f"{each}: {stays}", err=True)
                    all_moved = False
    finally:
        await writer.close()
    return all_moved


async def _move_file(mover: Mover, path: Path) -> str | None:
    """Moves a file's events. Says why the file stays; None if it is gone."""
    file = await asyncio.to_thread(SpoolFile.adopt, path)
    if file is None:
        in_use = await asyncio.to_thread(path.exists)
        return "it is in use: its process moves the events by itself." if in_use else None
    try:
        await mover.move_all(file)
    finally:
        await file.close()
    if file.unreadable:
        return f"{file.unreadable} events are on damaged pages and could not be read. Keep the file."
    stays = await asyncio.to_thread(path.exists)
    return "the database refuses the others. They stay in the file." if stays else None


def _files(path: Path) -> list[Path]:
    return spool_files(path) if path.is_dir() else [path]


def _shown(content: Content) -> dict[str, Any]:
    return content._asdict() | {"in_use": "in use" if content.in_use else "free"}

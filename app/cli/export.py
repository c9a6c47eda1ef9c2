"""The command `priohook events export`."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from app.alarms.words import counted
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.cli.exports import Export, NotContinued, export_file, lines_on
from app.cli.filters import choosing_events, giving_reason
from app.cli.ids import Id
from app.cli.opened import acting, load_settings, opened
from app.cli.output import say
from app.cli.progress import progress_bar
from app.events.exporting import count_exactly, whole_events
from app.events.queries import EventFilter
from app.events.tables import Event


@click.command()
@choosing_events
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write, or to continue if it was interrupted; by default standard output.",
)
@click.option("--tar", is_flag=True, help="A tar with the exact bytes of each body, and a manifest of their SHA-256.")
@click.option("--after", type=Id(Event.id, "event"), help="Only newer events than this one.")
@giving_reason
def export(*, output: Path | None, tar: bool, after: UUID | None, reason: str | None, **narrowing: Any) -> None:
    """Write events with their headers and bodies, the oldest first: one JSON object a line, or a tar."""
    if output is None and tar:
        raise click.UsageError("--tar needs --output.")
    narrowed = EventFilter(**narrowing)
    chosen = {name: str(value) for name, value in narrowing.items() if value is not None}
    target = str(output.resolve()) if output else None
    act = Act(action=Action.EXPORT, kind=Kind.DATABASE, target=target, reason=reason, details=chosen)
    try:
        with _export(output, tar=tar) as exported:
            if exported.last is not None:
                say(f"{output} is continued after event {exported.last}.", err=True)
            number = asyncio.run(_write(exported, act, narrowed, after=exported.last or after))
    except NotContinued as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        goes_on = f"The same command continues {output}." if output else "--after goes on after the last event."
        raise click.ClickException(f"Interrupted. {goes_on}") from None
    say(f"{counted(number, 'event')} exported.", err=True)


@contextmanager
def _export(output: Path | None, *, tar: bool) -> Iterator[Export]:
    if output is not None:
        with export_file(output, tar=tar) as exported:
            yield exported
        return
    yield lines_on(sys.stdout.buffer)
    sys.stdout.buffer.flush()


async def _write(exported: Export, act: Act, narrowed: EventFilter, *, after: UUID | None) -> int:
    """Returns how many events were written."""
    number = 0
    async with opened(load_settings()) as engine:
        async with acting(engine, act):  # before the first body is read
            pass
        with progress_bar() as bar:
            total = await count_exactly(engine, narrowed, after=after) if sys.stderr.isatty() else None
            task = bar.add_task("events", total=total)
            async for event in whole_events(engine, narrowed, after=after):
                exported.add(event)
                number += 1
                bar.advance(task)
    exported.end()
    return number

"""Changes of many deliveries of a destination: how many there are, and how far it is."""

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import click
from rich.progress import Progress

from app.audit.chain import Act
from app.cli.opened import acting, load_settings, opened, read
from app.cli.output import say
from app.cli.progress import progress_bar
from app.database.engines import prefer_indexes
from app.deliveries.batches import Change, change_in_batches
from app.deliveries.destination_queries import list_destinations
from app.deliveries.groups import Alike, count_alike
from app.deliveries.operations import ANY


def count(destination: str, status: str, alike: Alike = ANY) -> int:
    """How many deliveries of the destination have this status, and ended alike so far.

    Raises:
        click.UsageError: there is no such destination.
    """
    queues = {queue.name: queue for queue in read(list_destinations, now=datetime.now(UTC))}
    if destination not in queues:
        known = ", ".join(queues) or "none"
        raise click.UsageError(f"There is no destination {destination}. Known destinations: {known}.")
    if alike != ANY:
        return read(count_alike, destination, status, alike)
    return queues[destination].dead if status == "dead" else queues[destination].pending


def apply_to_all(act: Act, change: Change, destination: str, *, total: int) -> int:
    """Changes all deliveries of a destination that the operation concerns, and returns how many.

    On a terminal it shows the progress. On Ctrl-C it exits with 1; the same command then does the rest.

    Args:
        act: Is recorded with each transaction, which changes some.
        change: What is done.
        destination: The destination's name.
        total: How many there are to change.
    """
    with progress_bar() as bar:
        task = bar.add_task(destination, total=total)
        try:
            asyncio.run(_in_batches(act, change, destination, partial(bar.advance, task)))
        except KeyboardInterrupt:
            bar.stop()
            say(f"\n{_done(bar)} of {total} deliveries were changed. The same command does the rest.", err=True)
            sys.exit(1)
    return _done(bar)


def _done(bar: Progress) -> int:
    return int(bar.tasks[0].completed)


async def _in_batches(act: Act, change: Change, destination: str, advance: Callable[[float], None]) -> None:
    async with opened(load_settings()) as engine:
        prefer_indexes(engine)
        await change_in_batches(partial(acting, engine), act, change, destination, advance=advance)
